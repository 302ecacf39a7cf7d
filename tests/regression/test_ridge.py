"""Ridge against scikit-learn, its penalty and its cross-fitted predictions."""

import numpy as np
import pytest
from cross_fits import slow_cross_fit
from sklearn.linear_model import Ridge

from flagst.regression import RidgeRegression

N, D, G = 120, 8, 5


@pytest.fixture
def linear():
    rng = np.random.default_rng(0)
    design = rng.normal(size=(N, D)) + 3
    target = design @ rng.normal(size=(D, G)) + 0.5 * rng.normal(size=(N, G)) - 2
    return design, target, np.arange(N) % 4


@pytest.mark.parametrize("alpha", [0.1, 10.0, 1000.0])
def test_ridge_equals_scikit_learn(linear, alpha):
    design, target, folds = linear
    fitted, cross_fitted = RidgeRegression.fit(design, target, folds, alphas=(alpha,))
    expected = Ridge(alpha=alpha).fit(design, target)
    np.testing.assert_allclose(fitted.predict(design), expected.predict(design), atol=1e-8)
    np.testing.assert_allclose(fitted.coef, expected.coef_.T, atol=1e-8)
    np.testing.assert_allclose(cross_fitted, slow_cross_fit(design, target, folds, alpha), atol=1e-5)


def test_more_columns_than_spots():
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(30, 60)), rng.normal(size=(30, 2))
    fitted, _ = RidgeRegression.fit(design, target, np.arange(30) % 3, alphas=(5.0,))
    np.testing.assert_allclose(fitted.predict(design), Ridge(alpha=5.0).fit(design, target).predict(design), atol=1e-7)


def test_the_penalty_with_the_smallest_held_out_error_is_taken(linear):
    design, target, folds = linear
    alphas = (1e-2, 1.0, 1e2, 1e4)
    errors = [((slow_cross_fit(design, target, folds, a) - target) ** 2).mean() for a in alphas]
    fitted, cross_fitted = RidgeRegression.fit(design, target, folds, alphas=alphas)
    assert fitted.alpha == alphas[int(np.argmin(errors))]
    np.testing.assert_allclose(((cross_fitted - target) ** 2).mean(), min(errors), rtol=1e-4)


def test_noise_gets_the_largest_penalty():
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(N, D)), rng.normal(size=(N, G))
    fitted, _ = RidgeRegression.fit(design, target, np.arange(N) % 4, alphas=(0.1, 1e4))
    assert fitted.alpha == 1e4
