"""What happens to the same 50 genes when more and more others are predicted with them.

    python benchmarks/gene_dimension_curse.py --data-dir DIR --figure FILE

Panels are nested round a fixed core. Three methods: FLAG with its defaults, diffusion of the expression of all
spots (``node-only``), and diffusion of expression and gene-gene correlation together (``joint``); the last two are
in ``_graph_diffusion.py``. Scores of the core say what the panel does to a gene; scores of all genes fall for
every method, since weaker genes come in. FLAG is scored at the given structure, the others as one draw.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _table
import numpy as np
from _processes import KEEP_MEMORY, run_job

SIZES = (10, 50, 100, 200, 400, 800, 2000, 5000)
CORE = 50
METHODS = ("FLAG", "node-only", "joint")
SCORES = ("pcc", "gsc", "ssc")


def prepare(job: dict) -> dict:
    """Write sections with features and the largest panel, genes in the order in which panels take them in."""
    from flagst import datasets, pp
    from flagst._keys import OBS, TABLE, UNS, VAR

    sections = [*job["train"], job["test"]]
    sdata = datasets.her2st(sections, data_dir=job["data_dir"])
    pp.image_features(sdata, n_jobs=job["n_jobs"], progress=False)
    table = sdata.tables[TABLE]
    order = nested_order(table, job["train"], job["sizes"])
    part = table[table.obs[OBS.section].isin(sections).to_numpy(), order].copy()
    part.uns.pop(UNS.spatial, None)
    del part.var[VAR.panel]  # the last panel that was asked for, which need not hold all smaller ones
    part.write_h5ad(job["file"])
    return {"n_genes": part.n_vars}


def nested_order(table, train: list[str], sizes: list[int]) -> list[str]:
    """Gene names, every panel's genes before what larger panels add.

    HMHVG panels are not quite nested: a gene may drop out of a larger one. Here it stays.
    """
    from flagst import pp
    from flagst._keys import VAR

    order: dict[str, None] = {}
    for size in sorted({CORE, *sizes}):
        pp.select_genes(table, size, train_sections=train)
        order |= dict.fromkeys(table.var_names[table.var[VAR.panel].to_numpy(bool)])
    return list(order)[: max(sizes)]


def run(job: dict) -> list[dict]:
    """Scores of one method, panel and seed on the core and on all genes."""
    import anndata

    from flagst import metrics
    from flagst.data.graph import moran_graph

    adata = anndata.read_h5ad(job["file"])[:, : job["size"]].copy()
    start = time.perf_counter()
    predicted, section = PREDICT[job["method"]](adata, job)
    seconds = time.perf_counter() - start
    graph, records = moran_graph(section.coords, section.layout), []
    for genes, n_genes in (("core", min(CORE, job["size"])), ("all", job["size"])):
        guess, true = predicted[:, :n_genes], section.target[:, :n_genes]
        scores = metrics.pcc(guess, true), metrics.gsc(guess, true), metrics.ssc(guess, true, graph)
        kept = {name: job[name] for name in ("method", "size", "seed")}
        records.append(kept | {"genes": genes, "seconds": seconds} | dict(zip(SCORES, map(float, scores), strict=True)))
    return records


def _sections(adata, job: dict):
    """Training sections and the test section as arrays."""
    from flagst.data.from_anndata import sections_from_anndata

    found = sections_from_anndata(
        adata, section_key="section", genes=list(adata.var_names), target=job["target"], layer=None
    )
    by_name = {section.name: section for section in found}
    return [by_name[name] for name in job["train"]], by_name[job["test"]]


def _flag(adata, job: dict):
    from flagst import FLAG
    from flagst._keys import LAYERS, OBS

    train = adata[adata.obs[OBS.section].isin(job["train"]).to_numpy()].copy()
    test = adata[(adata.obs[OBS.section] == job["test"]).to_numpy()].copy()
    FLAG.setup_anndata(train, section_key=OBS.section)
    model = FLAG(train, target=job["target"], seed=job["seed"], **job["settings"])
    model.train(accelerator="cpu")
    predicted = model.predict(test, structure=job["structure"], seed=job["seed"])
    return predicted[:, list(adata.var_names)].layers[LAYERS.draw], _sections(adata, job)[1]


def _diffusion(adata, job: dict):
    from _graph_diffusion import GraphDiffusionModel

    train, test = _sections(adata, job)
    limit = {"max_steps": job["settings"]["max_steps"]} if "max_steps" in job["settings"] else {}
    model = GraphDiffusionModel(joint=job["method"] == "joint", seed=job["seed"], **limit)
    model.fit(train)
    return model.predict(test), test


PREDICT = {"FLAG": _flag, "node-only": _diffusion, "joint": _diffusion}


def table(records: list[dict]) -> str:
    """One line per method and panel, mean over seeds."""
    lines = [("method", "genes", "core: PCC", "GSC", "SSC", "all: PCC", "GSC", "SSC", "seconds")]
    for method in METHODS:
        for size in sorted({r["size"] for r in records if r["method"] == method}):
            own = [r for r in records if (r["method"], r["size"]) == (method, size)]
            cells = [
                f"{np.mean([r[score] for r in own if r['genes'] == genes]):.3f}"
                for genes in ("core", "all")
                for score in SCORES
            ]
            lines.append((method, str(size), *cells, f"{np.mean([r['seconds'] for r in own]):.0f}"))
    return _table.aligned(lines)


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


def draw(records: list[dict], path: Path) -> None:
    """Scores against the number of genes, core in full lines and all genes dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained", sharex=True)
    for axis, score in zip(axes, SCORES, strict=True):
        for number, method in enumerate(METHODS):
            for genes, style in (("core", "-"), ("all", "--")):
                own = [r for r in records if r["method"] == method and r["genes"] == genes]
                sizes = sorted({r["size"] for r in own})
                means = [np.mean([r[score] for r in own if r["size"] == size]) for size in sizes]
                axis.plot(sizes, means, style, marker="o", ms=3, color=f"C{number}", label=f"{method}, {genes}")
        axis.set(xscale="log", xlabel="genes in the panel", ylabel=score.upper())
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line to options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--train", nargs="+", default=["C2", "C3", "C4"])
    parser.add_argument("--test", default="C5")
    parser.add_argument("--target", default="log2", choices=("log2", "lognorm"))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--structure", type=float, default=0.5, help="of FLAG")
    parser.add_argument("--max-steps", type=int, help="optimiser steps of every method; default each method's own")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args(arguments)
    if options.test in options.train:
        parser.error(f"{options.test} is both a training and the test section")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run all panels and print the table."""
    start, options = time.perf_counter(), parse(arguments)
    common = {name: getattr(options, name) for name in ("train", "test", "target", "structure", "sizes")}
    common["settings"] = {"max_steps": options.max_steps} if options.max_steps else {}
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        common["file"] = str(Path(folder) / "panels.h5ad")
        job = common | {"kind": "curse_prepare", "data_dir": options.data_dir, "n_jobs": options.jobs}
        run_job(job, Path(folder))
        jobs = [
            common | {"kind": "curse", "method": method, "size": size, "seed": seed}
            for size in sorted(options.sizes, reverse=True)
            for method in options.methods
            for seed in options.seeds
        ]

        def finished(job: dict) -> dict:
            answer = run_job(job, Path(folder), environment=KEEP_MEMORY)
            print(f"  {job['method']} {job['size']} genes: {answer['result'][0]['seconds']:.0f} s", file=sys.stderr)
            return answer

        with ThreadPoolExecutor(options.jobs) as pool:
            done = list(pool.map(finished, jobs))
    records = [record for answer in done for record in answer["result"]]
    seeds = " ".join(map(str, options.seeds))
    print(f"train {' '.join(options.train)}, test {options.test}, target {options.target}, seeds {seeds}")
    print(f"FLAG at structure {options.structure:g}\n")
    print(table(records), change_line(records), sep="\n\n")
    print(f"Wall time {time.perf_counter() - start:.0f} s")
    if options.figure:
        draw(records, options.figure)
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
