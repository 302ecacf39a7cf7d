"""Genes that were never measured in training, predicted from their vectors.

    python benchmarks/unmeasured_genes.py --data-dir DIR --rotate C2 C3 C4 C5

50 genes of each 200-gene panel are hidden from training. Gene vectors are co-expression in the sections outside the
rotation: those of other patients, or also those of the training patient. Scores are those of the mean (structure 0) of
the hidden genes on the test section, unmodified and after regressing the total counts (constant, logarithm and its
square) out of prediction and measurement. ``measured in training`` is a model that has seen the hidden genes.
"""

import argparse
import warnings

import common
import numpy as np

from flagst import FLAG, datasets, gfm, metrics, pp


def references(rotate: list[str], data_dir: str | None) -> dict[str, list]:
    """Name to tables of counts: sections of other patients, and all but those of the rotation."""
    found = {"other patients": [], "other sections": []}
    patients = {name[0] for name in rotate}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no image")
        for name in [s for s in common.SECTIONS if s not in rotate]:
            try:
                table = datasets.her2st([name], data_dir=data_dir).tables["table"]
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
    """PCC unmodified and without depth."""
    residuals = without_depth(predicted, depth), without_depth(measured, depth)
    return metrics.pcc(predicted, measured), metrics.pcc(*residuals)


def mean_of(train, test, target: str, genes: list[str], panel: list[str], seed: int, gfm_key: str | None) -> np.ndarray:
    """``(n_spots, n_genes)`` fitted mean of ``genes``, by a model of ``panel``."""
    FLAG.setup_anndata(train, genes=panel)
    model = FLAG(train, target=target, gfm=gfm_key, seed=seed, diffusion=False)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.predict(test.copy(), genes=genes, structure=0)[:, genes].layers["flagst"]


def score_rows(table, reference: dict, target: str, seed: int, test: str, options: argparse.Namespace) -> dict:
    """Scores of every row on one test section, for one choice of hidden genes."""
    train = table[(table.obs["section"] != test).to_numpy()].copy()
    query, panel = common.part_of(table, [test]), common.panel_of(train, options.n_genes)
    for tables in reference.values():  # a gene that varies in none of the references has no vector to go by
        known = gfm.CoExpression(tables).encode(train, panel)[1]
        panel = [gene for gene, has_vector in zip(panel, known, strict=True) if has_vector]
    hidden = list(np.random.default_rng(seed).permutation(panel)[: options.n_hidden])
    seen = [gene for gene in panel if gene not in hidden]
    measured = common.measured_expression(query[:, hidden].copy(), target=target)
    depth, found = query.obs["total_counts"].to_numpy(dtype=float), {}
    for name, tables in reference.items():
        pp.gene_embeddings(train, gfm.CoExpression(tables), genes=panel)
        pairs = zip(train.var_names, train.varm["X_gene"], strict=True)
        vectors = {gene: vector / max(np.linalg.norm(vector), 1e-12) for gene, vector in pairs}
        of_panel = mean_of(train, query, target, seen, seen, seed, None)
        of_panel = (of_panel - of_panel.mean(axis=0)) / np.maximum(of_panel.std(axis=0), 1e-12)
        like = np.array([vectors[g] for g in hidden]) @ np.array([vectors[g] for g in seen]).T
        if not found:
            average = np.repeat(of_panel.mean(axis=1, keepdims=True), len(hidden), axis=1)
            found["mean of the measured genes"] = scores(average, measured, depth)
        found[f"most similar measured gene, {name}"] = scores(of_panel[:, like.argmax(axis=1)], measured, depth)
        of_vectors = mean_of(train, query, target, hidden, seen, seed, "X_gene")
        found[f"FLAG, {name}"] = scores(of_vectors, measured, depth)
    rows = train.var_names.get_indexer(panel)
    train.varm["X_gene"][rows] = np.random.default_rng(seed).permutation(train.varm["X_gene"][rows])
    shuffled = mean_of(train, query, target, hidden, seen, seed, "X_gene")
    found["FLAG, shuffled vectors"] = scores(shuffled, measured, depth)
    seen_too = mean_of(train, query, target, hidden, panel, seed, None)
    return found | {"measured in training": scores(seen_too, measured, depth)}


def main(arguments: list[str] | None = None) -> None:
    """Print one table per target."""
    parser = common.parser(__doc__, "data-dir", "cache", "rotate", "targets", "n-genes", "seeds", "jobs")
    parser.add_argument("--n-hidden", type=int, default=50, help="other genes with each seed")
    options = parser.parse_args(arguments)
    table, reference = common.load(options.rotate, options), references(options.rotate, options.data_dir)
    print(", ".join(f"{name}: {len(tables)} sections" for name, tables in reference.items()))
    for target in options.targets:
        found: dict[str, list] = {}
        for seed in options.seeds:
            runs = [score_rows(table, reference, target, seed, test, options) for test in options.rotate]
            for name in runs[0]:
                found.setdefault(name, []).append(np.mean([r[name] for r in runs], axis=0))
        lines = [(f"target {target}", "PCC", "PCC without depth")]
        lines += [(name, *(common.mean_sd(values) for values in np.transpose(of))) for name, of in found.items()]
        print("\n" + common.aligned(lines), flush=True)


if __name__ == "__main__":
    main()
