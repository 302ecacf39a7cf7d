"""The benchmark of unlike tissue: half of an image recoloured, and the rows that it prints."""

from types import SimpleNamespace

import numpy as np
import unlike_tissue

import flagst

OPTIONS = SimpleNamespace(n_jobs=1)


def test_colours_are_swapped_left_of_the_middle_spot():
    sdata = flagst.datasets.simulated_sections(n_sections=1, n_spots=60, n_genes=8)
    flagst.pp.image_features(sdata, progress=False)
    table = sdata["table"]
    before, x = np.array(table.obsm["X_image"]), np.asarray(table.obsm["spatial"])[:, 0]
    after, left = unlike_tissue.swap_colours(sdata, OPTIONS)
    assert 20 < left.sum() < 40 and x[left].max() < x[~left].min()
    moved = np.abs(after - before).max(axis=1)
    far = np.abs(x - np.median(x)) > 0.25 * np.ptp(x)  # patches do not reach across the middle
    # the stain of the whole image is estimated anew, which moves the other half a little
    assert moved[left & far].min() > 2 * moved[~left & far].max()


def test_rows_are_auroc_and_share_above_one(capsys):
    unlike_tissue.report("other", np.array([0.2, 0.5, 1.2]), np.array([0.4, 1.1, 1.5, 2.0]))
    # of 12 pairs the unusual spot is further away in 9: not (0.4, 0.5), (0.4, 1.2), (1.1, 1.2)
    assert capsys.readouterr().out.split() == ["other", "0.750", "0.750"]
