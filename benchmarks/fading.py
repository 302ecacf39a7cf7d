"""How far to trust what was learned on sections that look otherwise? Asked inside the training sections.

    python benchmarks/fading.py --data-dir DIR --rotate C2 C3 C4 C5 [--other B4]

On tissue unlike the training images the kernel part of FLAG's mean fades, to ridge regression in the end, and drawn
residuals could be made to fade to noise. Sections of one patient can be made unlike the others: photographed or
stained otherwise, or with one of four kinds of tissue (k-means of the features) left out of training. Each section
of the rotation is put aside in turn; of the others the first is predicted by a fit on the remaining two, from
features that are as they were, or from those of its changed image. ``familiar`` is the share of its spots below 1
in ``obs["flagst_ood"]``.

Mean: kernel part times ``trust ** p``; 1 is what FLAG does. Draws, with ``--draws``: those of the denoiser and those
of the same model without it (balanced noise, the same spatial order), GSC and SSC where PCC is down to the same share
of that of the mean. ``--other`` adds a section of another patient, for comparison: nothing is chosen by it.
"""

import argparse
import time
from dataclasses import replace

import _table
import numpy as np
from her2st import ROTATION
from inner_folds import inner_splits
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from flagst import FLAG, datasets, io, metrics, pp
from flagst._keys import LAYERS, OBS, OBSM, TABLE, VAR, image_element
from flagst.data.from_anndata import sections_from_anndata
from flagst.data.graph import moran_graph
from flagst.data.targets import to_target
from flagst.encoders import Handcrafted
from flagst.model.unlike import FamiliarTissue
from flagst.regression import RegressionStage

#: How the kernel part fades, and the power of its trust that does it.
FADES = {"unfaded": 0, "FLAG": 1, "faster": 4, "ridge": np.inf}
POWERS = tuple(FADES.values())
SAMPLERS = ("denoiser", "noise")
STRUCTURES = (0.0, 0.2, 0.35, 0.5, 0.7, 1.0)
#: Kinds of tissue, and principal components that tell them apart.
N_KINDS, N_AXES = 4, 20
#: Draws are compared at this share of the mean's PCC: about where the rotation compares them.
SHARE = {"log2": 0.88, "lognorm": 0.74}
AS_IT_IS, LEFT_OUT = "as it is", "tissue of its kind left out"
MIXED = np.array([[0.8, 0.2, 0], [0, 0.8, 0.2], [0.15, 0, 0.85]])


def weaker_stain(image: np.ndarray) -> np.ndarray:
    """Pixels ``(3, y, x)``, 0 to 255, of a weaker stain behind tinted glass."""
    return 255 * np.array([0.97, 0.93, 0.90])[:, None, None] * (image / 255) ** 0.6


def blurred(image: np.ndarray) -> np.ndarray:
    """Out of focus by 4 px."""
    return gaussian_filter(image, (0, 4, 4))


def grainy(image: np.ndarray) -> np.ndarray:
    """Noise with a standard deviation of 15."""
    return image + np.random.default_rng(0).normal(0, 15, image.shape)


def mixed_colours(image: np.ndarray) -> np.ndarray:
    """A fifth of each channel from the next."""
    return np.tensordot(MIXED, image, 1)


def widths(factor: float) -> dict:
    """Patches as if the pixel size were wrong by a factor."""
    return {"patch_um": tuple(factor * width for width in Handcrafted.patch_um)}


#: What is done to the pixels of the test section, and arguments of ``pp.image_features``.
CHANGES = {
    "weaker stain, normalised": (weaker_stain, {}),
    "weaker stain, not normalised": (weaker_stain, {"stain_normalise": None}),
    "colours mixed": (mixed_colours, {}),
    "grain": (grainy, {}),
    "out of focus": (blurred, {}),
    "patches 1.4 times as wide": (None, widths(1.4)),
    "patches 0.7 times as wide": (None, widths(0.7)),
}


