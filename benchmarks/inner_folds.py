"""Choices compared inside the training sections: test sections are not used.

    python benchmarks/inner_folds.py --data-dir DIR --rotate C2 C3 C4 C5 --folds 1
    python benchmarks/inner_folds.py --data-dir DIR --rotate C2 C3 C4 C5 --mean

For each section of the rotation, that section is put aside and the others are rotated among themselves: train on all
but one of them, score on that one. With ``--folds 1`` only one inner fold per section put aside is run, that of the
section that follows it in the rotation. ``--mean`` compares choices of image features and regression mean: the mean
alone, cross-fitted over the sections that are not put aside, MSE in standardised units.

Read it with two reservations. An inner fold trains on one section less than the rotation, so that cross-fitting is
over spatial blocks. And the sections are few: the section put aside once is an inner fold another time.
"""

import argparse
import tempfile
from pathlib import Path

import common
import numpy as np

#: Choices of FLAG; what differs from the defaults.
CHOICES = {
    "defaults": {},
    "no diffusion": {"diffusion": False},
    "no Moran's I matching": {"match_moran": False},
    "no balanced noise": {"balance_noise": False},
    "no joint denoising": {"joint": False},
    "ridge mean": {"regression": "ridge"},
    "8 latents": {"n_latent": 8},
    "32 latents": {"n_latent": 32},
    "2,400 steps": {"max_steps": 2400},
    "no alignment": {"gfm": None},
}
BASELINES = ("Ridge", "CorrelatedGaussian", "BalancedGaussian")
#: PCC at which samplers are compared: an inner fold reaches a little less than the rotation.
AT_PCC = {"log2": 0.53, "lognorm": 0.22}
#: Choices of the mean: arguments of ``pp.image_features``, arguments of the regression.
MEANS = {
    "defaults": ({}, {}),
    "unmodified stain": ({"stain_normalise": None}, {}),
    "one scale, 150 um": ({"patch_um": 150.0}, {}),
    "one scale, 300 um": ({"patch_um": 300.0}, {}),
    "one scale, 600 um": ({"patch_um": 600.0}, {}),
    "ridge, one penalty": ({}, {"regression": "ridge"}),
    "no surroundings": ({}, {"neighbourhoods": ()}),
    "6 nearest": ({}, {"neighbourhoods": (6,)}),
    "6 and 18 nearest": ({}, {"neighbourhoods": (6, 18)}),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line to options."""
    names = "data-dir", "cache", "rotate", "target", "n-genes", "seeds", "jobs"
    parser = common.parser(__doc__, *names, seeds=[0])
    parser.add_argument("--choices", nargs="+", choices=tuple(CHOICES), default=list(CHOICES))
    parser.add_argument("--folds", type=int, help="inner folds per section put aside; default all")
    parser.add_argument("--mean", action="store_true", help="choices of image features and regression mean")
    options = parser.parse_args(arguments)
    options.rotate = list(dict.fromkeys(options.rotate))
    needed = 4 if options.mean else 3
    if len(options.rotate) < needed:
        parser.error(f"--rotate needs at least {needed} sections: one put aside, {needed - 1} to rotate")
    return options


def inner_splits(rotate: list[str], aside: str, n_folds: int | None) -> list[dict]:
    """Splits that never see ``aside``, the section after it first."""
    start = rotate.index(aside)
    rest = [rotate[(start + i) % len(rotate)] for i in range(1, len(rotate))]
    return [{"train": [s for s in rest if s != held], "test": held} for held in rest[:n_folds]]


def jobs_of(options: argparse.Namespace, splits: list[dict], files: dict[str, str]) -> list[dict]:
    """One process per choice, fold and seed; one per baseline."""
    job = {"script": "common", "target": options.target, "structures": list(common.STRUCTURES), "settings": {}}
    splits = [split | {"file": files[split["test"]]} for split in splits]
    jobs = [
        job | {"method": "FLAG", "settings": CHOICES[name], "splits": [split], "seeds": [seed], "name": name}
        for name in options.choices
        for split in splits
        for seed in options.seeds
    ]
    return jobs + [job | {"method": m, "name": m, "splits": splits, "seeds": options.seeds} for m in BASELINES]


def table(records: list[dict], at: float) -> str:
    """One line per choice and baseline."""
    lines = [("choice", "PCC(0)", "GSC", "SSC", "GSC(1)", "SSC(1)", "gap(1)", "seconds")]
    equal = common.at_equal_pcc(records, at)
    for name in dict.fromkeys(r["method"] for r in records):
        own = [r for r in records if r["method"] == name]
        mean = common.summarise([r for r in own if not r["structure"]])
        cells = [f"{mean['pcc']:.3f}", "", "", "", "", ""]
        full = [r for r in own if r["structure"] == 1]
        if full:
            row, found = common.summarise(full), equal[name]
            at_pcc = [f"{found[s].mean():.3f}" if found else "out of range" for s in ("gsc", "ssc")]
            cells[1:] = [*at_pcc, *(f"{row[s]:.3f}" for s in ("gsc", "ssc", "gap"))]
        lines.append((name, *cells, f"{mean['seconds']:.0f}"))
    return common.aligned(lines)


def mean_scores(table, aside: str, target: str, n_genes: int, changes: dict) -> np.ndarray:
    """PCC, MSE, GSC and SSC of the cross-fitted mean, averaged over the sections that are not put aside."""
    from flagst import metrics

    train = common.part_of(table, [s for s in table.obs["section"].unique() if s != aside])
    sections = common.arrays(train, common.panel_of(train, n_genes), target)
    stage, mean = common.fit_mean(sections, **changes)
    scores = []
    for section, predicted in zip(sections, common.by_section(mean, sections), strict=True):
        pair = predicted, stage.scaler.standardise(section.target)
        ssc = metrics.ssc(*pair, common.moran_graph(section.coords, section.layout))
        scores.append((metrics.pcc(*pair), metrics.mse(*pair), metrics.gsc(*pair), ssc))
    return np.mean(scores, axis=0)


def mean_tables(options: argparse.Namespace) -> str:
    """One table per target, one line per choice of the mean."""
    parts, loaded = [], {}
    for target in common.TARGETS:
        lines = [(f"target {target}", "PCC", "MSE", "GSC", "SSC", "PCC, by section put aside")]
        for name, (features, changes) in MEANS.items():
            if name not in loaded:
                loaded[name] = common.load(options.rotate, options, **features)
            found = [mean_scores(loaded[name], s, target, options.n_genes, changes) for s in options.rotate]
            each = "  ".join(f"{s} {scores[0]:.3f}" for s, scores in zip(options.rotate, found, strict=True))
            lines.append((name, *(f"{v:.3f}" for v in np.mean(found, axis=0)), each))
        parts.append(common.aligned(lines))
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Run the inner folds and print a table per section put aside, and one of their averaged curves."""
    options = parse(arguments)
    if options.mean:
        print(mean_tables(options))
        return
    at, everything = AT_PCC[options.target], []
    for aside in options.rotate:
        options.splits = inner_splits(options.rotate, aside, options.folds)
        with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
            files = common.prepare(options, Path(folder), sections=options.rotate)["files"]
            jobs = jobs_of(options, options.splits, files)
            records = common.collect(jobs, Path(folder), n_processes=options.jobs)
        folds = ", ".join(f"{' '.join(s['train'])} to {s['test']}" for s in options.splits)
        print(f"{aside} put aside: {folds}\n{table(records, at)}\n", flush=True)
        everything += [r | {"test": f"{aside}/{r['test']}"} for r in records]
    print(f"Curves averaged over all, target {options.target}, GSC and SSC at PCC {at:g}")
    print(table(everything, at))


if __name__ == "__main__":
    main()
