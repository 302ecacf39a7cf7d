"""Choices compared on inner folds: test sections have no part in them.

    python benchmarks/inner_folds.py --data-dir DIR --rotate C2 C3 C4 C5

For each section T of the rotation, T is put aside and the others are rotated among themselves: train on all
but one of them, score on that one. A choice that wins for every T is one that nobody had to see a test section
for. With ``--folds 1`` only one inner fold per T is run, the section that follows T in the rotation.

Read it with two reservations. An inner fold trains on one section less than the rotation, so that
cross-fitting is over spatial blocks. And the sections are few: the section put aside for one T is an inner fold
for another.
"""

import argparse
import tempfile
import time
from pathlib import Path

import _table
from her2st import ROTATION, STRUCTURES, collect, prepare

#: Choices of FLAG; what differs from the defaults.
CHOICES = {
    "defaults": {},
    "no diffusion": {"diffusion": False},
    "no cross-fitting": {"cross_fit": False},
    "draws as they come": {"match_order": False},
    "noise as it comes": {"balance_noise": False},
    "no joint denoising": {"joint": False},
    "ridge mean": {"regression": "ridge"},
    "8 latents": {"n_latent": 8},
    "32 latents": {"n_latent": 32},
    "300 steps": {"max_steps": 300},
    "600 steps": {"max_steps": 600},
    "2,400 steps": {"max_steps": 2400},
    "no alignment": {"gfm": None},
}
BASELINES = ("Ridge", "CorrelatedGaussian", "BalancedGaussian")
#: PCC at which samplers are compared: an inner fold reaches a little less than the rotation.
AT_PCC = {"log2": 0.53, "lognorm": 0.22}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line to options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", default=list(ROTATION))
    parser.add_argument("--target", default="log2", choices=("log2", "lognorm"))
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--choices", nargs="+", choices=tuple(CHOICES), default=list(CHOICES))
    parser.add_argument("--folds", type=int, help="inner folds per section put aside; default all")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args(arguments)
    options.rotate = list(dict.fromkeys(options.rotate))
    if len(options.rotate) < 3:
        parser.error("--rotate needs at least three sections: one put aside, two to rotate")
    options.export = None
    return options


def inner_splits(rotate: list[str], aside: str, n_folds: int | None) -> list[dict]:
    """Splits that never see ``aside``, the section after it first."""
    start = rotate.index(aside)
    rest = [rotate[(start + i) % len(rotate)] for i in range(1, len(rotate))]
    return [{"train": [s for s in rest if s != held], "test": held} for held in rest[:n_folds]]


def jobs_of(options: argparse.Namespace, splits: list[dict], files: dict[str, str]) -> list[dict]:
    """One process per choice, fold and seed; one per baseline."""
    common = {"kind": "method", "target": options.target, "structures": list(STRUCTURES), "preset": "default"}
    splits = [split | {"file": files[split["test"]]} for split in splits]
    jobs = [
        common | {"method": "FLAG", "settings": CHOICES[name], "splits": [split], "seeds": [seed], "name": name}
        for name in options.choices
        for split in splits
        for seed in options.seeds
    ]
    everything = {"settings": {}, "splits": splits, "seeds": options.seeds}
    return jobs + [common | everything | {"method": name, "name": name} for name in BASELINES]


def table(records: list[dict], at: float) -> str:
    """One line per choice and baseline."""
    lines = [("choice", "PCC(0)", "GSC", "SSC", "GSC(1)", "SSC(1)", "gap(1)", "seconds")]
    equal = _table.at_equal_pcc(records, at)
    for name in dict.fromkeys(r["method"] for r in records):
        own = [r for r in records if r["method"] == name]
        mean = _table.summarise([r for r in own if not r["structure"]])
        cells = [f"{mean['pcc']:.3f}", "", "", "", "", ""]
        full = [r for r in own if r["structure"] == 1]
        if full:
            row, found = _table.summarise(full), equal[name]
            at_pcc = [f"{found[s].mean():.3f}" if found else "out of range" for s in ("gsc", "ssc")]
            cells[1:] = [*at_pcc, *(f"{row[s]:.3f}" for s in ("gsc", "ssc", "gap"))]
        lines.append((name, *cells, f"{mean['seconds']:.0f}"))
    return _table.aligned(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the inner folds and print a table per section put aside, and one of their averaged fronts."""
    start, options = time.perf_counter(), parse(arguments)
    at, everything = AT_PCC[options.target], []
    for aside in options.rotate:
        options.splits = inner_splits(options.rotate, aside, options.folds)
        with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
            jobs = jobs_of(options, options.splits, prepare(options, Path(folder))["files"])
            records = collect(jobs, Path(folder), n_processes=options.jobs)
        folds = ", ".join(f"{' '.join(s['train'])} to {s['test']}" for s in options.splits)
        print(f"\n{aside} put aside: {folds}\n{table(records, at)}", flush=True)
        everything += [r | {"test": f"{aside}/{r['test']}"} for r in records]
    print(f"\nFronts averaged over all, target {options.target}, GSC and SSC at PCC {at:g} of them")
    print(table(everything, at))
    print(f"Wall time {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
