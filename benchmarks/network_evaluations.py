"""What a prediction loses with fewer network evaluations: one training per split and seed, several solvers' lengths.

    python benchmarks/network_evaluations.py --data-dir DIR --rotate C2 C3 C4 C5

Everything but the number of evaluations is the model's default, and the spread of the draws is the one that was
set with the default number. ``against`` is a score minus that of the largest number; ``s per draw`` is the whole
draw of a section: features to mean, solver, noise and spatial order.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import _methods
import _table
import numpy as np
from her2st import ROTATION, collect, prepare, settings

EVALUATIONS = (2, 4, 8, 16, 20, 50, 200)
STRUCTURES = (0.5, 1.0)
SCORES = ("pcc", "gsc", "ssc")


def run(job: dict) -> list[dict]:
    """Records of one split and seed; ``structure`` and ``evaluations`` tell them apart."""
    import anndata

    from flagst._keys import OBS

    [split], [seed] = job["splits"], job["seeds"]
    adata = anndata.read_h5ad(split["file"])
    train = adata[adata.obs[OBS.section].isin(split["train"]).to_numpy()].copy()
    test = adata[(adata.obs[OBS.section] == split["test"]).to_numpy()].copy()
    model, structures = _methods.fit(train, job, seed)
    model.sample(test, 1, seed=seed)  # what only a first draw costs
    records = []
    for n_steps in job["evaluations"]:
        model.settings_ = replace(model.settings_, n_steps=n_steps)
        start = time.perf_counter()
        model.sample(test, 1, seed=seed)
        seconds = time.perf_counter() - start
        scored = _methods.score(model, test, job, split["test"], [seed], structures, 0.0)
        records += [record | {"evaluations": n_steps, "seconds": seconds} for record in scored]
    return records


def table(records: list[dict]) -> str:
    """One line per number of evaluations and structure: mean over seeds of the sections' mean, ± their SD."""
    most = max(r["evaluations"] for r in records)
    lines = [("structure", "evaluations", "PCC", "GSC", "SSC", "against: PCC", "GSC", "SSC", "s per draw")]
    for structure in sorted({r["structure"] for r in records}):
        found = {}
        for n in sorted({r["evaluations"] for r in records}):
            own = [r for r in records if (r["structure"], r["evaluations"]) == (structure, n)]
            by_seed = {s: [r for r in own if r["seed"] == s] for s in sorted({r["seed"] for r in own})}
            found[n] = np.array([[np.mean([r[k] for r in rows]) for k in SCORES] for rows in by_seed.values()])
            found[n, "seconds"] = np.mean([r["seconds"] for r in own])
        for n in [key for key in found if not isinstance(key, tuple)]:
            spread = found[n].std(axis=0, ddof=1) if len(found[n]) > 1 else np.full(len(SCORES), np.nan)
            scores = [f"{m:.3f} ± {sd:.3f}" for m, sd in zip(found[n].mean(axis=0), spread, strict=True)]
            apart = [f"{value:+.4f}" for value in (found[n] - found[most]).mean(axis=0)]
            lines.append((f"{structure:g}", str(n), *scores, *apart, f"{found[n, 'seconds']:.2f}"))
    return _table.aligned(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the trainings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", default=list(ROTATION))
    parser.add_argument("--target", default="log2", choices=("log2", "lognorm"))
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--evaluations", nargs="+", type=int, default=list(EVALUATIONS))
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of FLAG")
    start, options = time.perf_counter(), parser.parse_args(arguments)
    options.export = None
    options.splits = [
        {"train": [s for s in options.rotate if s != test], "test": test} for test in dict.fromkeys(options.rotate)
    ]
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        files = prepare(options, Path(folder))["files"]
        common = {
            "kind": "evaluations",
            "method": "FLAG",
            "preset": "default",
            "settings": settings(options.set),
            "target": options.target,
            "structures": list(STRUCTURES),
            "evaluations": sorted(options.evaluations),
        }
        jobs = [
            common | {"splits": [split | {"file": files[split["test"]]}], "seeds": [seed]}
            for split in options.splits
            for seed in options.seeds
        ]
        records = collect(jobs, Path(folder), n_processes=options.jobs)
    print(f"\n{records[0]['n_genes']} genes, target {options.target}, seeds {' '.join(map(str, options.seeds))}\n")
    print(table(records))
    print(f"Wall time {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
