"""What flagst says of a prediction beyond PCC, GSC and SSC, on the rotation: depth, order, domains, markers, draws.

    python benchmarks/every_score.py --data-dir DIR --rotate C2 C3 C4 C5
    python benchmarks/every_score.py --data-dir DIR --rotate C2 C3 C4 C5 --figures FOLDER

Train on all sections but one, test on that one, in turn. All scores are those of ``flagst.tl.evaluate``,
``flagst.tl.domain_agreement`` and ``flagst.tl.marker_overlap``; the groups whose markers are compared are k-means
clusters of the measured expression, as these sections have no pathologist's labels. CRPS, energy score and the
variogram score between neighbouring spots are of 50 full draws; of a method that does not draw, of its one prediction.
Then: permutation tests of GSC and SSC, what the noise of the counts leaves reachable, which structure
``structure="auto"`` takes, and how coverage of 90 % intervals is spread over genes. ``--figures`` draws the front and
the calibration of the last split.
"""

import argparse
import tempfile
import time
from pathlib import Path

import _methods
import _table
import numpy as np
from her2st import ROTATION, collect, prepare, splits_of

STRUCTURES = (0.0, 0.5, 1.0)
BASELINES = ("Ridge", "DepthOracle", "IndependentNoise", "BalancedGaussian")
N_PERMUTATIONS, N_CLUSTERS, N_COMPONENTS = 199, 6, 20
#: Column of the clusters whose markers are compared.
CLUSTER = "measured_cluster"
#: Tables, each column -> score of a record.
STRUCTURE_COLUMNS = {
    "PCC": "pcc",
    "GSC": "gsc",
    "GSC without depth": "gsc_depth_residual",
    "SSC": "ssc",
    "Moran CCC": "moran_ccc",
    "Moran MAE": "moran_mae",
}
USE_COLUMNS = {
    "ARI": "ari",
    "NMI": "nmi",
    "top 20": "overlap20",
    "top 50": "overlap50",
    "CRPS": "crps",
    "energy": "energy",
    "variogram": "variogram",
}
COLUMNS = STRUCTURE_COLUMNS | USE_COLUMNS


def run(job: dict) -> list[dict]:
    """Records of one method: one per split, seed and structure."""
    import anndata

    from flagst._keys import OBS
    from flagst.data.measured import measured_expression
    from flagst.tl import domains

    records = []
    for split in job["splits"]:
        adata = anndata.read_h5ad(split["file"])
        train = adata[adata.obs[OBS.section].isin(split["train"]).to_numpy()].copy()
        test = adata[(adata.obs[OBS.section] == split["test"]).to_numpy()].copy()
        measured = measured_expression(test, target=job["target"])
        clusters = domains._clusters(measured, n_clusters=N_CLUSTERS, n_components=N_COMPONENTS, n_seeds=1)[0]
        test.obs[CLUSTER] = clusters.astype(str)
        for seed in job["seeds"]:
            model, structures = _methods.fit(train, job, seed)
            beside = of_flag(model, test, seed) if job["method"] == "FLAG" else {}
            for structure in structures:
                scores = scores_of(model, test, job["target"], structure, seed)
                records.append({"structure": structure, "seed": seed, "test": split["test"]} | scores | beside)
            if job["figures"]:
                draw_figures(model, train, test, Path(job["figures"]), job["target"])
    return records


def scores_of(model, test, target: str, structure: float | None, seed: int) -> dict[str, float]:
    """Every score of one prediction; those of draws where it is one, or where there is no other."""
    from flagst import metrics, tl
    from flagst._keys import LAYERS, OBS, RECORD, SLOT, UNS
    from flagst.data.measured import measured_expression

    dial = {} if structure is None else {"structure": structure}
    prediction = model.predict(test, seed=seed, **dial)
    row = tl.evaluate(prediction, permutations=N_PERMUTATIONS).iloc[0]
    (nulls,) = prediction.uns[UNS.flagst][SLOT.metrics][LAYERS.draw][RECORD.nulls].values()
    domains = tl.domain_agreement(prediction, n_clusters=N_CLUSTERS).loc["mean"]
    markers = tl.marker_overlap(prediction, groupby=CLUSTER).mean(numeric_only=True)
    found = {name: float(row[name]) for name in COLUMNS.values() if name in row}
    found |= {name: float(domains[name]) for name in ("ari", "nmi", "ari_sd", "ari_self", "nmi_self")}
    found |= {name: float(markers[name]) for name in ("overlap20", "overlap50", "chance20", "chance50")}
    found |= {f"p_{score}": float(nulls[score]["p_value"]) for score in ("gsc", "ssc")}
    found["pcc_depth_only"] = float(row["pcc_depth_only"])
    if structure in (1.0, None):
        measured = measured_expression(prediction, target=target)
        graph = _methods.graph_of(prediction, prediction.obs[OBS.section].iloc[0])
        draws = drawn(model, test, seed) if structure else np.asarray(prediction.layers[LAYERS.draw])[None]
        found["crps"] = metrics.crps(draws, measured)
        found["energy"] = metrics.energy_score(draws, measured)
        found["variogram"] = metrics.spatial_variogram_score(draws, measured, graph)
    return found


