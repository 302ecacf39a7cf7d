"""Balanced noise: no correlation by chance with anything in the section, and still noise."""

import numpy as np
import pytest
import scipy.linalg

from flagst.regression import LatentBasis, balance, balance_noise, leading_scores, uncorrelated

N_SPOTS, N_LATENT = 200, 4


def drawn(n_genes, n_spots=N_SPOTS, seed=0):
    """Noise, a mean of a few programmes, a state."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(n_spots, 3)) @ rng.normal(size=(3, n_genes)) + 0.1 * rng.normal(size=(n_spots, n_genes))
    return rng.normal(size=(n_spots, n_genes)).astype(np.float32), mean, rng.normal(size=(n_spots, N_LATENT)) + 1


def correlations(values):
    return np.corrcoef(values.T)[np.triu_indices(values.shape[1], 1)]


@pytest.mark.parametrize("n_genes", [1, 30, 150])
def test_no_two_genes_are_correlated(n_genes):
    noise, mean, state = drawn(n_genes)
    balanced = balance_noise(noise, leading_scores(mean), state)
    assert balanced.dtype == np.float32
    np.testing.assert_allclose(balanced.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(balanced.std(axis=0), 1, atol=1e-5)
    if n_genes > 1:
        assert np.abs(correlations(balanced)).max() < 1e-5 and np.abs(correlations(noise)).max() > 0.15


def test_more_genes_than_spots_are_as_uncorrelated_as_they_can_be():
    noise, mean, state = drawn(500)
    balanced = balance_noise(noise, leading_scores(mean), state)
    rank = N_SPOTS - 1 - balance.N_MEAN - N_LATENT
    least = np.sqrt((500 - rank) / (rank * 499))  # root mean square of the correlations: Welch's bound
    found = np.sqrt((correlations(balanced) ** 2).mean())
    assert least * 0.999 < found < least * 1.02 < np.sqrt((correlations(noise) ** 2).mean())


def test_nor_with_the_mean_or_the_state():
    noise, mean, state = drawn(30)
    balanced = balance_noise(noise, leading_scores(mean), state)
    for other in (state, np.linalg.svd(mean - mean.mean(axis=0))[0][:, : balance.N_MEAN]):
        cross = np.corrcoef(balanced.T, other.T)[:30, 30:]
        assert np.abs(cross).max() < 1e-5


def test_noise_stays_close_to_what_it_was_and_normal():
    noise, mean, state = drawn(30)
    balanced = balance_noise(noise, leading_scores(mean), state)
    kept = [np.corrcoef(a, b)[0, 1] for a, b in zip(noise.T, balanced.T, strict=True)]
    assert min(kept) > 0.9
    pooled = balanced.ravel()
    assert abs((pooled**3).mean()) < 0.1 and (pooled**4).mean() == pytest.approx(3, abs=0.2)
    assert np.quantile(pooled, 0.95) == pytest.approx(1.645, abs=0.05)


@pytest.mark.parametrize("n_genes", [30, 500])
def test_leading_scores_are_those_of_a_singular_value_decomposition(n_genes):
    _, mean, _ = drawn(n_genes)
    left, values, _ = np.linalg.svd(mean - mean.mean(axis=0), full_matrices=False)
    expected = left[:, : balance.N_MEAN] * values[: balance.N_MEAN]
    found = leading_scores(mean)
    np.testing.assert_allclose(np.abs(found[:, ::-1]), np.abs(expected), atol=1e-8)


def test_columns_that_say_nothing_take_nothing_away():
    noise, mean, state = drawn(30)
    constant = np.ones((N_SPOTS, 1))
    with_them = balance_noise(noise, np.zeros((N_SPOTS, 2)), np.hstack([state, state[:, :1] * 2, constant]))
    np.testing.assert_allclose(with_them, balance_noise(noise, np.empty((N_SPOTS, 0)), state), atol=1e-5)


@pytest.mark.parametrize("n_genes", [30, 300])
def test_the_order_of_spots_does_not_matter_whatever_the_rank_of_the_mean(n_genes):
    noise, _, state = drawn(n_genes)
    rng = np.random.default_rng(1)
    order = rng.permutation(N_SPOTS)
    for rank in (0, 1, 20):
        mean = rng.normal(size=(N_SPOTS, rank)) @ rng.normal(size=(rank, n_genes)) + 2
        scores = leading_scores(mean)
        assert scores.shape[1] == min(rank, balance.N_MEAN)
        balanced = balance_noise(noise, scores, state)
        permuted = balance_noise(noise[order], leading_scores(mean[order]), state[order])
        np.testing.assert_allclose(permuted, balanced[order], atol=1e-4)


@pytest.mark.parametrize("n_genes", [30, 300])
def test_no_spot_loses_its_noise(n_genes):
    _, mean, state = drawn(n_genes)
    mean[0] += 100 * mean.std()
    balanced = [balance_noise(drawn(n_genes, seed=seed)[0], leading_scores(mean), state)[0] for seed in range(20)]
    assert 0.85 < np.std(balanced) < 1.15


def test_too_few_spots_too_many_or_too_wide_are_left_alone(monkeypatch):
    n_axes = 1 + balance.N_MEAN + N_LATENT
    for n_spots, changes in ((4 * n_axes - 1, False), (4 * n_axes, True)):
        noise, mean, state = drawn(8, n_spots)
        assert (balance_noise(noise, leading_scores(mean), state) is not noise) == changes
    noise, mean, state = drawn(8)
    for name, limit in (("MAX_SPOTS", N_SPOTS - 1), ("MAX_VALUES", N_SPOTS * 8 - 1), ("MAX_RANK", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(balance, name, limit)
            assert balance_noise(noise, leading_scores(mean), state) is noise


def test_components_are_made_uncorrelated_and_keep_their_mean_and_variance():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(N_SPOTS, N_LATENT)).cumsum(axis=0) * [0.1, 0.2, 0.3, 0.4] + 1).astype(np.float32)
    apart = uncorrelated(values)
    assert apart.dtype == np.float32
    assert np.abs(correlations(apart)).max() < 1e-5 and np.abs(correlations(values)).max() > 0.3
    np.testing.assert_allclose(apart.mean(axis=0), values.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(apart.std(axis=0), values.std(axis=0), rtol=1e-4)


def test_components_move_no_further_than_they_have_to():
    """Of all uncorrelated columns those are nearest: of the inverse root of the correlations, by its definition."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(N_SPOTS, N_LATENT)) @ rng.normal(size=(N_LATENT, N_LATENT))
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    expected = values @ np.linalg.inv(scipy.linalg.sqrtm(np.corrcoef(values.T)))
    np.testing.assert_allclose(uncorrelated(values), expected, atol=1e-8)
    np.testing.assert_allclose(uncorrelated(expected), expected, atol=1e-8)


