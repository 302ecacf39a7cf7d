"""Blocks, jackknife and permutation tests against textbook formulas and explicit permutations."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import t

from flagst.data.graph import moran_graph
from flagst.metrics import (
    gene_correlation,
    gsc,
    gsc_permutation_test,
    jackknife,
    morans_i,
    spatial_blocks,
    ssc,
    ssc_permutation_test,
)


@pytest.fixture
def section():
    """A 12 x 9 array: predicted, measured, coords."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(12.0), np.arange(9.0))
    coords = np.column_stack([x.ravel(), y.ravel()])
    programs = np.sin(coords @ rng.normal(size=(2, 3)))
    measured = programs @ rng.normal(size=(3, 6)) + rng.normal(size=(108, 6))
    return measured + rng.normal(size=measured.shape), measured, coords


@pytest.mark.parametrize("n_blocks", [1, 2, 5, 12, 108])
def test_blocks_are_equal_and_compact(section, n_blocks):
    coords = section[2]
    blocks = spatial_blocks(coords, n_blocks)
    sizes = np.bincount(blocks, minlength=n_blocks)
    assert sizes.sum() == 108 and np.ptp(sizes) <= 1 and len(sizes) == n_blocks
    # as round as the section allows: far tighter than the same number of random blocks
    spread = np.mean([coords[blocks == b].var(axis=0).sum() for b in range(n_blocks)])
    assert spread <= 1.6 * coords.var(axis=0).sum() / n_blocks + 1e-12


def test_blocks_do_not_depend_on_spot_order(section):
    coords = section[2]
    order = np.random.default_rng(1).permutation(len(coords))
    np.testing.assert_array_equal(spatial_blocks(coords[order], 7), spatial_blocks(coords, 7)[order])


def test_jackknife_of_a_mean_is_its_standard_error():
    """With equal blocks the jackknife of a mean is the standard error of the mean of block means."""
    rng = np.random.default_rng(2)
    coords, values = rng.random((120, 2)), rng.normal(size=120)
    found = jackknife(lambda rows: values[rows].mean(), coords, n_blocks=10, confidence=0.9)
    blocks = spatial_blocks(coords, 10)
    means = np.array([values[blocks == b].mean() for b in range(10)])
    error = means.std(ddof=1) / np.sqrt(10)
    assert found.estimate == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(error)
    assert found.high - found.estimate == pytest.approx(t.ppf(0.95, 9) * error)
    assert found.estimate - found.low == pytest.approx(t.ppf(0.95, 9) * error)
    assert found.n_blocks == 10


def test_blocks_see_that_neighbours_are_alike():
    """The mean of a smooth map: its sd over maps is that of the block jackknife, not of single spots."""
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    coords = np.column_stack([x.ravel(), y.ravel()])
    distance = np.linalg.norm(coords[:, None] - coords[None], axis=-1)
    factor = np.linalg.cholesky(np.exp(-distance) + 1e-8 * np.eye(400))
    maps = (factor @ rng.normal(size=(400, 60))).T
    true_sd = np.sqrt((factor @ factor.T).mean())
    by_block, by_spot = (
        np.mean([jackknife(lambda r, m=m: m[r].mean(), coords, n_blocks=n).standard_error for m in maps])
        for n in (16, 400)
    )
    assert 0.75 * true_sd < by_block < 1.1 * true_sd
    assert by_spot < 0.55 * true_sd


def test_jackknife_of_structure(section):
    predicted, measured, coords = section
    graph = moran_graph(coords, "square")
    found = jackknife(lambda r: ssc(predicted[r], measured[r], graph[r][:, r]), coords, n_blocks=6)
    assert found.estimate == pytest.approx(ssc(predicted, measured, graph))
    assert found.low < found.estimate < found.high
    perfect = jackknife(lambda r: gsc(measured[r], measured[r]), coords)
    assert perfect.standard_error == pytest.approx(0, abs=1e-9)
    assert np.isnan(jackknife(lambda r: float("nan"), coords).standard_error)


