"""Is alignment to gene vectors worth it? Sources of vectors, ways to align, and the control with shuffled vectors.

    python benchmarks/alignment.py --data-dir DIR --rotate C2 C3 C4 C5

50 genes of each 200-gene panel are hidden from training, as in ``unmeasured_genes.py``; the seed is that of the model
and of the choice. Co-expression of other patients' sections, or of all sections outside the rotation, gives vectors of
all 200 genes, so that the hidden ones can be predicted; co-expression of the training sections has vectors of the
measured ones only. Scores are those of the measured genes at structures 0.5 and 1, and the PCC of the hidden ones in
the mean (structure 0) and in a draw (structure 1): means over test sections, sd over seeds. Hidden genes follow from
the measured ones by their vectors alone, so that the way of aligning has no part in their mean. The variants also
differ in the random numbers of their training: differences within the spread of seeds are none.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from _processes import run_job

TARGETS = ("log2", "lognorm")
KEY, SHUFFLED = "X_gene", "X_gene_shuffled"
#: Variant -> source of the vectors and changed settings. Sources are those of ``unmeasured_genes.references``.
VARIANTS = {
    "no alignment": (None, {"gfm": None}),
    "training sections": (None, {"gfm": "coexpression"}),
    "other patients": ("other patients", {"gfm": KEY}),
    "other patients, similarity": ("other patients", {"gfm": KEY, "align_static": "similarity"}),
    "other patients, tied": ("other patients", {"gfm": KEY, "gene_identity": "tied"}),
    "other patients, shuffled": ("other patients", {"gfm": SHUFFLED}),
    "other sections": ("other sections", {"gfm": KEY}),
}
STRUCTURES = (0.5, 1.0)
COLUMNS = ("pcc 0.5", "gsc 0.5", "ssc 0.5", "gsc 1", "ssc 1", "hidden pcc 0", "hidden pcc 1")


def prepare(job: dict) -> dict:
    """Write training and test sections with gene vectors of every source, one file per split.

    Returns
    -------
    ``"files"`` and ``"n_genes"`` by test section; ``"sources"``: how many sections are behind each source.
    """
    from unmeasured_genes import references

    from flagst import datasets, gfm, pp
    from flagst._keys import OBS, TABLE, UNS, VAR

    sdata = datasets.her2st(job["rotate"], data_dir=job["data_dir"])
    pp.image_features(sdata, progress=False)
    table, sources = sdata.tables[TABLE], references(job["rotate"], job["data_dir"])
    table.uns.pop(UNS.spatial)
    files, n_genes = {}, {}
    for test in job["rotate"]:
        is_test = (table.obs[OBS.section] == test).to_numpy()
        train = table[~is_test].copy()
        pp.select_genes(train, job["n_genes"])
        genes = [str(gene) for gene in train.var_names[train.var[VAR.panel]]]
        known = [gfm.CoExpression(tables).encode(train, genes)[1] for tables in sources.values()]
        genes = [gene for gene, has_vector in zip(genes, np.all(known, axis=0), strict=True) if has_vector]
        part = table[:, genes].copy()
        for source, tables in sources.items():
            pp.gene_embeddings(part, gfm.CoExpression(tables), genes=genes, key_added=f"{KEY}_{source}")
        files[test] = str(Path(job["folder"]) / f"{test}.h5ad")
        part.write_h5ad(files[test])
        n_genes[test] = len(genes)
    return {"files": files, "n_genes": n_genes, "sources": {name: len(tables) for name, tables in sources.items()}}


def run(job: dict) -> dict[str, float]:
    """Scores of one variant on one test section with one seed."""
    import anndata

    from flagst import FLAG, metrics, tl
    from flagst._keys import LAYERS, OBS
    from flagst.data.measured import measured_expression

    source, changes = VARIANTS[job["variant"]]
    table, rng = anndata.read_h5ad(job["file"]), np.random.default_rng(job["seed"])
    genes = [str(gene) for gene in table.var_names]
    hidden = list(rng.permutation(genes)[: job["n_hidden"]])
    seen = [gene for gene in genes if gene not in hidden]
    if source:
        table.varm[KEY] = table.varm[f"{KEY}_{source}"]
        table.varm[SHUFFLED] = rng.permutation(table.varm[KEY])
    is_test = (table.obs[OBS.section] == job["test"]).to_numpy()
    train, test = table[~is_test].copy(), table[is_test].copy()
    FLAG.setup_anndata(train, genes=seen)
    if job["max_steps"]:
        changes = changes | {"max_steps": job["max_steps"]}
    model = FLAG(train, target=job["target"], seed=job["seed"], **changes)
    model.train(accelerator="cpu", enable_progress_bar=False)
    found = {}
    for structure in STRUCTURES:
        row = tl.evaluate(model.predict(test[:, seen].copy(), structure=structure, seed=job["seed"])).iloc[0]
        found |= {f"{score} {structure:g}": float(row[score]) for score in ("pcc", "gsc", "ssc")}
    measured = measured_expression(test[:, hidden].copy(), target=job["target"])
    for structure in (0.0, 1.0) if source else ():
        predicted = model.predict(test.copy(), genes=hidden, structure=structure, seed=job["seed"])
        found[f"hidden pcc {structure:g}"] = metrics.pcc(predicted[:, hidden].layers[LAYERS.draw], measured)
    return found


def table_of(found: dict[str, list[list[dict]]]) -> str:
    """One line per variant: mean over seeds of the means over test sections, and their sd."""
    import _table

    lines = [("vectors", *COLUMNS)]
    for variant, by_seed in found.items():
        cells = []
        for column in COLUMNS:
            means = [np.mean([scores.get(column, np.nan) for scores in of_seed]) for of_seed in by_seed]
            sd = f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""
            cells.append("" if np.isnan(means).any() else f"{np.mean(means):.3f}{sd}")
        lines.append((variant, *cells))
    return _table.aligned(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print one table per target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", default=["C2", "C3", "C4", "C5"])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="each hides other genes")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--n-hidden", type=int, default=50)
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--max-steps", type=int, help="optimiser steps of every variant; default: the model's")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores")
    options, start, records = parser.parse_args(arguments), time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        shared = {name: getattr(options, name) for name in ("data_dir", "rotate", "n_genes", "n_hidden", "max_steps")}
        ready = run_job(shared | {"kind": "alignment_prepare", "folder": folder}, Path(folder))["result"]
        files = ready["files"]
        print(", ".join(f"{name}: {n} sections" for name, n in ready["sources"].items()))
        print("genes by test section: " + ", ".join(f"{test} {n}" for test, n in ready["n_genes"].items()) + "\n")
        for target in options.targets:
            jobs = [
                shared | {"kind": "alignment", "variant": v, "seed": s, "test": t, "file": files[t], "target": target}
                for v in options.variants
                for s in options.seeds
                for t in options.rotate
            ]
            with ThreadPoolExecutor(options.jobs) as pool:
                done = list(pool.map(lambda job: run_job(job, Path(folder))["result"], jobs))
            found: dict[str, list[list[dict]]] = {}
            for job, scores in zip(jobs, done, strict=True):
                by_seed = found.setdefault(job["variant"], [[] for _ in options.seeds])
                by_seed[options.seeds.index(job["seed"])].append(scores)
                records.append({name: job[name] for name in ("target", "variant", "seed", "test")} | scores)
            print(f"target {target}\n{table_of(found)}\n", flush=True)
    print(f"Wall time {time.perf_counter() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
