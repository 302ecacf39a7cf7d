"""Noise baselines: their residuals have the law they claim, and structure 0 is ridge."""

import numpy as np
import pytest

from flagst import baselines
from flagst.data.from_anndata import sections_from_anndata
from flagst.data.sections import Section, stack_targets
from flagst.regression import RegressionStage

NOISY = [
    baselines.BalancedGaussian,
    baselines.CorrelatedGaussian,
    baselines.IndependentNoise,
    baselines.ResidualBootstrap,
]


@pytest.fixture
def residual(train) -> np.ndarray:
    """Cross-fitted residual of ridge, standardised units."""
    sections = sections_from_anndata(train, target="log2")
    parts = ([getattr(s, name) for s in sections] for name in ("image", "neighbours", "coords", "target"))
    stage, cross_fitted = RegressionStage.fit(*parts, regression="ridge")
    return stage.scaler.standardise(stack_targets(sections)) - cross_fitted


def fitted(kind, train):
    model = kind(train, target="log2")
    model.train()
    return model


def many_samples(model, n: int) -> np.ndarray:
    """Residuals of ``n`` spots, ``(n, n_genes)`` standardised units."""
    empty = np.empty((n, 0))
    spots = Section("S", np.array([f"s{i}" for i in range(n)]), empty, empty, empty, empty)
    return model._draw(spots, 0, np.zeros((n, 10)))


@pytest.mark.parametrize("kind", NOISY)
def test_structure_zero_is_ridge(kind, train, query):
    ridge = fitted(baselines.Ridge, train).predict(query.copy())
    noisy = fitted(kind, train).predict(query, structure=0)
    np.testing.assert_array_equal(noisy.layers["flagst"], ridge.layers["flagst"])
    np.testing.assert_array_equal(noisy.layers["flagst_mean"], ridge.layers["flagst"])


@pytest.mark.parametrize("kind", NOISY)
def test_structure_is_linear_in_the_residual(kind, train, query):
    model = fitted(kind, train)
    half, full = (model.predict(query.copy(), structure=s).layers for s in (0.5, 1.0))
    mean = half["flagst_mean"]
    inside = (half["flagst"] > 0) & (full["flagst"] > 0)  # clipping at 0 is not linear
    assert inside.mean() > 0.5
    np.testing.assert_allclose((half["flagst"] - mean)[inside] * 2, (full["flagst"] - mean)[inside], atol=1e-4)


def test_correlated_gaussian_has_the_residual_covariance(train, residual):
    samples = many_samples(fitted(baselines.CorrelatedGaussian, train), 20_000)
    np.testing.assert_allclose(np.cov(samples.T), np.cov(residual.T) + 1e-4 * np.eye(10), atol=0.05)
    np.testing.assert_allclose(samples.mean(axis=0), 0, atol=0.03)


def test_independent_noise_has_the_residual_sd_and_no_correlation(train, residual):
    samples = many_samples(fitted(baselines.IndependentNoise, train), 20_000)
    np.testing.assert_allclose(samples.std(axis=0), residual.std(axis=0), rtol=0.03)
    assert np.abs(np.corrcoef(samples.T) - np.eye(10)).max() < 0.04
    assert np.abs(np.corrcoef(residual.T) - np.eye(10)).max() > 0.2  # there was something to destroy


def test_bootstrap_takes_whole_centred_rows(train, residual):
    samples = many_samples(fitted(baselines.ResidualBootstrap, train), 3_000)
    pool = residual - residual.mean(axis=0)
    distance = np.abs(samples[:, None] - pool[None]).max(axis=2)
    assert distance.min(axis=1).max() < 1e-9
    used = np.bincount(distance.argmin(axis=1), minlength=len(pool))
    # 3,000 samples from 147 rows: about 20 each
    assert (used > 0).all() and used.max() < 50


def test_balanced_gaussian_has_that_covariance_in_every_section(train, residual):
    # more spots than genes: exactly, where independent noise of 200 spots is off by a tenth
    samples = many_samples(fitted(baselines.BalancedGaussian, train), 200)
    wanted = np.cov(residual.T) + 1e-4 * np.eye(10)
    np.testing.assert_allclose(np.cov(samples.T, bias=True), wanted, atol=1e-6)
    off = np.abs(np.cov(many_samples(fitted(baselines.CorrelatedGaussian, train), 200).T) - wanted)
    assert off.max() > 0.05