def changed_features(options, change, settings: dict) -> dict[str, np.ndarray]:
    """Image features ``(n_spots, d_image)`` of every section of the rotation."""
    sdata = datasets.her2st(options.rotate, data_dir=options.data_dir)
    for section in options.rotate if change else ():
        tree = sdata.images[image_element(section)]
        for level in tree.children:
            image = tree[level]["image"]
            image.data = image.data.rechunk({0: 3}).map_blocks(
                lambda block: np.clip(change(block.astype(np.float32)), 0, 255).round().astype(np.uint8),
                dtype=np.uint8,
            )
    io.clear_image_cache()
    pp.image_features(sdata, progress=False, **settings)
    table = sdata.tables[TABLE]
    return {s: np.asarray(part_of(table, [s]).obsm[OBSM.image]) for s in options.rotate}


def part_of(table, sections: list[str]):
    """Copy of some sections of a table."""
    return table[table.obs[OBS.section].isin(sections).to_numpy()].copy()


def training_sections(table, genes: list[str], target: str) -> list:
    """Sections of a table as the model reads them."""
    return sections_from_anndata(
        table,
        section_key=OBS.section,
        spatial_key=OBSM.spatial,
        image_key=OBSM.image,
        genes=genes,
        target=target,
        layer=None,
    )


def test_section(table, genes: list[str], target: str):
    """A section with what was measured there; genes may be absent."""
    [section] = sections_from_anndata(table, section_key=OBS.section)
    depth = np.asarray(table.X.sum(axis=1), dtype=float).ravel()
    return replace(section, target=np.asarray(to_target(table[:, genes].X, depth, target)))


def mean_scores(train: list, section) -> tuple[float, np.ndarray]:
    """Share of familiar spots; PCC and MSE of the mean with its kernel part faded by every power, ``(n_powers, 2)``."""
    parts = ([getattr(s, name) for s in train] for name in ("image", "neighbours", "coords", "target"))
    stage, _ = RegressionStage.fit(*parts)
    mean, design = stage.mean, stage.context.transform(section.image, section.neighbours)
    linear, features = mean.ridge.predict(design), mean.kernel.transform(design)
    part, trust = mean.weight * (mean.kernel_ridge.predict(features) - linear), mean.kernel.trust(features)
    faded = [linear if np.isinf(power) else linear + trust**power * part for power in POWERS]
    values = [stage.scaler.restore(standardised) for standardised in faded]
    familiar = float((FamiliarTissue.fit(train).score(section.image) <= 1).mean())
    return familiar, np.array([(metrics.pcc(v, section.target), metrics.mse(v, section.target)) for v in values])


def without_kinds(train) -> list:
    """Training table without the spots of one kind of tissue, for every kind."""
    features = np.asarray(train.obsm[OBSM.image])
    unit = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-8)
    axes = PCA(N_AXES, random_state=0).fit_transform(unit)
    kind = KMeans(N_KINDS, n_init=5, random_state=0).fit_predict(axes)
    return [train[kind != left_out].copy() for left_out in range(N_KINDS)]


def draw_scores(model: FLAG, query, section) -> dict[str, np.ndarray]:
    """PCC, GSC and SSC of draws with and without the denoiser, ``(n_structures, 3)`` each."""
    settings, fitted, found = model.settings_, model.fitted_, {}
    graph = moran_graph(section.coords, section.layout)
    jitter = np.zeros_like(fitted.residual.jitter)  # makes up for what the denoiser's draws lack in variance
    for name in SAMPLERS:
        if name == "noise":
            model.settings_ = replace(settings, diffusion=False)
            model.fitted_ = replace(fitted, residual=replace(fitted.residual, jitter=jitter))
        scores = []
        for structure in STRUCTURES:
            values = model.predict(query, structure=structure, seed=0)[:, model.genes_].layers[LAYERS.draw]
            pcc, gsc = metrics.pcc(values, section.target), metrics.gsc(values, section.target)
            scores.append((pcc, gsc, metrics.ssc(values, section.target, graph)))
        found[name] = np.array(scores)
    model.settings_, model.fitted_ = settings, fitted
    return found


