"""Scores beyond PCC, GSC and SSC, on the rotation: depth, Moran's I itself, domains, markers, samples.

    python benchmarks/every_score.py --data-dir DIR --rotate C2 C3 C4 C5
    python benchmarks/every_score.py --data-dir DIR --rotate C2 C3 C4 C5 --figures FOLDER

Train on all sections but one, test on that one, in turn. All scores are those of ``flagst.tl.evaluate``,
``flagst.tl.domain_agreement`` and ``flagst.tl.marker_overlap``; the groups whose markers are compared are k-means
clusters of the measured expression, as these sections have no pathologist's labels. CRPS, energy score and the
variogram score between neighbouring spots are of 50 samples at structure 1; of a method without samples, of its one
prediction. Then: the ceiling that the noise of the counts leaves, and how coverage of 90 % intervals is distributed
over genes. ``--figures`` draws the accuracy-structure curve and the calibration of the last split.
"""

import tempfile
from pathlib import Path

import common
import numpy as np

from flagst._keys import LAYERS

BASELINES = ("Ridge", "DepthOracle", "IndependentNoise", "BalancedGaussian")
N_CLUSTERS, N_COMPONENTS = 6, 20
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
DOMAIN_SCORES = ("ari", "nmi", "ari_sd", "ari_self", "nmi_self")
MARKER_SCORES = ("overlap20", "overlap50", "chance20", "chance50")
#: How a zero counts that is measured at a lower bound of zero.
COVERAGES = {"coverage": "zeros at a bound of zero inside", "coverage_by_share": "zeros by their probability"}


def run(job: dict) -> list[dict]:
    """Records of one method: one per split, seed and structure."""
    from flagst.tl import domains

    records = []
    for split in job["splits"]:
        train, test = common.read_split(split)
        measured = common.measured_expression(test, target=job["target"])
        clusters = domains._clusters(measured, n_clusters=N_CLUSTERS, n_components=N_COMPONENTS, n_seeds=1)[0]
        test.obs[CLUSTER] = clusters.astype(str)
        for seed in job["seeds"]:
            model, structures = common.fit(train, job, seed)
            beside = of_flag(model, test, seed) if job["method"] == "FLAG" else {}
            for structure in structures:
                scores = scores_of(model, test, job["target"], structure, seed)
                records.append({"structure": structure, "seed": seed, "test": split["test"]} | scores | beside)
            if job.get("figures"):
                draw_figures(model, train, test, Path(job["figures"]), job["target"])
    return records


def scores_of(model, test, target: str, structure: float | None, seed: int) -> dict[str, float]:
    """Every score of one prediction; those of samples at structure 1, or where there is only one prediction."""
    from flagst import metrics, tl

    prediction = model.predict(test, seed=seed, **({} if structure is None else {"structure": structure}))
    row = tl.evaluate(prediction).iloc[0]
    domains = tl.domain_agreement(prediction, n_clusters=N_CLUSTERS).loc["mean"]
    markers = tl.marker_overlap(prediction, groupby=CLUSTER).mean(numeric_only=True)
    found = {name: float(row[name]) for name in (*STRUCTURE_COLUMNS.values(), "pcc_depth_only")}
    found |= {name: float(domains[name]) for name in DOMAIN_SCORES}
    found |= {name: float(markers[name]) for name in MARKER_SCORES}
    if structure in (1.0, None):
        measured = common.measured_expression(prediction, target=target)
        samples = samples_of(model, test, seed) if structure else np.asarray(prediction.layers[LAYERS.draw])[None]
        found["crps"] = metrics.crps(samples, measured)
        found["energy"] = metrics.energy_score(samples, measured)
        found["variogram"] = metrics.spatial_variogram_score(samples, measured, common.graph_of(prediction))
    return found


def samples_of(model, test, seed: int) -> np.ndarray:
    """``(50, n_spots, n_genes)`` samples at structure 1, genes as in the table."""
    n = common.N_SAMPLES
    if hasattr(model, "sample"):
        return model.sample(test, n, seed=seed)[:, :, np.argsort(test.var_names.get_indexer(model.genes_))]
    seeds = range(seed * n, (seed + 1) * n)
    return np.stack([model.predict(test, structure=1.0, seed=i).layers[LAYERS.draw] for i in seeds])


def of_flag(model, test, seed: int) -> dict:
    """Coverage gene by gene, and the ceiling of the section."""
    from flagst import metrics, tl

    found, measured, _ = common.quantiles_of(model, test, seed)
    inside = metrics.per_gene_coverage(*(found[level] for level in common.INTERVAL), measured)
    by_share = [
        common.share_inside({level: values[:, [gene]] for level, values in found.items()}, measured[:, [gene]])
        for gene in range(measured.shape[1])
    ]
    ceiling = tl.structure_ceiling(test.copy(), target=model.settings_.target).loc["mean"]
    return {
        "coverage": inside.tolist(),
        "coverage_by_share": np.where(np.isnan(inside), np.nan, by_share).tolist(),
        "n_spots": test.n_obs,
        "ceiling": {score: float(ceiling[f"{score}_ceiling"]) for score in ("gsc", "ssc")},
        "reliability": {score: float(ceiling[f"{score}_reliability"]) for score in ("gsc", "ssc")},
    }


