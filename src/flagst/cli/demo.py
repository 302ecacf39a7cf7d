"""``flagst demo``: train a model, predict a section, print scores, and save figures."""

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

#: Written first, so that a later run recognises the folder as one of the demo.
MARKER = "flagst_demo.json"
#: File -> description, as the report prints it.
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
#: Baseline in the table of scores -> values of ``structure``; None if it has no such argument.
BASELINES = {"DepthOracle": (None,), "Ridge": (None,), "CorrelatedGaussian": (0.5, 1.0)}
STRUCTURES = (0.0, 0.5, 1.0)
#: Structure of the prediction that is saved and plotted.
SHOWN = 0.5
#: Genes on the map, as positions in the ranking by accuracy: 0 is the best predicted gene.
MAPPED = (0.0, 0.25)
REPLICATE_SEED = 20260
#: Explanation of the scores: for every data set, and for each.
LEGEND = {
    "": (
        "PCC, MSE: accuracy of each gene across spots. GSC: agreement of gene-gene correlations.\n"
        "SSC: agreement of Moran's I across genes. All compare the prediction with the measurement.\n"
        "Moran's I: mean over genes, of the prediction and of the measurement.\n"
        "DepthOracle uses only the measured total counts of each spot."
    ),
    "simulated": "Perfect model: expression sampled again from the truth of the simulation, given the image.",
    "her2st": "These are neighbouring sections of one patient. Another patient is harder to predict.",
}


def run(arguments: argparse.Namespace) -> None:
    """Load sections, compute features, train, predict the last section, score, save and plot.

    Parameters
    ----------
    arguments
        ``data``, ``data_dir``, ``out``, ``seed``, ``target``, ``max_epochs``, ``overwrite``.

    Raises
    ------
    FileExistsError
        ``out`` was not made by the demo, and ``overwrite`` is not given.
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
    with steps("Training FLAG (a regression, then a diffusion model of its residual)"):
        model = fit(training, arguments)
    with steps("Predicting the held-out section, with FLAG and with simpler methods"):
        prediction, scores = score_methods(model, training, held_out, arguments)
    with steps("Saving"):
        model.save(str(paths["model"]), overwrite=True)
        held_out.write(paths["prediction"], overwrite=True)
        scores.to_csv(paths["scores"])
    with steps("Plotting"):
        draw(model, prediction, paths)
    report(scores, prediction, arguments, steps.seconds())


def prepare_folder(out: Path, *, overwrite: bool) -> dict[str, Path]:
    """Make the output folder, and remove the files of an earlier run. Returns name -> path."""
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
    """All sections, with a gene panel. The last section is not used to select the panel."""
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
    """The prediction at structure 0.5, which is written into ``held_out``; and scores, one row per method."""
    import pandas as pd

    from flagst import baselines, tl

    target, rows, query = arguments.target, {}, held_out.tables[TABLE]

    def score(name: str, predictor, structure: float | None) -> None:
        options = {} if structure is None else {"structure": structure, "seed": arguments.seed}
        label = name if structure is None else f"{name}, structure {structure:g}"
        rows[label] = tl.evaluate(predictor.predict(query.copy(), **options)).loc["mean"]

    for name, structures in BASELINES.items():
        baseline = getattr(baselines, name)(training, target=target)
        baseline.train()
        for structure in structures:
            score(name, baseline, structure)
    for structure in STRUCTURES:
        score("FLAG", model, structure)
    if arguments.data == "simulated":
        rows["perfect model"] = tl.evaluate(perfect_prediction(query, target), target=target).loc["mean"]
    prediction = model.predict(held_out, structure=SHOWN, seed=arguments.seed)
    tl.evaluate(prediction)
    return prediction, pd.DataFrame(rows).T


def perfect_prediction(query: "AnnData", target: str) -> "AnnData":
    """The prediction of a perfect model: counts sampled again from the truth of the simulation, given the image."""
    from flagst import datasets
    from flagst.data.targets import to_target

    counts = datasets.redraw_counts(query, REPLICATE_SEED, hidden=True)
    table = query.copy()
    table.layers[LAYERS.draw] = to_target(counts, np.asarray(counts.sum(axis=1)).ravel(), target)
    return table


def draw(model, prediction: "AnnData", paths: dict[str, Path]) -> None:
    """Save the three figures."""
    import matplotlib

    matplotlib.use("Agg")
    from flagst import pl

    pl.spatial(prediction, mapped_genes(prediction), save=paths["spatial"])
    pl.structure(prediction, save=paths["structure"])
    pl.history(model, save=paths["history"])


def mapped_genes(prediction: "AnnData") -> list[str]:
    """Genes on the map: the gene that was predicted best in training, and one a quarter down this ranking."""
    ranked = prediction.var[VAR.train_pcc].sort_values(ascending=False, kind="stable").index
    return [str(ranked[int(share * (len(ranked) - 1))]) for share in MAPPED]


def report(scores: "pd.DataFrame", prediction: "AnnData", arguments: argparse.Namespace, seconds: float) -> None:
    """Print the scores and the list of files."""
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
