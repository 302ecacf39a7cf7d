"""Scores of draws against explicit loops, and against closed forms of the Gaussian."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import norm

from flagst.metrics import (
    _draws,
    crps,
    energy_score,
    mae,
    per_gene_crps,
    probabilistic,
    spatial_variogram_score,
    variogram_score,
)


@pytest.fixture
def drawn():
    """5 draws of 7 spots and 4 genes with many exact zeros, gene 2 constant in the measurement."""
    rng = np.random.default_rng(0)
    samples, measured = np.maximum(rng.normal(size=(5, 7, 4)), 0), np.maximum(rng.normal(size=(7, 4)), 0)
    measured[:, 2] = 1.5
    return samples.astype(np.float32), measured


KEPT = (0, 1, 3)


def pair_mean(values, distance, fair):
    """Mean distance of two draws, with or without a draw paired with itself."""
    n = len(values)
    total = sum(distance(values[k] - values[j]) for k in range(n) for j in range(n))
    return total / (n * (n - 1) if fair else n * n)


@pytest.mark.parametrize("fair", [False, True])
def test_crps_equals_double_loop(drawn, fair, monkeypatch):
    monkeypatch.setattr(_draws, "BUDGET", 1)  # one gene at a time
    samples, measured = drawn
    expected = np.full(4, np.nan)
    for gene in KEPT:
        spots = []
        for spot in range(7):
            draws, truth = samples[:, spot, gene].astype(float), measured[spot, gene]
            spots.append(np.abs(draws - truth).mean() - 0.5 * pair_mean(draws, abs, fair))
        expected[gene] = np.mean(spots)
    np.testing.assert_allclose(per_gene_crps(samples, measured, fair=fair), expected, atol=1e-12)
    assert crps(samples, sp.csr_matrix(measured), fair=fair) == pytest.approx(np.nanmean(expected))


def test_crps_of_gaussian_draws_reaches_the_closed_form():
    """CRPS of N(0, s) at y is s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = y / s."""
    rng = np.random.default_rng(1)
    scale = np.array([0.5, 2.0])
    measured = rng.normal(size=(40, 2)) * 1.3
    z = measured / scale
    closed = (scale * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))).mean(axis=0)
    samples = norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None, None] * scale * np.ones((4000, 40, 2))
    np.testing.assert_allclose(per_gene_crps(samples, measured), closed, rtol=1e-3)
    # few draws: only the fair form is right on average
    few = rng.normal(size=(3, 40 * 500, 2)) * scale
    repeated = np.tile(measured, (500, 1))
    np.testing.assert_allclose(per_gene_crps(few, repeated, fair=True), closed, rtol=0.03)
    assert (per_gene_crps(few, repeated) > 1.1 * closed).all()


def test_one_draw_is_the_absolute_error(drawn):
    samples, measured = drawn
    assert crps(samples[:1], measured) == pytest.approx(mae(samples[0], measured))


@pytest.mark.parametrize("fair", [False, True])
def test_energy_score_equals_double_loop(drawn, fair):
    samples, measured = drawn
    spots = []
    for spot in range(7):
        draws, truth = samples[:, spot, KEPT].astype(float), measured[spot, KEPT]
        error = np.mean([np.linalg.norm(draw - truth) for draw in draws])
        spots.append(error - 0.5 * pair_mean(draws, np.linalg.norm, fair))
    assert energy_score(samples, measured, fair=fair) == pytest.approx(np.mean(spots), abs=1e-6)
    one = energy_score(samples[:, :, :1], measured[:, :1], fair=fair)
    assert one == pytest.approx(per_gene_crps(samples, measured, fair=fair)[0], abs=1e-6)


def gap(samples, measured, left, right, order):
    """Squared gap of one pair of entries."""
    seen = abs(float(measured[left]) - float(measured[right])) ** order
    draws = [abs(float(draw[left]) - float(draw[right])) ** order for draw in samples]
    return (seen - np.mean(draws)) ** 2


@pytest.mark.parametrize("order", [0.5, 2.0])
@pytest.mark.parametrize("budget", [4_000_000, 1])
def test_variogram_score_equals_loop(drawn, order, budget, monkeypatch):
    monkeypatch.setattr(probabilistic, "BUDGET", budget)
    samples, measured = drawn
    gaps = [
        gap(samples, measured, (spot, i), (spot, j), order) for spot in range(7) for i in KEPT for j in KEPT if i < j
    ]
    assert variogram_score(samples, measured, order=order) == pytest.approx(np.mean(gaps))


def test_variogram_score_of_some_pairs_stands_for_all():
    rng = np.random.default_rng(2)
    samples, measured = rng.normal(size=(4, 6, 60)), rng.normal(size=(6, 60))
    every = variogram_score(samples, measured, max_pairs=None)
    some = variogram_score(samples, measured, max_pairs=600, seed=5)
    assert some == pytest.approx(every, rel=0.05) and some != every
    assert some == variogram_score(samples, measured, max_pairs=600, seed=5)
    assert some != variogram_score(samples, measured, max_pairs=600, seed=6)


@pytest.mark.parametrize("n_genes", [2, 3, 9])
def test_pairs_by_number_are_those_of_the_triangle(n_genes):
    expected = np.triu_indices(n_genes, 1)
    found = probabilistic._genes_of_pairs(np.arange(len(expected[0])), n_genes)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dense", [False, True])
def test_spatial_variogram_score_equals_loop(drawn, dense):
    samples, measured = drawn
    graph = np.zeros((7, 7))
    # both directions, one direction, and a self-loop that is no pair
    graph[0, 1] = graph[1, 0] = graph[5, 2] = graph[3, 4] = graph[6, 6] = 0.3
    pairs = [(0, 1), (2, 5), (3, 4)]
    gaps = [gap(samples, measured, (a, g), (b, g), 0.5) for a, b in pairs for g in KEPT]
    score = spatial_variogram_score(samples, measured, graph if dense else sp.csr_matrix(graph))
    assert score == pytest.approx(np.mean(gaps))


def test_scores_prefer_the_true_distribution():
    """Correlated genes on correlated spots: what each score is for, it sees."""
    rng = np.random.default_rng(3)
    n_spots, n_genes = 60, 8
    line = sp.csr_matrix(np.eye(n_spots, k=1) + np.eye(n_spots, k=-1))
    between = np.linalg.cholesky(0.8 + 0.2 * np.eye(n_genes))
    gap_of_spots = np.abs(np.subtract.outer(np.arange(n_spots), np.arange(n_spots)))
    along = np.linalg.cholesky(0.9**gap_of_spots)

    def draws(n, spots=True, genes=True, scale=1.0):
        white = rng.normal(size=(n, n_spots, n_genes)) * scale
        white = np.einsum("st,ntg->nsg", along, white) if spots else white
        return white @ between.T if genes else white

    measured, true, n = draws(1)[0], draws(200), 200
    assert crps(true, measured) < crps(draws(n, scale=2.0), measured)
    assert energy_score(true, measured) < energy_score(draws(n, scale=0.3), measured)
    assert variogram_score(true, measured) < 0.8 * variogram_score(draws(n, genes=False), measured)
    rough = draws(n, spots=False)
    assert crps(rough, measured) == pytest.approx(crps(true, measured), rel=0.1)  # one spot at a time: blind
    smooth_score = spatial_variogram_score(true, measured, line)
    assert smooth_score < 0.5 * spatial_variogram_score(rough, measured, line)


def test_draws_are_left_alone(drawn):
    samples, measured = drawn
    before = samples.copy()
    samples.flags.writeable = False
    crps(samples, measured), energy_score(samples, measured), variogram_score(samples, measured)
    np.testing.assert_array_equal(samples, before)


def test_errors(drawn):
    samples, measured = drawn
    with pytest.raises(ValueError, match=r"samples must be .*\(n_samples, 7, 4\).*got \(7, 4\)"):
        crps(measured, measured)
    with pytest.raises(ValueError, match="holds 1 of them; this needs at least 2"):
        crps(samples[:1], measured, fair=True)
    with pytest.raises(ValueError, match="samples has NaN"):
        energy_score(samples * np.nan, measured)
    with pytest.raises(TypeError, match="numeric"):
        crps(samples.astype(str), measured)
    with pytest.raises(ValueError, match="no gene that varies"):
        crps(samples, np.ones((7, 4)))
    with pytest.raises(ValueError, match="only one varies"):
        variogram_score(samples[:, :, 1:3], measured[:, 1:3])
    with pytest.raises(ValueError, match="order must be positive"):
        variogram_score(samples, measured, order=0)
    with pytest.raises(ValueError, match="max_pairs must be positive"):
        variogram_score(samples, measured, max_pairs=0)
    with pytest.raises(ValueError, match=r"graph must be \(7, 7\)"):
        spatial_variogram_score(samples, measured, np.ones((6, 6)))
    with pytest.raises(ValueError, match="no edges"):
        spatial_variogram_score(samples, measured, sp.csr_matrix((7, 7)))
