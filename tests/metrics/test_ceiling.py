"""Count splitting on simulated sections, where a second measurement can simply be drawn."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import chisquare

from flagst.data.graph import moran_graph
from flagst.metrics import gene_correlation, gsc, morans_i, split_counts, ssc, structure_ceiling


@pytest.fixture(scope="module")
def truth():
    """Rates (400, 60) of smooth and rough programs, and the graph of a 20 x 20 array."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    coords = np.column_stack([x.ravel(), y.ravel()])
    programs = np.sin(coords @ (0.35 * rng.normal(size=(2, 8))) + rng.uniform(0, 6, 8))
    programs[:, 5:] = rng.normal(size=(400, 3))
    loadings = 0.4 * rng.normal(size=(8, 60)) * rng.uniform(size=60)
    rates = np.exp(rng.normal(size=60) + programs @ loadings)
    return 300 * rates / rates.sum(axis=1).mean(), moran_graph(coords, "square")


def log2(counts, totals):
    return np.log2(counts + 1)


def lognorm(counts, totals):
    return np.log1p(1e4 * counts / np.maximum(totals, 1)[:, None])


@pytest.mark.parametrize("transform", [log2, lognorm])
def test_reliability_is_the_score_of_a_second_measurement(truth, transform):
    rates, graph = truth
    rng = np.random.default_rng(1)
    counts = rng.poisson(rates)
    drawn = [rng.poisson(rates) for _ in range(30)]
    again = [transform(c, c.sum(axis=1)) for c in drawn]
    measured = transform(counts, counts.sum(axis=1))
    found = structure_ceiling(counts, graph, transform)
    replicate = np.mean([gsc(other, measured) for other in again])
    assert found["gsc"].reliability == pytest.approx(replicate, abs=0.04)
    replicate = np.mean([ssc(other, measured, graph) for other in again])
    assert found["ssc"].reliability == pytest.approx(replicate, abs=0.07)
    # the noise-free structure: that expected over count noise
    upper = np.triu_indices(60, 1)
    expected = np.mean([gene_correlation(other)[upper] for other in again], axis=0)
    reached = np.corrcoef(expected, gene_correlation(measured)[upper])[0, 1]
    assert found["gsc"].ceiling == pytest.approx(reached, abs=0.04)
    expected = np.mean([morans_i(other, graph) for other in again], axis=0)
    reached = np.corrcoef(expected, morans_i(measured, graph))[0, 1]
    assert found["ssc"].ceiling == pytest.approx(reached, abs=0.05)
    # deeper counts are more reliable, and the correction is what bridges the two
    deeper = structure_ceiling(rng.poisson(4 * rates), graph, transform)
    assert deeper["gsc"].half > found["gsc"].half and deeper["ssc"].half > found["ssc"].half


def test_numbers_belong_together(truth):
    rates, graph = truth
    counts = np.random.default_rng(2).poisson(rates)
    one = structure_ceiling(counts, graph, log2, n_splits=1, seed=3)
    # the same split by hand, from the same generator
    half = np.random.default_rng(3).binomial(counts, 0.5)
    left, right = np.log2(half + 1), np.log2(counts - half + 1)
    for name, value in (("gsc", gsc(left, right)), ("ssc", ssc(left, right, graph))):
        assert one[name].half == pytest.approx(value)
        assert one[name].reliability == pytest.approx(2 * value / (1 + value))
        assert one[name].ceiling == pytest.approx(np.sqrt(2 * value / (1 + value)))
        assert np.isnan(one[name].reliability_sd) and one[name].n_splits == 1
    many = structure_ceiling(sp.csr_matrix(counts), graph, log2, n_splits=4, seed=3)
    assert 0 < many["gsc"].reliability_sd < 0.1
    assert many == structure_ceiling(counts.astype(np.float32), graph, log2, n_splits=4, seed=3)


def test_noise_has_no_ceiling():
    rng = np.random.default_rng(4)
    line = np.eye(80, k=1) + np.eye(80, k=-1)
    found = structure_ceiling(rng.poisson(2.0, size=(80, 40)), line, log2)
    assert abs(found["gsc"].half) < 0.15 and found["gsc"].ceiling < 0.5


def test_halves_are_binomial_and_add_up():
    counts = np.full((200, 50), 4)
    half, other = split_counts(sp.csr_matrix(counts), seed=1)
    np.testing.assert_array_equal(half + other, counts)
    expected = 10_000 * np.array([1, 4, 6, 4, 1]) / 16
    assert chisquare(np.bincount(half.ravel(), minlength=5), expected).pvalue > 1e-3
    poisson = np.random.default_rng(2).poisson(3.0, size=20_000)
    assert abs(np.corrcoef(*split_counts(poisson))[0, 1]) < 0.03  # halves of Poisson counts are independent


def test_totals_are_split_with_the_counts(truth):
    rates, graph = truth
    counts = np.random.default_rng(5).poisson(rates)
    totals, seen = counts.sum(axis=1) + 1000, []

    def transform(half, half_totals):
        seen.append((half, half_totals))
        return lognorm(half, half_totals)

    structure_ceiling(counts, graph, transform, total_counts=totals, n_splits=1)
    (left, left_totals), (right, right_totals) = seen
    np.testing.assert_array_equal(left + right, counts)
    np.testing.assert_array_equal(left_totals + right_totals, totals)
    others = left_totals - left.sum(axis=1)
    assert 480 < others.mean() < 520 and others.std() == pytest.approx(np.sqrt(250), rel=0.2)


def test_genes_constant_in_a_half_are_left_out(truth):
    rates, graph = truth
    counts = np.random.default_rng(6).poisson(rates)
    expected = structure_ceiling(counts, graph, log2, n_splits=1)
    with_dead = np.column_stack([counts, np.zeros(400, dtype=int)])
    found = structure_ceiling(with_dead, graph, lambda c, t: log2(c, t), n_splits=1)
    # the dead gene takes tosses of no coin, so the split of the others is the same only in distribution
    assert found["gsc"].half == pytest.approx(expected["gsc"].half, abs=0.05)
    assert np.isnan(structure_ceiling(counts[:, :2], graph, log2)["gsc"].ceiling)


def test_errors(truth):
    rates, graph = truth
    counts = np.random.default_rng(7).poisson(rates)
    with pytest.raises(ValueError, match="non-integer"):
        structure_ceiling(rates, graph, log2)
    with pytest.raises(ValueError, match="non-integer"):
        split_counts(np.array([0.5]))
    with pytest.raises(ValueError, match="negative"):
        split_counts(-counts)
    with pytest.raises(ValueError, match="n_splits must be at least 1"):
        structure_ceiling(counts, graph, log2, n_splits=0)
    with pytest.raises(ValueError, match="smaller than the sum"):
        structure_ceiling(counts, graph, log2, total_counts=np.ones(400))
    with pytest.raises(ValueError, match=r"total_counts must be \(400,\)"):
        structure_ceiling(counts, graph, log2, total_counts=np.ones(3))
