"""FLAG and every baseline on HER2ST sections: accuracy, gene structure, spatial structure, cost.

    python benchmarks/her2st.py --data-dir DIR --rotate C2 C3 C4 C5
    python benchmarks/her2st.py --data-dir DIR --train C2 C3 C4 C5 --test B4 --at-pcc 0.6

The rotation trains on all sections but one and tests on that one, in turn. C2 to C5 are neighbouring sections of one
patient; B4 is of another patient. ``--set diffusion=false`` is FLAG without its diffusion, ``--set match_moran=false``
FLAG without matching Moran's I. Every method runs in a process of its own with one thread, ``--jobs`` of them at a
time; FLAG in one process per split and seed.

``seconds`` is one fit and one prediction of the test section; ``peak MB`` the largest resident memory of the method's
process, imports included. Leads over the best baseline have a standard error over compact blocks of the test sections
(jackknife): seeds do not say how much another piece of tissue would change them. ``--encoders DIR`` takes, for each
split, the encoder that ``fitted_encoders.py --save DIR`` fitted on its training sections. ``--evaluations 2 4 8``
compares numbers of network evaluations instead: one training per split and seed, everything else the default.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import common
import numpy as np


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line to options; ``splits`` is a list of ``{"train", "test"}``."""
    names = "data-dir", "cache", "rotate", "train", "test", "target", "n-genes", "seeds", "methods", "structures", "set"
    parser = common.parser(__doc__, *names, "jobs", rotate=None)
    parser.add_argument("--preset", default="default", choices=("default", "paper"), help="of FLAG")
    parser.add_argument("--at-pcc", type=float, help="PCC at which samplers are compared")
    parser.add_argument("--encoders", type=Path, metavar="DIR", help="fitted image encoders, TEST.safetensors")
    parser.add_argument("--evaluations", nargs="+", type=int, metavar="N", help="network evaluations to compare")
    options = parser.parse_args(arguments)
    options.splits = common.splits_of(parser, options)
    if options.evaluations:
        options.methods = ["FLAG"]
    return options


def run(job: dict) -> list[dict]:
    """Records of one split and seed at several numbers of network evaluations."""
    [split], [seed] = job["splits"], job["seeds"]
    train, test = common.read_split(split)
    model, structures = common.fit(train, job, seed)
    model.sample(test, 1, seed=seed)  # what only a first sample costs
    records = []
    for n_steps in job["evaluations"]:
        model.settings_ = replace(model.settings_, n_steps=n_steps)
        start = time.perf_counter()
        model.sample(test, 1, seed=seed)
        seconds = time.perf_counter() - start
        scored = common.score(model, test, job, [seed], structures, 0.0)
        records += [record | {"evaluations": n_steps, "seconds": seconds} for record in scored]
    return records


def evaluations_table(records: list[dict]) -> str:
    """One line per structure and number of evaluations, with the difference from the largest number."""
    most = max(r["evaluations"] for r in records)
    lines = [("structure", "evaluations", "PCC", "GSC", "SSC", f"minus {most}: PCC", "GSC", "SSC", "s per sample")]
    for structure in sorted({r["structure"] for r in records}):
        found = {}
        for n in sorted({r["evaluations"] for r in records}):
            own = [r for r in records if (r["structure"], r["evaluations"]) == (structure, n)]
            scores = {score: common.seed_means(own, score) for score in common.WITH_SD}
            found[n] = scores, np.mean([r["seconds"] for r in own])
        for n, (scores, seconds) in found.items():
            apart = [f"{(scores[k] - found[most][0][k]).mean():+.4f}" for k in common.WITH_SD]
            means = [common.mean_sd(scores[k]) for k in common.WITH_SD]
            lines.append((f"{structure:g}", str(n), *means, *apart, f"{seconds:.2f}"))
    return common.aligned(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        ready = common.prepare(options, Path(folder))
        more = {"script": "her2st", "evaluations": sorted(options.evaluations)} if options.evaluations else {}
        jobs = common.jobs_of(options, ready["files"], **more)
        records = common.collect(jobs, Path(folder), n_processes=options.jobs)
    print(f"{records[0]['n_genes']} genes, target {options.target}", file=sys.stderr)
    if options.evaluations:
        print(evaluations_table(records))
        return
    at = options.at_pcc or common.AT_PCC[options.target]
    parts = [common.main_table(records), common.equal_pcc_table(records, at), common.lead_lines(records, at)]
    parts.append(common.replicate_line(ready["replicates"]))
    last = [line for line in (common.coverage_line(records), common.residual_line(records)) if line]
    print("\n\n".join(part for part in parts if part), *last, sep="\n")


if __name__ == "__main__":
    main()
