"""PIT and coverage: uniform for perfect draws, also with ties; counted by hand for small cases."""

import numpy as np
import pytest
from scipy.stats import binom, kstest

from flagst.metrics import binomial_band, coverage, per_gene_coverage, pit, share_below


def test_pit_lies_between_the_ranks_of_its_neighbours():
    rng = np.random.default_rng(0)
    samples, measured = rng.integers(0, 4, size=(9, 8, 5)), rng.integers(0, 4, size=(8, 5))
    values = pit(samples, measured, seed=3)
    for spot, gene in np.ndindex(measured.shape):
        draws, truth = samples[:, spot, gene], measured[spot, gene]
        below, equal = sum(draws < truth), sum(draws == truth)
        assert below / 10 <= values[spot, gene] < (below + equal + 1) / 10
    np.testing.assert_array_equal(values, pit(samples, measured, seed=3))
    assert (values != pit(samples, measured, seed=4)).all()


@pytest.mark.parametrize("zeros", [False, True])
def test_pit_is_uniform_for_one_more_draw_of_the_same_distribution(zeros):
    rng = np.random.default_rng(1)
    everything = rng.normal(size=(8, 2000, 2)) + rng.normal(size=(1, 2000, 2))
    if zeros:
        everything = np.maximum(everything, 0)
    values = pit(everything[1:], everything[0])
    for gene in range(2):
        assert kstest(values[:, gene], "uniform").pvalue > 0.01
    # draws that are too narrow leave the measurement outside more often than not
    middle = everything[1:].mean(axis=0)
    narrow = pit(middle + 0.2 * (everything[1:] - middle), everything[0])
    assert np.mean((narrow < 0.125) | (narrow > 0.875)) > 0.4


def test_coverage_counts_bounds_as_inside():
    measured = np.array([[0.0, 1, 7], [1, 2, 7], [2, 3, 7], [3, 4, 7]])
    lower, upper = np.ones_like(measured), np.full_like(measured, 2.0)
    np.testing.assert_array_equal(per_gene_coverage(lower, upper, measured), [0.5, 0.5, np.nan])
    upper[3] = 4.0
    np.testing.assert_array_equal(per_gene_coverage(lower, upper, measured), [0.75, 0.75, np.nan])
    assert coverage(lower, upper, measured) == 0.75
    with pytest.raises(ValueError, match="lower is above upper in 8 values"):
        coverage(upper, lower, measured)
    with pytest.raises(ValueError, match="same shape"):
        coverage(lower[:3], upper, measured)


@pytest.mark.parametrize(("level", "n"), [(0.9, 300), (0.5, 10), (0.0, 5), (1.0, 5)])
def test_binomial_band_holds_the_share_as_often_as_it_says(level, n):
    low, high = binomial_band(level, n, confidence=0.9)
    counts = np.arange(n + 1)
    chance = binom.pmf(counts, n, level)
    assert chance[(counts >= round(low * n)) & (counts <= round(high * n))].sum() >= 0.9
    assert 0 <= low <= level <= high <= 1
    # one count narrower on either side holds too little
    if 0 < level < 1:
        assert chance[counts < round(low * n)].sum() < 0.05 <= chance[counts <= round(low * n)].sum()


def test_binomial_band_errors():
    for wrong in ((1.2, 5, 0.9), (0.5, 0, 0.9), (0.5, 5, 1.0)):
        with pytest.raises(ValueError, match="Need level"):
            binomial_band(wrong[0], wrong[1], confidence=wrong[2])


def test_the_share_below_is_that_of_the_randomised_pit():
    rng = np.random.default_rng(0)
    draws = np.clip(rng.normal(size=(4000, 40, 5)), 0, None)
    measured = np.clip(0.3 + rng.normal(size=(40, 5)), 0, None)
    levels = np.linspace(0.02, 0.98, 49)
    found = share_below(np.quantile(draws, levels, axis=0, method="weibull"), levels, measured)
    below, at_or_below = (draws < measured).mean(axis=0), (draws <= measured).mean(axis=0)
    lots = [below + rng.random(below.shape) * (at_or_below - below) for _ in range(400)]
    for level in (0.1, 0.3, 0.5, 0.8):
        expected = np.mean([(pit <= level).mean() for pit in lots])
        assert np.interp(level, levels, found[1]) == pytest.approx(expected, abs=0.02)
    np.testing.assert_allclose(found[0][24], (measured < np.median(draws, axis=0)).mean(), atol=0.01)
    np.testing.assert_allclose(found[2][24], (measured <= np.median(draws, axis=0)).mean(), atol=0.01)


def test_a_perfect_forecast_covers_its_level_by_lot_and_more_with_bounds_inside():
    """Half of the measurements and half of the draws are zero."""
    rng = np.random.default_rng(1)
    levels = np.array([0.05, 0.25, 0.495, 0.6, 0.75, 0.95])  # the mass on zero is read as 0.495
    quantiles = np.clip(np.quantile(rng.normal(size=100_000), levels), 0, None)[:, None, None]
    quantiles = np.broadcast_to(quantiles, (6, 4000, 5))
    measured = np.clip(rng.normal(size=(4000, 5)), 0, None)
    found = share_below(quantiles, levels, measured)
    np.testing.assert_allclose(found[1], levels, atol=0.015)
    inclusive = coverage(quantiles[0], quantiles[5], measured)
    assert inclusive > 0.94 and inclusive == pytest.approx(found[2][5] - found[0][0])


def test_shares_below_need_a_quantile_for_every_level():
    measured = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"quantiles must be .* = \(3, 4, 2\); got \(2, 4, 2\)"):
        share_below(np.ones((2, 4, 2)), (0.1, 0.5, 0.9), measured)
    with pytest.raises(ValueError, match="levels must be numbers between 0 and 1"):
        share_below(np.ones((2, 4, 2)), (5, 95), measured)
    with pytest.raises(ValueError, match="quantiles"):
        share_below(np.full((1, 4, 2), np.nan), (0.5,), measured)