def drawn(model, test, seed: int) -> np.ndarray:
    """``(50, n_spots, n_genes)`` full draws, genes as in the table."""
    from flagst._keys import LAYERS

    if hasattr(model, "sample"):
        return model.sample(test, _methods.N_SAMPLES, seed=seed)[
            :, :, np.argsort(test.var_names.get_indexer(model.genes_))
        ]
    first = seed * _methods.N_SAMPLES
    return np.stack(
        [model.predict(test, structure=1.0, seed=first + i).layers[LAYERS.draw] for i in range(_methods.N_SAMPLES)]
    )


def of_flag(model, test, seed: int) -> dict:
    """What the model says of itself: automatic structure, coverage gene by gene, the ceiling of the section."""
    from flagst import metrics, tl
    from flagst._keys import PARAM, SLOT, UNS
    from flagst.data.measured import measured_expression
    from flagst.model.intervals import LEVELS

    auto = model.predict(test, structure="auto", seed=seed).uns[UNS.flagst][SLOT.params][PARAM.structure]
    measured = measured_expression(test[:, model.genes_], target=model.settings_.target)
    draws = model.sample(test, _methods.N_SAMPLES, seed=seed)
    inside = metrics.per_gene_coverage(*model.intervals_.move(draws, _methods.INTERVAL), measured)
    curves = model.intervals_.move(draws, tuple(LEVELS))
    below = [metrics.share_below(curves[:, :, [g]], LEVELS, measured[:, [g]])[1] for g in range(measured.shape[1])]
    by_lot = np.array([np.ptp(np.interp(_methods.INTERVAL, LEVELS, share)) for share in below])
    ceiling = tl.structure_ceiling(test.copy(), target=model.settings_.target).loc["mean"]
    return {
        "auto": float(auto),
        "coverage": inside.tolist(),
        "coverage_by_lot": np.where(np.isnan(inside), np.nan, by_lot).tolist(),
        "n_spots": test.n_obs,
        "ceiling": {score: float(ceiling[f"{score}_ceiling"]) for score in ("gsc", "ssc")},
        "reliability": {score: float(ceiling[f"{score}_reliability"]) for score in ("gsc", "ssc")},
    }


def draw_figures(model, train, test, folder: Path, target: str) -> None:
    """The front with baselines and yardsticks, and the calibration of draws and intervals."""
    from flagst import baselines, pl

    folder.mkdir(parents=True, exist_ok=True)
    others = [getattr(baselines, name)(train, target=target) for name in BASELINES if name != "DepthOracle"]
    for other in others:
        other.train()
    pl.front(model.front(test, baselines=others), save=folder / "front.png")
    inside = model.predict(test, quantiles=_methods.INTERVAL, n_samples=_methods.N_SAMPLES)
    samples = model.sample(test, _methods.N_SAMPLES)
    layers = {0.9: ("flagst_q05", "flagst_q95")}
    pl.calibration(inside, samples, genes=model.genes_, intervals=layers, save=folder / "calibration.png")


def score_table(records: list[dict], columns: dict[str, str]) -> str:
    """Means over test sections, with the sd of the seeds' means where they differ."""
    lines = [("method", "structure", *columns)]
    for (method, structure), group in _table.groups(records).items():
        cells = []
        for score in columns.values():
            if score not in group[0]:
                cells.append("")
                continue
            means = _table.seed_means(group, score)
            sd = f" ± {means.std(ddof=1):.3f}" if np.ptp(means) > 0 else ""
            cells.append(f"{means.mean():.3f}{sd}")
        lines.append((method, "" if structure is None else f"{structure:g}", *cells))
    return _table.aligned(lines)


def worst_p(records: list[dict]) -> dict[str, dict[str, float]]:
    """Largest p values of every method."""
    methods = dict.fromkeys(record["method"] for record in records)
    return {
        method: {p: max(r[p] for r in records if r["method"] == method) for p in ("p_gsc", "p_ssc")}
        for method in methods
    }


