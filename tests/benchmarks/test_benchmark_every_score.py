"""The tables of every score: means, standard deviations, and the genes inside their binomial band."""

import every_score
import numpy as np
import pytest

from flagst.metrics import binomial_band

DRAWN = {"crps": 0.4, "energy": 4.0, "variogram": 0.1}


def record(method, structure, seed, test, **scores):
    values = dict.fromkeys([*every_score.STRUCTURE_COLUMNS.values(), *every_score.USE_COLUMNS.values()], 0.5)
    values |= dict.fromkeys(("ari_self", "nmi_self", "ari_sd", "chance20", "chance50", "pcc_depth_only"), 0.25)
    values |= scores
    if structure not in (None, 1.0):
        values = {name: value for name, value in values.items() if name not in DRAWN}
    return {"method": method, "structure": structure, "seed": seed, "test": test} | values


def flag(seed, test, coverage, **scores):
    beside = {"ceiling": {"gsc": 0.9, "ssc": 0.95}, "n_spots": 100}
    beside["reliability"] = {"gsc": 0.81, "ssc": 0.9}
    coverages = {"coverage": coverage, "coverage_by_share": [c - 0.05 for c in coverage]}
    return record("FLAG", 1.0, seed, test, **beside, **coverages, **scores)


def test_sd_is_that_of_the_seeds_and_only_where_there_is_one():
    records = [record("Ridge", None, seed, test) for seed in (0, 1) for test in ("A", "B")]
    records += [record("FLAG", 0.5, seed, test, gsc=0.6 + 0.2 * seed) for seed in (0, 1) for test in ("A", "B")]
    lines = every_score.score_table(records, every_score.STRUCTURE_COLUMNS).splitlines()
    assert "±" not in lines[1] and lines[2].count("±") == 1
    assert f"{0.7:.3f} ± {np.std([0.6, 0.8], ddof=1):.3f}" in lines[2]
    uses = every_score.score_table(records, every_score.USE_COLUMNS).splitlines()
    assert uses[1].split()[-1] == "0.500" and len(uses[2].split()) == 2 + 4  # structure 0.5 has no score of samples


def test_genes_are_counted_inside_their_band():
    low, high = binomial_band(0.9, 100)
    records = [flag(0, "A", [low, high, 0.5, 1.0, np.nan]), flag(1, "B", [0.9, 0.9, 0.9, 0.1])]
    text = "\n".join(every_score.beside_lines(records))
    assert "62% of genes in their band" in text or "63% of genes in their band" in text  # (2 of 4 + 3 of 4) / 2
    assert f"{low:.3f} to {high:.3f}" in text
    assert "Noise ceiling: GSC 0.900, SSC 0.950; a second measurement" in text and "GSC 0.810, SSC 0.900" in text


def test_without_flag_there_is_no_coverage():
    assert not any("Coverage" in line for line in every_score.beside_lines([record("Ridge", None, 0, "A")]))


def test_genes_of_samples_stand_as_in_the_table(trained_stub):
    model, table = trained_stub
    samples = every_score.samples_of(model, table, 0)
    np.testing.assert_array_equal(samples[0, 0], [0.0, 1.0, 2.0])


@pytest.fixture
def trained_stub():
    """A model whose genes are in another order than the table's; every gene's samples are its place in the table."""
    import anndata as ad
    import pandas as pd

    table = ad.AnnData(np.zeros((2, 3)), var=pd.DataFrame(index=["a", "b", "c"]))

    class Model:
        genes_ = ["c", "a", "b"]

        def sample(self, table, n_samples, *, seed):
            return np.broadcast_to([2.0, 0.0, 1.0], (n_samples, 2, 3))

    return Model(), table