def run(table, changed: dict[str, dict], split: dict, target: str, options) -> dict[str, dict]:
    """Share of familiar spots, scores of the mean and, if asked, of draws, by what is unlike."""
    train, held = part_of(table, split["train"]), part_of(table, [split["test"]])
    pp.select_genes(train, options.n_genes)
    genes = [str(gene) for gene in train.var_names[train.var[VAR.panel].to_numpy(bool)]]
    queries = {AS_IT_IS: held} | {name: held.copy() for name in changed}
    for name, features in changed.items():
        queries[name].obsm[OBSM.image] = features[split["test"]]
    if options.other:
        queries[options.other] = part_of(table, [options.other])
    model, found = None, {}
    if options.draws:
        FLAG.setup_anndata(train, section_key=OBS.section)
        model = FLAG(train, target=target, seed=0)
        model.train(accelerator="cpu", enable_progress_bar=False)
    learned = training_sections(train, genes, target)
    for name, query in queries.items():
        section = test_section(query, genes, target)
        familiar, scores = mean_scores(learned, section)
        found[name] = {"familiar": familiar, "mean": scores}
        if model is not None:
            found[name]["draws"] = draw_scores(model, query[:, genes].copy(), section)
    section = test_section(held, genes, target)
    kinds = [mean_scores(training_sections(part, genes, target), section) for part in without_kinds(train)]
    found[LEFT_OUT] = {
        name: np.mean([kind[i] for kind in kinds], axis=0) for i, name in enumerate(("familiar", "mean"))
    }
    return found


def table_lines(runs: list[dict], target: str) -> list[tuple[str, ...]]:
    """One line for all that is unlike, means over the sections put aside."""
    heads = [f"{score} {name}" for name in FADES for score in ("PCC", "MSE")]
    lines = [(f"target {target}", "familiar", *heads)]
    for name in runs[0]:
        scores = np.mean([found[name]["mean"] for found in runs], axis=0)
        familiar = np.mean([found[name]["familiar"] for found in runs])
        lines.append((name, f"{familiar:.2f}", *(f"{value:.3f}" for value in scores.ravel())))
    return lines


def draw_lines(runs: list[dict], target: str) -> list[tuple[str, ...]]:
    """GSC and SSC of both samplers at one share of the mean's PCC, of fronts averaged over the sections put aside."""
    lines = [(f"target {target}", "PCC", *(f"{score} {name}" for score in ("GSC", "SSC") for name in SAMPLERS))]
    for name in runs[0]:
        if "draws" not in runs[0][name]:
            continue
        fronts = {k: np.mean([found[name]["draws"][k] for found in runs], axis=0) for k in SAMPLERS}
        at = SHARE[target] * fronts["noise"][0, 0]
        front = [(fronts[k][:, 0], fronts[k][:, i]) for i in (1, 2) for k in SAMPLERS]
        cells = [_table.interpolate(STRUCTURES, *curve, at=at) for curve in front]
        lines.append((name, f"{at:.3f}", *("out of range" if cell is None else f"{cell:.3f}" for cell in cells)))
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", default=list(ROTATION))
    parser.add_argument("--other", metavar="S", help="section of another patient")
    parser.add_argument("--targets", nargs="+", choices=tuple(SHARE), default=list(SHARE))
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--draws", action="store_true", help="train FLAG too, and compare draws")
    options, start = parser.parse_args(arguments), time.perf_counter()
    if len(set(options.rotate)) < 4:
        parser.error("--rotate needs at least four sections: one put aside, one predicted from two")
    sections = [*options.rotate, *([options.other] if options.other else [])]
    sdata = datasets.her2st(sections, data_dir=options.data_dir)
    pp.image_features(sdata, progress=False)
    changed = {name: changed_features(options, *change) for name, change in CHANGES.items()}
    splits = [inner_splits(options.rotate, aside, 1)[0] for aside in options.rotate]
    for target in options.targets:
        runs = [run(sdata.tables[TABLE], changed, split, target, options) for split in splits]
        print(_table.aligned(table_lines(runs, target)) + "\n")
        if options.draws:
            print(_table.aligned(draw_lines(runs, target)) + "\n")
    print(f"Wall time {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