def test_gsc_test_equals_explicit_permutations(section):
    """Six genes have 720 orders: the null distribution is known exactly."""
    predicted, measured, _ = section
    guess, true = gene_correlation(predicted), gene_correlation(measured)
    upper = np.triu_indices(6, 1)
    null = [np.corrcoef(guess[np.ix_(o, o)][upper], true[upper])[0, 1] for o in permutations(range(6))]
    found = gsc_permutation_test(predicted, measured, n_permutations=4000, seed=1)
    assert found.observed == pytest.approx(gsc(predicted, measured), abs=1e-12)
    assert found.null_mean == pytest.approx(np.mean(null), abs=0.03)
    assert found.null_sd == pytest.approx(np.std(null), rel=0.05)
    assert found.p_value == pytest.approx(np.mean(np.array(null) >= found.observed - 1e-9), abs=0.01)
    assert found == gsc_permutation_test(predicted, measured, n_permutations=4000, seed=1)


def test_ssc_test_equals_explicit_permutations(section):
    predicted, measured, coords = section
    graph = moran_graph(coords, "square")
    guess, true = morans_i(predicted, graph), morans_i(measured, graph)
    null = [np.corrcoef(guess[list(order)], true)[0, 1] for order in permutations(range(6))]
    found = ssc_permutation_test(predicted, measured, graph, n_permutations=4000)
    assert found.observed == pytest.approx(ssc(predicted, measured, graph), abs=1e-12)
    assert found.null_mean == pytest.approx(0, abs=0.03)
    assert found.null_sd == pytest.approx(np.std(null), rel=0.05)
    assert found.p_value == pytest.approx(np.mean(np.array(null) >= found.observed - 1e-9), abs=0.02)


def test_p_value_counts_the_observed_order(section):
    _, measured, coords = section
    found = gsc_permutation_test(measured, measured, n_permutations=19)
    assert found.p_value == pytest.approx(1 / 20, abs=0.051)
    assert found.p_value >= 1 / 20 and found.n_permutations == 19
    rng = np.random.default_rng(5)
    p_values = [gsc_permutation_test(rng.normal(size=(30, 12)), rng.normal(size=(30, 12)), n_permutations=39)
                for _ in range(60)]  # fmt: skip
    assert 0.35 < np.mean([test.p_value for test in p_values]) < 0.65


def test_constant_genes(section):
    predicted, measured, coords = (x.copy() for x in section)
    graph = moran_graph(coords, "square")
    measured[:, 2] = 1.0
    predicted[:, 4] = 0.5
    assert gsc_permutation_test(predicted, measured).observed == pytest.approx(gsc(predicted, measured))
    assert ssc_permutation_test(predicted, measured, graph).observed == pytest.approx(ssc(predicted, measured, graph))
    flat = np.ones_like(predicted)
    assert np.isnan(gsc_permutation_test(flat, measured).p_value)
    assert np.isnan(ssc_permutation_test(flat, measured, graph).p_value)
    alike = np.outer(predicted[:, 0], np.linspace(1, 2, 6)) + 3  # all correlations are 1 but for rounding
    assert np.isnan(gsc_permutation_test(alike, measured).p_value)
    assert np.isnan(gsc_permutation_test(predicted[:, :2], measured[:, :2]).observed)


def test_errors(section):
    predicted, measured, coords = section
    with pytest.raises(ValueError, match="n_blocks must be 1 to 108"):
        spatial_blocks(coords, 109)
    with pytest.raises(ValueError, match="n_blocks must be at least 2"):
        jackknife(len, coords, n_blocks=1)
    with pytest.raises(ValueError, match="confidence must lie"):
        jackknife(len, coords, confidence=1)
    with pytest.raises(ValueError, match=r"coords must be \(n_spots, 2\)"):
        spatial_blocks(coords[:, :1], 2)
    with pytest.raises(ValueError, match="coords has NaN"):
        spatial_blocks(coords * np.nan, 2)
    with pytest.raises(ValueError, match="n_permutations must be at least 1"):
        gsc_permutation_test(predicted, measured, n_permutations=0)
