"""The scale of the gene noise: set by the spatial order of the genes, within bounds."""

from dataclasses import replace

import numpy as np
import pytest

from flagst.data.graph import knn
from flagst.regression import ResidualModel, TargetScaler, match_spatial_order
from flagst.regression.noise_scale import MAX_FACTOR, _moran

N, G, K = 100, 6, 2


@pytest.fixture
def parts():
    """Two sections on a grid: a smooth mean, two smooth factors, and noise beside them."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(10.0), np.arange(10.0))
    coords = np.column_stack([x.ravel(), y.ravel()])
    near = knn(coords, 4)[0]
    means, targets = [], []
    for _ in range(2):
        white = rng.normal(size=(N, K))
        factors = white + 1.5 * white[near].mean(axis=1)
        means.append(np.sin(coords @ rng.normal(size=(2, G)) / 3))
        targets.append(5 + means[-1] + factors @ rng.normal(size=(K, G)) + rng.normal(size=(N, G)))
    scaler = TargetScaler.fit(np.concatenate(targets))
    expression = scaler.standardise(np.concatenate(targets))
    means = [m / scaler.sd for m in means]
    section = np.repeat([0, 1], N)
    residual, state = ResidualModel.fit(expression - np.concatenate(means), section, n_latent=K)
    return residual, scaler, means, np.split(state, 2), targets, [near, near]


def test_only_the_shares_of_the_noise_change_within_bounds(parts):
    residual = parts[0]
    matched = match_spatial_order(*parts)
    for name in ("scale", "components", "sd"):
        np.testing.assert_array_equal(getattr(matched, name), getattr(residual, name))
    assert (matched.noise**2).sum() == pytest.approx((residual.noise**2).sum())
    factor = matched.noise / residual.noise
    assert factor.max() / factor.min() < MAX_FACTOR**2 + 1e-6


@pytest.mark.parametrize("wrong", [0.75, 1.3])
def test_a_gene_with_a_wrong_share_is_put_right(parts, wrong):
    residual, *rest = parts
    expected = match_spatial_order(residual, *rest).noise
    share = np.where(np.arange(G) == 1, wrong, 1.0)
    found = match_spatial_order(replace(residual, noise=share * residual.noise), *rest).noise
    ratio = (found / expected)[:5]  # the last gene is at the bound
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.03)


def test_it_repeats_itself_and_leaves_the_global_generator_alone(parts):
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(match_spatial_order(*parts).noise, match_spatial_order(*parts).noise)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_order_is_morans_i(parts):
    from scipy.sparse import csr_matrix

    from flagst.metrics import morans_i

    target, near = parts[4][0], parts[5][0]
    graph = csr_matrix((np.full(4 * N, 0.25), near.ravel(), np.arange(0, 4 * N + 1, 4)), shape=(N, N))
    np.testing.assert_allclose(_moran(target, near), morans_i(target, graph), atol=1e-6)
