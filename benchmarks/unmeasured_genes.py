"""Genes that were never measured in training, predicted from their vectors.

    python benchmarks/unmeasured_genes.py --data-dir DIR --rotate C2 C3 C4 C5

50 genes of each 200-gene panel are hidden from training. Gene vectors are co-expression in the sections outside the
rotation: those of other patients, or also those of the training patient. Scores are those of the mean (structure 0) of
the hidden genes on the test section, as they are and after regressing the total counts (constant, logarithm and its
square) out of prediction and measurement. ``measured in training`` is a model that has seen the hidden genes. Two rows
mix the two and say what limits the vectors: a prediction is a share of the panel's average and a part of its own, and
``proportions as measured`` takes how much of each from the model that has seen the gene, ``own part as measured`` the
part itself.
"""

import argparse
import time
import warnings

import _table
import numpy as np
from her2st import ROTATION

from flagst import FLAG, datasets, gfm, metrics, pp
from flagst._keys import LAYERS, OBS, TABLE, VAR
from flagst.data.targets import to_target

TARGETS = ("log2", "lognorm")
#: Sections of HER2ST: patient and number.
SECTIONS = [f"{p}{i}" for p, n in zip("ABCDEFGH", (6, 6, 6, 6, 3, 3, 3, 3), strict=True) for i in range(1, n + 1)]


def references(rotate: list[str], data_dir: str | None) -> dict[str, list]:
    """Name to tables of counts: sections of other patients, and all but those of the rotation."""
    found = {"other patients": [], "other sections": []}
    patients = {name[0] for name in rotate}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no image")
        for name in [s for s in SECTIONS if s not in rotate]:
            try:
                table = datasets.her2st([name], data_dir=data_dir).tables[TABLE]
            except FileNotFoundError:  # counts that are not at hand
                continue
            found["other sections"].append(table)
            if name[0] not in patients:
                found["other patients"].append(table)
    return found


def without_depth(values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Residuals of a regression on a constant, ``log(depth + 1)`` and its square."""
    axis = np.log(depth + 1)
    design = np.column_stack([np.ones(len(axis)), axis, axis**2])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def scores(predicted: np.ndarray, measured: np.ndarray, depth: np.ndarray) -> tuple[float, float]:
    """PCC as it is and without depth."""
    return metrics.pcc(predicted, measured), metrics.pcc(
        without_depth(predicted, depth), without_depth(measured, depth)
    )


def mixed(own_of: np.ndarray, proportions_of: np.ndarray, average: np.ndarray) -> np.ndarray:
    """Predictions with what the first has beside the average of the panel, in the proportions of the second."""
    axis = (average - average.mean())[:, None]
    parts = []
    for values in (own_of, proportions_of):
        values = values - values.mean(axis=0)
        slope = (axis * values).sum(axis=0) / (axis**2).sum()
        parts.append((slope, values - axis * slope))
    (_, own), (slope, other) = parts
    return axis * slope + own * other.std(axis=0) / np.maximum(own.std(axis=0), 1e-12)


def mean_of(train, test, target: str, genes: list[str], panel: list[str], seed: int, gfm_key: str | None) -> np.ndarray:
    """``(n_spots, n_genes)`` fitted mean of ``genes``, by a model of ``panel``."""
    FLAG.setup_anndata(train, genes=panel)
    model = FLAG(train, target=target, gfm=gfm_key, seed=seed, diffusion=False)
    model.train(accelerator="cpu", enable_progress_bar=False)
    predicted = model.predict(test.copy(), genes=genes, structure=0)
    return predicted[:, genes].layers[LAYERS.draw]


def run(table, reference: dict, target: str, seed: int, test: str, n_hidden: int, n_genes: int) -> dict:
    """Scores of every row on one test section, for one choice of hidden genes."""
    train = table[(table.obs[OBS.section] != test).to_numpy()].copy()
    query = table[(table.obs[OBS.section] == test).to_numpy()].copy()
    pp.select_genes(train, n_genes)
    panel = [str(gene) for gene in train.var_names[train.var[VAR.panel]]]
    for tables in reference.values():  # a gene that varies in none of the references has no vector to go by
        known = gfm.CoExpression(tables).encode(train, panel)[1]
        panel = [gene for gene, has_vector in zip(panel, known, strict=True) if has_vector]
    hidden = list(np.random.default_rng(seed).permutation(panel)[:n_hidden])
    seen = [gene for gene in panel if gene not in hidden]
    depth = np.asarray(query.X.sum(axis=1), dtype=float).ravel()
    measured = to_target(query[:, hidden].X, depth, target)
    found, of_vectors = {}, {}
    for name, tables in reference.items():
        pp.gene_embeddings(train, gfm.CoExpression(tables), genes=panel)
        vectors = {
            g: v / max(np.linalg.norm(v), 1e-12) for g, v in zip(train.var_names, train.varm["X_gene"], strict=True)
        }
        of_panel = mean_of(train, query, target, seen, seen, seed, None)
        of_panel = (of_panel - of_panel.mean(axis=0)) / np.maximum(of_panel.std(axis=0), 1e-12)
        like = np.array([vectors[g] for g in hidden]) @ np.array([vectors[g] for g in seen]).T
        if not found:
            average = np.repeat(of_panel.mean(axis=1, keepdims=True), len(hidden), axis=1)
            found["mean of the measured genes"] = scores(average, measured, depth)
        found[f"most similar measured gene, {name}"] = scores(of_panel[:, like.argmax(axis=1)], measured, depth)
        of_vectors[name] = mean_of(train, query, target, hidden, seen, seed, "X_gene")
        found[f"FLAG, {name}"] = scores(of_vectors[name], measured, depth)
    rows = train.var_names.get_indexer(panel)
    train.varm["X_gene"][rows] = np.random.default_rng(seed).permutation(train.varm["X_gene"][rows])
    found["FLAG, shuffled vectors"] = scores(
        mean_of(train, query, target, hidden, seen, seed, "X_gene"), measured, depth
    )
    seen_too = mean_of(train, query, target, hidden, panel, seed, None)
    found["measured in training"] = scores(seen_too, measured, depth)
    average, predicted = average[:, 0], of_vectors["other patients"]
    found["other patients, proportions as measured"] = scores(mixed(predicted, seen_too, average), measured, depth)
    found["other patients, own part as measured"] = scores(mixed(seen_too, predicted, average), measured, depth)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print one table per target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", default=list(ROTATION))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="each hides other genes")
    parser.add_argument("--n-hidden", type=int, default=50)
    parser.add_argument("--n-genes", type=int, default=200)
    options, start = parser.parse_args(arguments), time.perf_counter()
    sdata = datasets.her2st(options.rotate, data_dir=options.data_dir)
    pp.image_features(sdata, progress=False)
    table, reference = sdata.tables[TABLE], references(options.rotate, options.data_dir)
    print(", ".join(f"{name}: {len(tables)} sections" for name, tables in reference.items()))
    for target in TARGETS:
        found: dict[str, list] = {}
        for seed in options.seeds:
            how_many = options.n_hidden, options.n_genes
            runs = [run(table, reference, target, seed, test, *how_many) for test in options.rotate]
            for name in runs[0]:
                found.setdefault(name, []).append(np.mean([r[name] for r in runs], axis=0))
        lines = [(f"target {target}", "PCC", "PCC without depth")]
        for name, by_seed in found.items():
            mean, spread = np.mean(by_seed, axis=0), np.std(by_seed, axis=0, ddof=1 if len(by_seed) > 1 else 0)
            lines.append((name, *(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True))))
        print("\n" + _table.aligned(lines), flush=True)
    print(f"Wall time {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
