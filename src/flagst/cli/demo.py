"""``flagst demo``: from sections to scores, figures and a saved model in one go."""

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flagst import __version__
from flagst._keys import LAYERS, OBS, TABLE, VAR
from flagst.cli.console import Steps, hush, interactive, scores_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

#: Written first, so that a later run knows the folder for one of ours.
MARKER = "flagst_demo.json"
#: What is written, and what it is.
OUTPUTS = {
    "model": "the trained model: flagst.FLAG.load(...)",
    "prediction.zarr": "the held-out section as SpatialData: image, spots, counts, features, prediction",
    "scores.csv": "every metric of every method",
    "spatial.png": "measured beside predicted on the tissue",
    "structure.png": "gene-gene correlation and Moran's I",
    "history.png": "training curves",
}
HER2ST_SECTIONS = ("C2", "C3", "C4", "C5")
HER2ST_GENES = 200
#: Baselines in the table of scores, at these structures; None where there is no dial.
BASELINES = {"DepthOracle": (None,), "Ridge": (None,), "CorrelatedGaussian": (0.5, 1.0)}
STRUCTURES = (0.0, 0.5, 1.0)
#: Structure of the prediction that is saved and drawn.
SHOWN = 0.5
#: Genes on the map: from the best predicted to this share of the ranking.
MAPPED = (0.0, 0.25)
REPLICATE_SEED = 20260
#: What the scores mean, for every data set and for one.
LEGEND = {
    "": (
        "PCC, MSE: accuracy spot by spot. GSC: gene-gene correlation, SSC: spatial pattern of every gene,\n"
        "both against the measurement. Moran's I: mean over genes, of the prediction and as measured.\n"
        "DepthOracle knows a spot's measured total counts and nothing else."
    ),
    "simulated": "Perfect model: expression drawn anew from the truth of the simulation, given the image.",
    "her2st": "These are neighbouring sections of one patient: another patient is harder.",
}


def run(arguments: argparse.Namespace) -> None:
    """Simulate or load, extract features, train, predict the last section, score, save, draw.

    Parameters
    ----------
    arguments
        ``data``, ``data_dir``, ``out``, ``seed``, ``target``, ``max_epochs``, ``overwrite``.

    Raises
    ------
    FileExistsError
        ``out`` holds something else and ``overwrite`` is not given.
    """
    from flagst import pp

    paths = prepare_folder(arguments.out, overwrite=arguments.overwrite)
    steps = Steps(6)
    with steps(f"Loading {arguments.data} sections"):
        sdata = load_sections(arguments)
    training, held_out = split(sdata)
    with steps(f"Image features of {sdata.tables[TABLE].n_obs} spots"):
        for part in (training, held_out):
            pp.image_features(part, progress=interactive())
    with steps("Training FLAG (regression mean, then diffusion of its residual)"):
        model = fit(training, arguments)
    with steps("Predicting the held-out section, with FLAG and with simpler methods"):
        prediction, scores = score_methods(model, training, held_out, arguments)
    with steps("Saving"):
        model.save(str(paths["model"]), overwrite=True)
        held_out.write(paths["prediction"], overwrite=True)
        scores.to_csv(paths["scores"])
    with steps("Drawing"):
        draw(model, prediction, paths)
    report(scores, prediction, arguments, steps.seconds())


def prepare_folder(out: Path, *, overwrite: bool) -> dict[str, Path]:
    """Make the output folder, without what an earlier run left; paths by name."""
    foreign = out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).exists()))
    if foreign and not overwrite:
        raise FileExistsError(
            f"{out} is already there and was not made by flagst demo. "
            "Name another folder with --out, or pass --overwrite to write into it."
        )
    out.mkdir(parents=True, exist_ok=True)
    paths = {Path(file).stem: out / file for file in OUTPUTS}
    for path in paths.values():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (out / MARKER).write_text(json.dumps({"version": __version__}) + "\n")
    return paths


