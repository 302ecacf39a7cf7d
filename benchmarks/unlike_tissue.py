"""How well the score of unlike tissue, obs["flagst_ood"], tells other tissue from a section of the same patient.

    python benchmarks/unlike_tissue.py --data-dir DIR [--train C2 C3 C4] [--test C5] [--other B4]

Fitted on the image features of the training sections. AUROC of the test section's spots against those of
another patient's section, of the test section with red and blue swapped in its left half (against the right
half), and of simulated sections. "above 1" is the share of spots that are further away than 95 % of the spots
of a left-out training section. The number of components and the mean of the two distances were chosen by the
AUROC of B4, so that the first row is optimistic.
"""

import argparse
import logging

import numpy as np
from sklearn.metrics import roc_auc_score

import flagst
from flagst._keys import OBS, OBSM, TABLE, image_element
from flagst.data.from_anndata import sections_from_anndata
from flagst.model.unlike import FamiliarTissue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; downloaded when not given")
    parser.add_argument("--train", nargs="+", default=["C2", "C3", "C4"])
    parser.add_argument("--test", default="C5")
    parser.add_argument("--other", default="B4")
    parser.add_argument("--n-jobs", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("flagst").setLevel(logging.WARNING)

    sdata = flagst.datasets.her2st([*options.train, options.test, options.other], options.data_dir)
    flagst.pp.image_features(sdata, n_jobs=options.n_jobs, progress=False)
    sections = {section.name: section for section in sections_from_anndata(sdata.tables[TABLE])}
    familiar = FamiliarTissue.fit([sections[name] for name in options.train])
    usual = familiar.score(sections[options.test].image)
    recoloured, left = swap_colours(flagst.datasets.her2st(options.test, options.data_dir), options)
    scores = familiar.score(recoloured)

    print(f"trained on {', '.join(options.train)}; {options.test}: {(usual > 1).mean():.3f} of spots above 1")
    print(f"{'against':32s} {'AUROC':>6s} {'above 1':>8s}")
    report(f"{options.other}, another patient", usual, familiar.score(sections[options.other].image))
    report(f"{options.test}, left half recoloured", scores[~left], scores[left])
    report("simulated sections", usual, familiar.score(simulated(options)))


def report(name: str, usual: np.ndarray, unusual: np.ndarray) -> None:
    """One row of the table."""
    truth = np.repeat([0, 1], [len(usual), len(unusual)])
    auroc = roc_auc_score(truth, np.concatenate([usual, unusual]))
    print(f"{name:32s} {auroc:6.3f} {(unusual > 1).mean():8.3f}")


def swap_colours(sdata, options) -> tuple[np.ndarray, np.ndarray]:
    """Features ``(n_spots, d_image)`` with red and blue swapped left of the middle spot, and which spots lie there."""
    table = sdata.tables[TABLE]
    x = np.asarray(table.obsm[OBSM.spatial])[:, 0]
    middle = float(np.median(x))
    section = str(table.obs[OBS.section].iloc[0])
    tree = sdata.images[image_element(section)]
    width = tree["scale0"]["image"].sizes["x"]
    for level in tree.children:
        image = tree[level]["image"]
        cut = round(middle * image.sizes["x"] / width)
        swapped = image.data.copy()
        swapped[:, :, :cut] = swapped[::-1, :, :cut]
        image.data = swapped
    flagst.io.clear_image_cache()
    flagst.pp.image_features(sdata, n_jobs=options.n_jobs, progress=False, overwrite=True)
    return np.asarray(table.obsm[OBSM.image]), x < middle


def simulated(options) -> np.ndarray:
    """Features of all spots of simulated sections, ``(n_spots, d_image)``."""
    sdata = flagst.datasets.simulated_sections(n_sections=2)
    flagst.pp.image_features(sdata, n_jobs=options.n_jobs, progress=False)
    return np.asarray(sdata.tables[TABLE].obsm[OBSM.image])


if __name__ == "__main__":
    main()
