"""The latent basis: a round trip, and samples with the covariance of the residuals they were fitted on."""

from dataclasses import replace

import numpy as np
import pytest

from flagst.regression import LatentBasis

N, G, K = 600, 20, 3


@pytest.fixture
def residual():
    """Three shared factors, noise of its own size per gene, and an offset per section."""
    rng = np.random.default_rng(0)
    section = np.repeat(["a", "b", "c"], N // 3)
    values = rng.normal(size=(N, K)) @ rng.normal(size=(K, G)) + rng.normal(size=(N, G)) * rng.uniform(0.3, 1, G)
    values -= [values[section == s].mean(axis=0) for s in section]
    offset = {s: rng.normal(size=G) * 3 for s in "abc"}
    return values, np.array([offset[s] for s in section]), section


def test_all_components_make_a_round_trip(residual):
    values, offset, section = residual
    model, state = LatentBasis.fit(values + offset, section, n_latent=G)
    decoded = model.decode(state, np.zeros((N, G)), np.ones((N, G)))
    np.testing.assert_allclose(decoded, values, atol=1e-8)
    assert model.noise_sd.max() < 1e-6


def test_states_are_white(residual):
    values, offset, section = residual
    _, state = LatentBasis.fit(values + offset, section, n_latent=K)
    assert state.shape == (N, K)
    np.testing.assert_allclose(state.T @ state / N, np.eye(K), atol=1e-8)


def test_section_means_are_left_out(residual):
    values, offset, section = residual
    model, state = LatentBasis.fit(values, section, n_latent=K)
    shifted, moved = LatentBasis.fit(values + offset, section, n_latent=K)
    np.testing.assert_allclose(shifted.scale, model.scale)
    np.testing.assert_allclose(np.abs(moved), np.abs(state), atol=1e-6)
    for name in "abc":
        np.testing.assert_allclose(moved[section == name].mean(axis=0), 0, atol=1e-8)


def test_samples_have_the_covariance_of_the_residual(residual):
    values, offset, section = residual
    model, _ = LatentBasis.fit(values + offset, section, n_latent=K)
    rng = np.random.default_rng(1)
    sampled = model.decode(*(rng.normal(size=(40_000, width)) for width in (K, G, K)))
    expected, found = np.cov(values.T), np.cov(sampled.T)
    np.testing.assert_allclose(np.diag(found), np.diag(expected), rtol=0.05)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_noise_is_independent_per_gene(residual):
    values, _, section = residual
    model, _ = LatentBasis.fit(values, section, n_latent=K)
    rng = np.random.default_rng(2)
    sampled = model.decode(np.zeros((20_000, K)), rng.normal(size=(20_000, G)), rng.normal(size=(20_000, K)))
    correlation = np.corrcoef(sampled.T) - np.eye(G)
    assert np.abs(correlation).max() < 0.05 and (sampled.std(axis=0) > 0.1).all()


def test_the_fitted_basis_adds_no_shared_noise(residual):
    values, _, section = residual
    model, state = LatentBasis.fit(values, section, n_latent=K)
    np.testing.assert_array_equal(model.shared_sd, np.zeros(K))
    rng = np.random.default_rng(2)
    noise, first, second = rng.normal(size=(N, G)), rng.normal(size=(N, K)), rng.normal(size=(N, K))
    np.testing.assert_array_equal(model.decode(state, noise, first), model.decode(state, noise, second))


def test_shared_noise_adds_its_covariance_along_the_components(residual):
    values, _, section = residual
    model, _ = LatentBasis.fit(values, section, n_latent=K)
    moved = replace(model, shared_sd=np.array([0.5, 1.0, 2.0]))
    rng, n = np.random.default_rng(3), 200_000
    sampled = moved.decode(*(rng.normal(size=(n, width)) for width in (K, G, K)))

    def units(covariance):
        return covariance / np.outer(model.scale, model.scale)

    plain = model.components.T @ np.diag(model.sd**2) @ model.components + np.diag(model.noise_sd**2)
    added = model.components.T @ np.diag((model.sd * moved.shared_sd) ** 2) @ model.components
    np.testing.assert_allclose(units(np.cov(sampled.T)), plain + added, atol=0.02 * np.abs(plain + added).max())
    # of one state with one gene noise, the shared noise alone is left; it is independent between spots
    state, noise = (np.repeat(rng.normal(size=(1, width)), n, axis=0) for width in (K, G))
    alone = moved.decode(state, noise, rng.normal(size=(n, K)))
    np.testing.assert_allclose(units(np.cov(alone.T)), added, atol=0.02 * np.abs(added).max())
    pairs = np.corrcoef(alone[:-1, 0], alone[1:, 0])[0, 1]
    assert abs(pairs) < 0.01


def test_constant_genes_stay_constant(residual):
    values, _, section = residual
    values[:, 4] = 0.0
    model, state = LatentBasis.fit(values, section, n_latent=K)
    sampled = model.decode(state, np.random.default_rng(0).normal(size=values.shape), np.ones(state.shape))
    assert np.isfinite(sampled).all() and np.abs(sampled[:, 4]).max() < 1e-6


def test_few_spots_have_fewer_components():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(40, 2)) @ rng.normal(size=(2, G))
    model, state = LatentBasis.fit(factors, np.zeros(40), n_latent=16)
    assert state.shape == (40, 2) and len(model.sd) == 2


def test_order_of_spots_does_not_matter(residual):
    values, offset, section = residual
    _, state = LatentBasis.fit(values + offset, section, n_latent=K)
    order = np.random.default_rng(3).permutation(N)
    _, shuffled = LatentBasis.fit((values + offset)[order], section[order], n_latent=K)
    np.testing.assert_allclose(shuffled, state[order], atol=1e-6)  # signs too
