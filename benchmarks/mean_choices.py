"""Choices of the regression mean and the image features, by cross-fitting inside the training sections.

    python benchmarks/mean_choices.py --data-dir DIR --rotate C2 C3 C4 C5

For each section of the rotation that section is put aside, unread. The others are predicted one from the other:
every spot by a fit that has not seen its section. A choice is right when it is the best in that, for every section
put aside: no test section has a part in it. The scores are those of the mean alone, without draws; MSE is in
standardised units.
"""

import argparse
import time

import numpy as np
from her2st import ROTATION

from flagst import datasets, metrics, pp
from flagst._keys import OBS, TABLE, VAR
from flagst.data.from_anndata import sections_from_anndata
from flagst.data.graph import moran_graph
from flagst.regression import RegressionStage

#: Patch widths and stain normalisation: name, arguments of ``pp.image_features``.
FEATURES = {
    "defaults": {},
    "stain as it is": {"stain_normalise": None},
    "one scale, 150 um": {"patch_um": 150.0},
    "one scale, 300 um": {"patch_um": 300.0},
    "one scale, 600 um": {"patch_um": 600.0},
}
#: Name, arguments of ``RegressionStage.fit``; on the default features.
REGRESSIONS = {
    "ridge, one penalty": {"regression": "ridge"},
    "no surroundings": {"neighbourhoods": ()},
    "6 nearest": {"neighbourhoods": (6,)},
    "6 and 18 nearest": {"neighbourhoods": (6, 18)},
}
COLUMNS = ("PCC", "MSE", "GSC", "SSC")


def cross_fitted(table, rotate: list[str], aside: str, target: str, n_genes: int, **changes) -> np.ndarray:
    """Scores of the cross-fitted mean, ``(4,)``, averaged over the sections that are not put aside."""
    train = table[(table.obs[OBS.section] != aside).to_numpy()].copy()
    pp.select_genes(train, n_genes)
    genes = list(train.var_names[train.var[VAR.panel].to_numpy(bool)])
    sections = sections_from_anndata(train, genes=genes, target=target)
    parts = ([getattr(s, name) for s in sections] for name in ("image", "neighbours", "coords", "target"))
    stage, mean = RegressionStage.fit(*parts, **changes)
    scores, start = [], 0
    for section in sections:
        predicted, start = mean[start : start + len(section)], start + len(section)
        measured = stage.scaler.standardise(section.target)
        graph = moran_graph(section.coords, section.layout)
        scores.append(
            (
                metrics.pcc(predicted, measured),
                metrics.mse(predicted, measured),
                metrics.gsc(predicted, measured),
                metrics.ssc(predicted, measured, graph),
            )
        )
    return np.mean(scores, axis=0)


def main(arguments: list[str] | None = None) -> None:
    """Print one table per target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", default=list(ROTATION))
    parser.add_argument("--n-genes", type=int, default=200)
    options, start = parser.parse_args(arguments), time.perf_counter()
    if len(set(options.rotate)) < 4:
        parser.error("--rotate needs at least four sections: one put aside, three to predict one from the other")
    sdata = datasets.her2st(options.rotate, data_dir=options.data_dir)
    table, found = sdata.tables[TABLE], {}
    for name, changes in {**FEATURES, **REGRESSIONS}.items():
        features = FEATURES.get(name, {})
        if name in FEATURES or name == next(iter(REGRESSIONS)):
            pp.image_features(sdata, progress=False, overwrite=True, **features)
        for target in ("log2", "lognorm"):
            for aside in options.rotate:
                found[target, name, aside] = cross_fitted(
                    table, options.rotate, aside, target, options.n_genes, **({} if name in FEATURES else changes)
                )
    for target in ("log2", "lognorm"):
        heads = "".join(f"{column:>8s}" for column in COLUMNS)
        print(f"\ntarget {target}\n{'choice':20s}{heads}   PCC, by section put aside")
        for name in (*FEATURES, *REGRESSIONS):
            each = np.array([found[target, name, aside] for aside in options.rotate])
            by_section = "  ".join(f"{s} {v:.3f}" for s, v in zip(options.rotate, each[:, 0], strict=True))
            print(f"{name:20s}" + "".join(f"{v:8.3f}" for v in each.mean(axis=0)) + f"   {by_section}")
    print(f"Wall time {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