def test_components_that_do_not_vary_or_repeat_another_do_no_harm():
    rng = np.random.default_rng(2)
    column = rng.normal(size=(N_SPOTS, 1))
    values = np.hstack([column, np.full_like(column, 3.0), column, rng.normal(size=column.shape)])
    apart = uncorrelated(values)
    assert np.isfinite(apart).all()
    np.testing.assert_array_equal(apart[:, 1], 3)
    few, flat = values[: 4 * values.shape[1] - 1], np.ones_like(values)
    assert uncorrelated(few) is few and uncorrelated(flat) is flat


def test_draws_have_uncorrelated_components_and_noise_beside_them():
    """Of state and shared noise together, which is what is decoded."""
    rng = np.random.default_rng(3)
    n_genes = 30
    state, shared = (rng.normal(size=(N_SPOTS, N_LATENT + 1)).astype(np.float32) for _ in range(2))
    state = state.cumsum(axis=0) / 5
    noise, mean, _ = drawn(n_genes)
    model = LatentBasis(
        scale=np.ones(n_genes),
        components=np.linalg.qr(rng.normal(size=(n_genes, N_LATENT)))[0].T,
        sd=np.ones(N_LATENT),
        noise=np.ones(n_genes),
        jitter=np.linspace(0, 0.9, N_LATENT),
    )
    free, balanced = (model.decodable(state, noise, shared, leading) for leading in (None, leading_scores(mean)))
    together = [z + w * model.jitter for z, _, w in (free, balanced)]
    np.testing.assert_allclose(together[1], uncorrelated(together[0]), atol=1e-5)
    assert np.abs(correlations(together[1])).max() < 1e-4 < 0.3 < np.abs(correlations(together[0])).max()
    assert np.abs(np.corrcoef(balanced[1].T, together[1].T)[:n_genes, n_genes:]).max() < 1e-4
    np.testing.assert_array_equal(balanced[2], shared[:, :N_LATENT])
