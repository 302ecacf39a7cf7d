"""How far to trust what was learned on sections that look otherwise? Asked inside the training sections.

    python benchmarks/fading.py --data-dir DIR --rotate C2 C3 C4 C5 [--other B4]

On tissue unlike the training images the kernel part of FLAG's mean fades, to ridge regression in the end, and drawn
residuals could be made to fade to noise. Sections of one patient can be made unlike the others: photographed or
stained otherwise, or predicted by fits that have not seen tissue of their kind (one of four, k-means of the features).
Each section of the rotation is put aside in turn; of the others the first is predicted by a fit on the remaining two.
``familiar`` is the share of its spots below 1 in ``obs["flagst_ood"]``, ``trust`` how much of the kernel part is left.

Mean: kernel part times ``trust ** p``; p of 1 is what FLAG does. Draws, with ``--draws``: of FLAG with and without its
diffusion (balanced noise, the same spatial order), GSC and SSC where PCC is down to the same share of that of the
mean. ``--other`` adds a section of another patient, for comparison: the rule of the mean's fade was chosen with B4
in view, see ``docs/benchmarks/choices.md``.
"""

import argparse
import time
from dataclasses import replace

import _table
import dask.array as da
import numpy as np
from her2st import ROTATION
from inner_folds import inner_splits
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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
SAMPLERS = {"denoiser": {}, "noise": {"diffusion": False}}
STRUCTURES = (0.0, 0.2, 0.35, 0.5, 0.7, 1.0)
CHUNK = 2048
#: Kinds of tissue, and principal components that tell them apart.
N_KINDS, N_AXES = 4, 20
#: Draws are compared at this share of the mean's PCC: about where the rotation compares them.
SHARE = {"log2": 0.88, "lognorm": 0.74}
AS_IT_IS, LEFT_OUT = "as it is", "its kind of tissue left out"
MIXED = np.array([[0.8, 0.2, 0], [0, 0.8, 0.2], [0.15, 0, 0.85]], dtype=np.float32)
GLASS = np.array([0.97, 0.93, 0.90], dtype=np.float32)[:, None, None]


def weaker_stain(image: np.ndarray) -> np.ndarray:
    """Pixels ``(3, y, x)`` float32, 0 to 255, of a weaker stain behind tinted glass."""
    return 255 * GLASS * (image / 255) ** 0.6


def blurred(image: np.ndarray) -> np.ndarray:
    """Out of focus by 4 px of the finest level."""
    return gaussian_filter(image, (0, 4, 4))


def grainy(image: np.ndarray) -> np.ndarray:
    """Noise with a standard deviation of 15 at the finest level."""
    return image + 15 * np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)


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