def draw_figures(model, train, test, folder: Path, target: str) -> None:
    """The accuracy-structure curve with its reference values, and the calibration of samples and intervals."""
    from flagst import baselines, pl

    folder.mkdir(parents=True, exist_ok=True)
    others = [getattr(baselines, name)(train, target=target) for name in BASELINES if name not in common.ORACLES]
    for other in others:
        other.train()
    pl.front(model.front(test, baselines=others), save=folder / "front.png")
    inside = model.predict(test, quantiles=common.INTERVAL, n_samples=common.N_SAMPLES)
    samples = model.sample(test, common.N_SAMPLES)
    layers = {0.9: ("flagst_q05", "flagst_q95")}
    pl.calibration(inside, samples, genes=model.genes_, intervals=layers, save=folder / "calibration.png")


def score_table(records: list[dict], columns: dict[str, str]) -> str:
    """Means over test sections, with the sd of the seeds' means where they differ."""
    lines = [("method", "structure", *columns)]
    for (method, structure), group in common.groups(records).items():
        cells = []
        for score in columns.values():
            means = common.seed_means(group, score) if score in group[0] else np.array([])
            sd = means.std(ddof=1) if len(means) and np.ptp(means) > 0 else np.nan
            cells.append(common.with_sd(means.mean(), sd) if len(means) else "")
        lines.append((method, common.dial(structure), *cells))
    return common.aligned(lines)


def beside_lines(records: list[dict]) -> list[str]:
    """What does not fit in a table: reference values, ceiling, coverage over genes."""
    from flagst.metrics import binomial_band

    def mean(score: str) -> float:
        return float(np.mean([record[score] for record in records]))

    lines = [
        f"Depth alone, as an oracle that reads the test section: PCC {mean('pcc_depth_only'):.3f}",
        f"Clusters of the measurement with one seed against the next: ARI {mean('ari_self'):.3f}, NMI "
        f"{mean('nmi_self'):.3f}; sd of a prediction's ARI over seeds of clustering {mean('ari_sd'):.3f}",
        f"Chance of the overlap of markers: top 20 {mean('chance20'):.3f}, top 50 {mean('chance50'):.3f}",
    ]
    flag = [record for record in records if record["method"] == "FLAG" and record["structure"] == 1]
    if not flag:
        return lines
    ceiling, reliability = (
        ", ".join(f"{score.upper()} {np.mean([r[name][score] for r in flag]):.3f}" for score in ("gsc", "ssc"))
        for name in ("ceiling", "reliability")
    )
    lines.append(f"Noise ceiling: {ceiling}; a second measurement, with count noise of its own: {reliability}")
    band = binomial_band(0.9, flag[0]["n_spots"])
    lines.append(
        f"Binomial band of a calibrated gene's coverage in {flag[0]['n_spots']} spots: {band[0]:.3f} to {band[1]:.3f}"
    )
    for name, how in COVERAGES.items():
        varying = [np.array(record[name])[~np.isnan(record[name])] for record in flag]
        bands = [binomial_band(0.9, record["n_spots"]) for record in flag]
        within = [np.mean((c >= low) & (c <= high)) for c, (low, high) in zip(varying, bands, strict=True)]
        quantiles = np.mean([np.quantile(c, [0.05, 0.25, 0.5, 0.75, 0.95]) for c in varying], axis=0)
        lines.append(
            f"Coverage of 90 % intervals, {how}, quantiles 0.05, 0.25, 0.5, 0.75, 0.95 over genes: "
            f"{', '.join(f'{value:.3f}' for value in quantiles)}; {np.mean(within):.0%} of genes in their band"
        )
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    names = "data-dir", "cache", "rotate", "target", "n-genes", "seeds", "max-steps", "jobs"
    parser = common.parser(__doc__, *names, target="lognorm")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw curve and calibration of the last split")
    options = parser.parse_args(arguments)
    options.splits, options.methods = common.rotation(options.rotate), [*BASELINES, "FLAG"]
    options.structures = (0.0, 0.5, 1.0)
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        files = common.prepare(options, Path(folder))["files"]
        jobs = common.jobs_of(options, files, script="every_score")
        for job in jobs:
            if job["method"] == "FLAG":
                job["settings"] = common.steps(options)
        if options.figures:
            first = [j for j in jobs if j["method"] == "FLAG" and j["seeds"] == options.seeds[:1]]
            first[-1]["figures"] = str(options.figures.resolve())
        records = common.collect(jobs, Path(folder), n_processes=options.jobs)
    for columns in (STRUCTURE_COLUMNS, USE_COLUMNS):
        print(score_table(records, columns), end="\n\n")
    print("\n".join(beside_lines(records)))


if __name__ == "__main__":
    main()