def load_sections(arguments: argparse.Namespace) -> "SpatialData":
    """All sections, with a gene panel that the last one has no part in."""
    from flagst import datasets, pp

    if arguments.data == "simulated":
        return datasets.simulated_sections(seed=arguments.seed)
    sdata = datasets.her2st(list(HER2ST_SECTIONS), data_dir=arguments.data_dir)
    pp.select_genes(sdata.tables[TABLE], HER2ST_GENES, train_sections=HER2ST_SECTIONS[:-1])
    return sdata


def split(sdata: "SpatialData") -> tuple["SpatialData", "SpatialData"]:
    """All sections but the last, and the last."""
    names = list(sdata.tables[TABLE].obs[OBS.section].cat.categories)
    return sdata.filter_by_coordinate_system(names[:-1]), sdata.filter_by_coordinate_system(names[-1])


def fit(training: "SpatialData", arguments: argparse.Namespace):
    """A trained FLAG."""
    from flagst.model import FLAG

    hush()
    FLAG.setup_spatialdata(training)
    model = FLAG(training, target=arguments.target, seed=arguments.seed)
    model.train(max_epochs=arguments.max_epochs, enable_progress_bar=interactive())
    return model


def score_methods(
    model, training: "SpatialData", held_out: "SpatialData", arguments: argparse.Namespace
) -> tuple["AnnData", "pd.DataFrame"]:
    """The prediction at structure 0.5, written into ``held_out``, and scores, one row per method."""
    import pandas as pd

    from flagst import baselines, tl

    target, rows, query = arguments.target, {}, held_out.tables[TABLE]

    def score(name: str, predictor, structure: float | None) -> None:
        dial = {} if structure is None else {"structure": structure, "seed": arguments.seed}
        label = name if structure is None else f"{name}, structure {structure:g}"
        rows[label] = tl.evaluate(predictor.predict(query.copy(), **dial)).loc["mean"]

    for name, structures in BASELINES.items():
        baseline = getattr(baselines, name)(training, target=target)
        baseline.train()
        for structure in structures:
            score(name, baseline, structure)
    for structure in STRUCTURES:
        score("FLAG", model, structure)
    if arguments.data == "simulated":
        rows["perfect model"] = tl.evaluate(redrawn(query, target), target=target).loc["mean"]
    prediction = model.predict(held_out, structure=SHOWN, seed=arguments.seed)
    tl.evaluate(prediction)
    return prediction, pd.DataFrame(rows).T


def redrawn(query: "AnnData", target: str) -> "AnnData":
    """What a perfect model would predict: the truth of a simulated section, drawn anew given the image."""
    from flagst import datasets
    from flagst.data.targets import to_target

    counts = datasets.redraw_counts(query, REPLICATE_SEED, hidden=True)
    table = query.copy()
    table.layers[LAYERS.draw] = to_target(counts, np.asarray(counts.sum(axis=1)).ravel(), target)
    return table


def draw(model, prediction: "AnnData", paths: dict[str, Path]) -> None:
    """The three figures."""
    import matplotlib

    matplotlib.use("Agg")
    from flagst import pl

    pl.spatial(prediction, mapped_genes(prediction), save=paths["spatial"])
    pl.structure(prediction, save=paths["structure"])
    pl.history(model, save=paths["history"])


def mapped_genes(prediction: "AnnData") -> list[str]:
    """Genes on the map: the one predicted best in training, and one a quarter down that ranking."""
    ranked = prediction.var[VAR.train_pcc].sort_values(ascending=False, kind="stable").index
    return [str(ranked[int(share * (len(ranked) - 1))]) for share in MAPPED]


def report(scores: "pd.DataFrame", prediction: "AnnData", arguments: argparse.Namespace, seconds: float) -> None:
    """Scores and where everything is."""
    section = prediction.obs[OBS.section].iloc[0]
    print(
        f"\nHeld-out section {section}: {prediction.n_obs} spots, {prediction.n_vars} genes, target {arguments.target}"
    )
    print(scores_table(scores))
    print("\n" + LEGEND[""])
    print(LEGEND[arguments.data])
    print(f"\nIn {arguments.out}, after {seconds:.0f} s:")
    for file, text in OUTPUTS.items():
        print(f"  {file:<16} {text}")