def change_images(sdata, sections: list[str], change) -> None:
    """Change the finest level of images in place, and make the coarser ones of it."""
    for section in sections:
        tree = sdata.images[image_element(section)]
        images = [tree[level]["image"] for level in tree.children]
        values = np.clip(change(images[0].values.astype(np.float32)), 0, 255).round().astype(np.uint8)
        for image in images:
            image.data = da.from_array(values, chunks=(3, CHUNK, CHUNK))
            height, width = (size // 2 for size in values.shape[1:])
            pairs = values[:, : 2 * height, : 2 * width].reshape(3, height, 2, width, 2)
            values = pairs.mean(axis=(2, 4), dtype=np.float32).round().astype(np.uint8)
    io.clear_image_cache()


def changed_features(options, change, settings: dict) -> dict[str, np.ndarray]:
    """Image features ``(n_spots, d_image)`` of every section of the rotation."""
    sdata = datasets.her2st(options.rotate, data_dir=options.data_dir)
    if change:
        change_images(sdata, options.rotate, change)
    pp.image_features(sdata, progress=False, **settings)
    table = sdata.tables[TABLE]
    return {s: np.asarray(part_of(table, [s]).obsm[OBSM.image]) for s in options.rotate}


def part_of(table, sections: list[str]):
    """Copy of some sections of a table."""
    return table[table.obs[OBS.section].isin(sections).to_numpy()].copy()


def test_section(table, genes: list[str], target: str):
    """A section with what was measured there; genes may be absent."""
    [section] = sections_from_anndata(table)
    depth = np.asarray(table.X.sum(axis=1), dtype=float).ravel()
    return replace(section, target=np.asarray(to_target(table[:, genes].X, depth, target)))


def faded(mean, design: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Trust ``(n_spots,)`` in the kernel part; standardised means ``(n_spots, n_genes)``, one per power of it."""
    linear, features = mean.ridge.predict(design), mean.kernel.transform(design)
    part, trust = mean.weight * (mean.kernel_ridge.predict(features) - linear), mean.kernel.trust(features)
    return trust[:, 0], [linear if np.isinf(power) else linear + trust**power * part for power in POWERS]


def predicted(train: list, section) -> dict[str, np.ndarray]:
    """``"familiar"`` and ``"trust"`` of every spot; ``"mean"``, ``(n_spots, n_powers, n_genes)`` as the target is."""
    parts = ([getattr(s, name) for s in train] for name in ("image", "neighbours", "coords", "target"))
    stage, _ = RegressionStage.fit(*parts)
    trust, means = faded(stage.mean, stage.context.transform(section.image, section.neighbours))
    familiar = FamiliarTissue.fit(train).score(section.image) <= 1
    return {"familiar": familiar, "trust": trust, "mean": np.stack([stage.scaler.restore(m) for m in means], axis=1)}


def scored(found: dict[str, np.ndarray], section) -> dict:
    """Shares, and PCC and MSE of every power ``(n_powers, 2)``."""
    means = [found["mean"][:, power] for power in range(len(POWERS))]
    scores = [(metrics.pcc(values, section.target), metrics.mse(values, section.target)) for values in means]
    return {name: float(found[name].mean()) for name in ("familiar", "trust")} | {"mean": np.array(scores)}


def kinds_of(train, query) -> tuple[np.ndarray, np.ndarray]:
    """Kind of tissue of every training spot and of every spot of a query, told apart by the training features."""
    features = np.asarray(train.obsm[OBSM.image])
    means = KMeans(N_KINDS, n_init=5, random_state=0)
    told = make_pipeline(StandardScaler(), PCA(N_AXES, random_state=0), means).fit(features)
    return told.predict(features), told.predict(np.asarray(query.obsm[OBSM.image]))


def without_kind(train, query, genes: list[str], target: str) -> dict[str, np.ndarray]:
    """:func:`predicted`, every spot by a fit on training spots of other kinds of tissue."""
    section, out = test_section(query, genes, target), {}
    of_train, of_query = kinds_of(train, query)
    for kind in np.unique(of_query):
        found = predicted(sections_from_anndata(train[of_train != kind].copy(), genes=genes, target=target), section)
        for name, values in found.items():
            out.setdefault(name, np.zeros_like(values))[of_query == kind] = values[of_query == kind]
    return out


def three_scores(values: np.ndarray, section) -> tuple[float, float, float]:
    """PCC, GSC and SSC of a prediction ``(n_spots, n_genes)``."""
    ssc = metrics.ssc(values, section.target, moran_graph(section.coords, section.layout))
    return metrics.pcc(values, section.target), metrics.gsc(values, section.target), ssc


def draw_scores(model, query, section) -> np.ndarray:
    """:func:`three_scores` of FLAG or a baseline at every structure, ``(n_structures, 3)``."""
    drawn = (model.predict(query, structure=structure, seed=0) for structure in STRUCTURES)
    return np.array([three_scores(p[:, model.genes_].layers[LAYERS.draw], section) for p in drawn])


def run(table, changed: dict[str, dict], split: dict, target: str, options) -> dict[str, dict]:
    """Shares, scores of the mean and, if asked, of draws, by what is unlike."""
    train, held = part_of(table, split["train"]), part_of(table, [split["test"]])
    pp.select_genes(train, options.n_genes)
    genes = [str(gene) for gene in train.var_names[train.var[VAR.panel].to_numpy(bool)]]
    queries = {AS_IT_IS: held} | {name: held.copy() for name in changed}
    for name, features in changed.items():
        queries[name].obsm[OBSM.image] = features[split["test"]]
    if options.other:
        queries[options.other] = part_of(table, [options.other])
    models, found = {}, {}
    if options.draws:
        FLAG.setup_anndata(train, section_key=OBS.section)
        for name, settings in SAMPLERS.items():
            models[name] = FLAG(train, target=target, seed=0, **settings)
            models[name].train(accelerator="cpu", enable_progress_bar=False)
    learned = sections_from_anndata(train, genes=genes, target=target)
    for name, query in queries.items():
        section = test_section(query, genes, target)
        found[name] = scored(predicted(learned, section), section)
        if models:
            of_panel = query[:, genes].copy()
            found[name]["draws"] = {k: draw_scores(model, of_panel, section) for k, model in models.items()}
    found[LEFT_OUT] = scored(without_kind(train, held, genes, target), test_section(held, genes, target))
    return found


def table_lines(runs: list[dict], target: str) -> list[tuple[str, ...]]:
    """One line for all that is unlike, means over the sections put aside."""
    heads = [f"{score} {name}" for name in FADES for score in ("PCC", "MSE")]
    lines = [(f"target {target}", "familiar", "trust", *heads)]
    for name in runs[0]:
        scores = np.mean([found[name]["mean"] for found in runs], axis=0)
        shares = [np.mean([found[name][share] for found in runs]) for share in ("familiar", "trust")]
        lines.append((name, *(f"{v:.2f}" for v in shares), *(f"{v:.3f}" for v in scores.ravel())))
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
