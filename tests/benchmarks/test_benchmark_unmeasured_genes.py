"""Genes hidden from training: the rows there are, and that vectors say something where they must."""

from types import SimpleNamespace

import numpy as np
import pytest
import unmeasured_genes

from flagst import datasets


@pytest.mark.slow
def test_every_row_is_scored_and_vectors_beat_shuffled_ones():
    """Features are the true programs, so that the mean is good and only the way over the genes is at stake."""
    table = datasets.simulated_sections(n_sections=4, n_spots=100, n_genes=60, seed=0)["table"]
    table.obsm["X_image"] = np.asarray(table.obsm["true_programs"], dtype=np.float32)
    test = str(table.obs["section"].iloc[0])
    reference = {"other patients": [table], "other sections": [table]}
    how_many = SimpleNamespace(n_hidden=20, n_genes=60)
    found = unmeasured_genes.score_rows(table, reference, "lognorm", 0, test, how_many)
    assert list(found) == [
        "mean of the measured genes",
        "most similar measured gene, other patients",
        "FLAG, other patients",
        "most similar measured gene, other sections",
        "FLAG, other sections",
        "FLAG, shuffled vectors",
        "measured in training",
    ]
    pcc = {name: values[0] for name, values in found.items()}
    assert pcc["FLAG, other patients"] > pcc["FLAG, shuffled vectors"] + 0.1
    assert pcc["measured in training"] > pcc["FLAG, other patients"] - 0.02
    assert pcc["FLAG, other patients"] == pcc["FLAG, other sections"]  # the same reference twice


def test_depth_is_taken_out():
    rng = np.random.default_rng(0)
    depth = rng.integers(100, 5000, 200).astype(float)
    values = np.log(depth + 1)[:, None] * [1.0, 2.0] + np.log(depth + 1)[:, None] ** 2
    assert np.abs(unmeasured_genes.without_depth(values, depth)).max() < 1e-8
    own = rng.normal(size=(200, 2))
    assert unmeasured_genes.scores(own + values, own, depth)[1] == pytest.approx(1, abs=1e-6)
