"""What happens to the same 50 genes when more and more others are predicted with them.

    python benchmarks/gene_dimension_curse.py --data-dir DIR --methods FLAG

Panels are nested around a fixed core. FLAG with its defaults, and ``no mean``, the same diffusion of expression itself
instead of the residual of a regression mean: its state has one number per gene. Scores of the core say what the panel
does to a gene; scores of all genes fall for every method, since weaker genes come in. FLAG is scored at the given
structure, the other as one sample.
"""

import tempfile
import time
from pathlib import Path

import common
import numpy as np

SIZES = (10, 50, 100, 200, 400, 800, 2000, 5000)
CORE = 50
METHODS = {"FLAG": {}, "no mean": {"regression": None, "cross_fit": False, "gfm": None, "max_steps": 600}}
SCORES = ("pcc", "gsc", "ssc")
#: Lets glibc keep the memory of large arrays instead of giving it back and clearing it anew: half the time of steps on
#: matrices of 5,000 genes.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}


def nested_order(table, train: list[str], sizes: list[int]) -> list[str]:
    """Gene names, every panel's genes before what larger panels add.

    HMHVG panels are not quite nested: a gene may drop out of a larger one. Here it stays.
    """
    from flagst import pp

    order: dict[str, None] = {}
    for size in sorted({CORE, *sizes}):
        pp.select_genes(table, size, train_sections=train)
        order |= dict.fromkeys(table.var_names[table.var["flagst_panel"].to_numpy(bool)])
    return list(order)[: max(sizes)]


def run(job: dict) -> list[dict]:
    """Scores of one method, panel and seed on the core and on all genes."""
    import anndata

    from flagst import metrics

    adata = anndata.read_h5ad(job["file"])[:, : job["size"]].copy()
    genes = [str(gene) for gene in adata.var_names]
    [section] = common.arrays(common.part_of(adata, [job["test"]]), genes, job["target"])
    train, test = common.part_of(adata, job["train"]), common.part_of(adata, [job["test"]])
    start = time.perf_counter()
    model, structures = common.fit(train, job, job["seed"])
    structure = {} if structures == [None] else {"structure": structures[0]}
    prediction = model.predict(test, seed=job["seed"], **structure)
    predicted = np.asarray(prediction[:, genes].layers["flagst"])
    seconds = time.perf_counter() - start
    graph, records = common.moran_graph(section.coords, section.layout), []
    for which, n_genes in (("core", min(CORE, job["size"])), ("all", job["size"])):
        guess, true = predicted[:, :n_genes], section.target[:, :n_genes]
        scores = metrics.pcc(guess, true), metrics.gsc(guess, true), metrics.ssc(guess, true, graph)
        kept = {"method": job["variant"], "size": job["size"], "seed": job["seed"]}
        records.append(kept | {"genes": which, "seconds": seconds} | dict(zip(SCORES, map(float, scores), strict=True)))
    return records


def table(records: list[dict]) -> str:
    """One line per method and panel, mean over seeds."""
    lines = [("method", "genes", "core: PCC", "GSC", "SSC", "all: PCC", "GSC", "SSC", "seconds")]
    for method in METHODS:
        for size in sorted({r["size"] for r in records if r["method"] == method}):
            own = [r for r in records if (r["method"], r["size"]) == (method, size)]
            of = [[r for r in own if r["genes"] == genes] for genes in ("core", "all")]
            cells = [f"{np.mean([r[score] for r in part]):.3f}" for part in of for score in SCORES]
            lines.append((method, str(size), *cells, f"{np.mean([r['seconds'] for r in own]):.0f}"))
    return common.aligned(lines)


def change_line(records: list[dict]) -> str:
    """How far the core's scores move between the core alone and the largest panel."""
    parts = []
    for method in METHODS:
        own = [r for r in records if r["method"] == method and r["genes"] == "core" and r["size"] >= CORE]
        if not own:
            continue
        first, last = ([r for r in own if r["size"] == f(s["size"] for s in own)] for f in (min, max))
        moved = [np.mean([r[k] for r in last]) - np.mean([r[k] for r in first]) for k in SCORES]
        parts.append(f"{method} " + ", ".join(f"{k.upper()} {v:+.3f}" for k, v in zip(SCORES, moved, strict=True)))
    return "The core's change from its own panel to the largest: " + "; ".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Run all panels and print the table."""
    names = "data-dir", "cache", "train", "test", "target", "seeds", "max-steps", "jobs"
    parser = common.parser(__doc__, *names, train=["C2", "C3", "C4"], test="C5", seeds=[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--structure", type=float, default=0.5, help="of FLAG")
    options = parser.parse_args(arguments)
    if options.test in options.train:
        parser.error(f"{options.test} is both a training and the test section")
    table_of = common.load([*options.train, options.test], options)
    part = table_of[:, nested_order(table_of, options.train, options.sizes)].copy()
    del part.var["flagst_panel"]  # the last panel that was asked for, which need not hold all smaller ones
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        file = Path(folder) / "panels.h5ad"
        part.write_h5ad(file)
        job = {name: getattr(options, name) for name in ("train", "test", "target")}
        job |= {"script": "gene_dimension_curse", "method": "FLAG", "file": str(file)}
        job["structures"] = [options.structure]
        jobs = [
            job
            | {"variant": method, "size": size, "seed": seed, "name": f"{method}, {size} genes"}
            | {"settings": METHODS[method] | common.steps(options)}
            for size in sorted(options.sizes, reverse=True)
            for method in options.methods
            for seed in options.seeds
        ]
        done = common.run_jobs(jobs, Path(folder), n_processes=options.jobs, environment=KEEP_MEMORY)
    records = [record for answer in done for record in answer["result"]]
    print(table(records), change_line(records), sep="\n\n")


if __name__ == "__main__":
    main()