def beside_lines(records: list[dict]) -> list[str]:
    """What does not fit in a table: bands, nulls, ceiling, automatic structure, coverage over genes."""
    from flagst.metrics import binomial_band

    def mean(score: str) -> float:
        return float(np.mean([record[score] for record in records]))

    flag = [record for record in records if record["method"] == "FLAG" and record["structure"] == 1]
    lines = [
        f"Depth alone, as an oracle that reads the test section: PCC {mean('pcc_depth_only'):.3f}",
        f"Clusters of the measurement with one seed against the next: ARI {mean('ari_self'):.3f}, NMI "
        f"{mean('nmi_self'):.3f}; sd of a prediction's ARI over seeds of clustering {mean('ari_sd'):.3f}",
        f"Chance of the overlap of markers: top 20 {mean('chance20'):.3f}, top 50 {mean('chance50'):.3f}",
        f"Largest p value over structures, sections and seeds, {N_PERMUTATIONS} permutations, GSC and SSC: "
        + ", ".join(
            f"{method} {worst['p_gsc']:.3f} {worst['p_ssc']:.3f}" for method, worst in worst_p(records).items()
        ),
    ]
    if not flag:
        return lines
    ceiling, reliability = (
        {score: float(np.mean([r[name][score] for r in flag])) for score in ("gsc", "ssc")}
        for name in ("ceiling", "reliability")
    )
    auto = [record["auto"] for record in flag]
    lines += [
        f"Noise ceiling: GSC {ceiling['gsc']:.3f}, SSC {ceiling['ssc']:.3f}; a second measurement, with count noise "
        f"of its own: GSC {reliability['gsc']:.3f}, SSC {reliability['ssc']:.3f}",
        f'structure="auto" takes {min(auto):.2f} to {max(auto):.2f}, mean {np.mean(auto):.2f}',
    ]
    band = binomial_band(0.9, flag[0]["n_spots"])
    lines.append(
        f"Binomial band of a calibrated gene's coverage in {flag[0]['n_spots']} spots: {band[0]:.3f} to {band[1]:.3f}"
    )
    named = {"coverage": "zeros at a bound of zero inside", "coverage_by_lot": "zeros at a bound of zero by lot"}
    for name, how in named.items():
        genes = [np.array(record[name]) for record in flag]
        bands = [binomial_band(0.9, record["n_spots"]) for record in flag]
        varying = [c[~np.isnan(c)] for c in genes]
        within = [np.mean((c >= low) & (c <= high)) for c, (low, high) in zip(varying, bands, strict=True)]
        quantiles = np.mean([np.nanquantile(c, [0.05, 0.25, 0.5, 0.75, 0.95]) for c in genes], axis=0)
        lines.append(
            f"Coverage of 90 % intervals, {how}, quantiles 0.05, 0.25, 0.5, 0.75, 0.95 over genes: "
            f"{', '.join(f'{value:.3f}' for value in quantiles)}; {np.mean(within):.0%} of genes in their band"
        )
    return lines


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line to options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", default=list(ROTATION))
    parser.add_argument("--target", default="lognorm", choices=("log2", "lognorm"))
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, help="of FLAG; default: its own")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw front and calibration of the last split")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args(arguments)
    options.train = options.test = options.export = None
    options.splits = splits_of(parser, options)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    start, options = time.perf_counter(), parse(arguments)
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        files = prepare(options, Path(folder))["files"]
        splits = [split | {"file": files[split["test"]]} for split in options.splits]
        common = {
            "kind": "every_score",
            "preset": "default",
            "structures": STRUCTURES,
            "target": options.target,
            "settings": {} if options.max_steps is None else {"max_steps": options.max_steps},
            "figures": None,
        }
        jobs = [
            common | {"method": "FLAG", "splits": [split], "seeds": [seed]}
            for seed in reversed(options.seeds)
            for split in splits
        ]
        if options.figures:
            jobs[-1]["figures"] = str(options.figures.resolve())
        jobs += [common | {"method": name, "splits": splits, "seeds": options.seeds} for name in BASELINES]
        records = collect(jobs, Path(folder), n_processes=options.jobs)
    print(f"target {options.target}, seeds {' '.join(map(str, options.seeds))}\n")
    for columns in (STRUCTURE_COLUMNS, USE_COLUMNS):
        print(score_table(records, columns), end="\n\n")
    print("\n".join(beside_lines(records)))
    print(f"Wall time {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
