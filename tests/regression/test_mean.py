"""Ridge mixed with kernel ridge: the kernel against scikit-learn, its weight, and what is chosen on held-out folds."""

import numpy as np
import pytest
from cross_fits import slow_cross_fit, slow_kernel_cross_fit
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import KernelCenterer

from flagst.regression import RegressionMean, RidgeRegression
from flagst.regression.mean import KERNEL_ALPHAS, WEIGHTS, WIDTHS, KernelFeatures
from flagst.regression.ridge import ALPHAS

N, G = 120, 5


@pytest.fixture
def curved():
    rng = np.random.default_rng(1)
    design = rng.normal(size=(N, 2))
    target = np.sin(2 * design) @ rng.normal(size=(2, G)) + 0.05 * rng.normal(size=(N, G))
    return design, target, np.arange(N) % 4


@pytest.mark.parametrize("regression", [RidgeRegression, RegressionMean])
def test_a_spot_is_predicted_without_its_own_fold(curved, regression):
    design, target, folds = curved
    _, before = regression.fit(design, target, folds)
    own = folds == 2
    changed = target.copy()
    changed[own] += 0.01 * np.random.default_rng(0).normal(size=(own.sum(), G))  # too little to change a penalty
    _, after = regression.fit(design, changed, folds)
    np.testing.assert_array_equal(after[own], before[own])
    assert (np.abs(after[~own] - before[~own]) > 0).any()


def test_kernel_ridge_is_exact(curved):
    design, target, folds = curved
    kernel = KernelFeatures.fit(design)
    fitted, _ = RidgeRegression.fit(kernel.transform(design), target, folds, alphas=(0.3,))
    new = np.random.default_rng(5).normal(size=(40, 2))

    centre = KernelCenterer()
    gram = centre.fit_transform(rbf_kernel(design, gamma=kernel.precision))
    expected = KernelRidge(alpha=0.3, kernel="precomputed").fit(gram, target - target.mean(axis=0))
    cross = centre.transform(rbf_kernel(new, design, gamma=kernel.precision))
    np.testing.assert_allclose(
        fitted.predict(kernel.transform(new)), expected.predict(cross) + target.mean(axis=0), atol=1e-4
    )


def test_kernel_features_reproduce_the_kernel(curved):
    design, _, _ = curved
    kernel = KernelFeatures.fit(design)
    features = kernel.transform(design)
    np.testing.assert_allclose(features @ features.T, rbf_kernel(design, gamma=kernel.precision), atol=1e-4)


def test_the_width_is_the_exponent_at_the_median_distance(curved):
    design, _, _ = curved
    squared = ((design[:, None] - design) ** 2).sum(axis=2)
    for kwargs, width in (({}, 1.0), ({"width": 0.3}, 0.3)):
        assert KernelFeatures.fit(design, **kwargs).precision == pytest.approx(width / np.median(squared))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_weight_of_kernel_ridge_is_the_odds_of_the_explained_variance_over_the_usual_ones(width):
    """The variance that a Gaussian process leaves at a spot, and at every training spot left out in turn."""
    design = np.random.default_rng(6).normal(size=(60, 6))
    kernel = KernelFeatures.fit(design, width=width)
    process = GaussianProcessRegressor(RBF((2 * kernel.precision) ** -0.5), alpha=1e-9, optimizer=None)
    left_out = []
    for spot in range(len(design)):
        process.fit(np.delete(design, spot, axis=0), np.zeros(len(design) - 1))
        left_out.append(process.predict(design[spot : spot + 1], return_std=True)[1][0] ** 2)
    usual = np.quantile(left_out, 0.95)
    assert kernel.usual_gap == pytest.approx(usual, rel=1e-3)

    new = np.concatenate([design[:20] + 0.1, design[:20] * np.linspace(1, 3, 20)[:, None], design[:1] + 50])
    gap = process.fit(design, np.zeros(len(design))).predict(new, return_std=True)[1] ** 2
    found = kernel.weight(kernel.transform(new))[:, 0]
    np.testing.assert_allclose(found, np.minimum(1, (1 - gap) / gap * usual / (1 - usual)), atol=1e-3)
    assert found[0] == 1 and 0 < np.sort(found)[5] < 0.5 and found[-1] == 0


def test_a_spot_that_no_landmark_reaches_is_predicted_by_ridge_alone(curved):
    design = curved[0]
    mean, _ = RegressionMean.fit(*curved)
    far = design + 100
    assert mean.weight > 0 and not np.allclose(mean.predict(design), mean.ridge.predict(design))
    np.testing.assert_allclose(mean.predict(far), mean.ridge.predict(far), rtol=1e-12)


def test_many_spots_are_represented_by_landmarks():
    design = np.random.default_rng(0).normal(size=(1500, 3))
    kernel = KernelFeatures.fit(design, width=0.3)  # wide enough that 1,000 of 1,500 spots reach the others
    assert len(kernel.landmarks) == 1000
    features = kernel.transform(design)
    np.testing.assert_allclose(features @ features.T, rbf_kernel(design, gamma=kernel.precision), atol=1e-2)
    np.testing.assert_array_equal(KernelFeatures.fit(design, width=0.3).landmarks, kernel.landmarks)


def test_the_mix_uses_the_kernel_where_it_helps(curved):
    mean, cross_fitted = RegressionMean.fit(*curved)
    ridge, linear = RidgeRegression.fit(*curved)
    target = curved[1]
    assert mean.weight > 0
    assert ((cross_fitted - target) ** 2).mean() < 0.8 * ((linear - target) ** 2).mean()
    assert not np.allclose(mean.predict(curved[0]), ridge.predict(curved[0]))


def test_the_mix_falls_back_to_ridge():
    rng = np.random.default_rng(3)
    design = rng.uniform(-10, 10, (N, 1))
    target = 3 * design + rng.normal(size=(N, 1))
    folds = np.digitize(design[:, 0], [-5, 0, 5])  # held-out spots lie beyond the kernel's reach
    mean, cross_fitted = RegressionMean.fit(design, target, folds)
    ridge, expected = RidgeRegression.fit(design, target, folds)
    assert mean.weight == 0
    np.testing.assert_array_equal(cross_fitted, expected)
    np.testing.assert_array_equal(mean.predict(design), ridge.predict(design))


@pytest.mark.parametrize("frequency", [0.5, 2.0, 4.0])
def test_the_width_and_the_weight_have_the_smallest_held_out_error(frequency):
    """A loop over widths and weights, each fold predicted by exact kernel ridge on the others."""
    rng = np.random.default_rng(4)
    design = rng.normal(size=(N, 2))
    target = np.sin(frequency * design) @ rng.normal(size=(2, 2)) + 0.1 * rng.normal(size=(N, 2))
    folds = np.arange(N) % 3
    squared = ((design[:, None] - design) ** 2).sum(axis=2)
    linear = _best(target, [slow_cross_fit(design, target, folds, alpha) for alpha in ALPHAS])
    errors = {}
    for width in WIDTHS:
        gram = np.exp(-width / np.median(squared) * squared)
        smooth = _best(target, [slow_kernel_cross_fit(gram, target, folds, a) for a in KERNEL_ALPHAS])
        for weight in WEIGHTS:
            errors[width, weight] = (((1 - weight) * linear + weight * smooth - target) ** 2).mean()
    width, weight = min(errors, key=errors.get)
    mean, cross_fitted = RegressionMean.fit(design, target, folds)
    assert mean.kernel.precision == pytest.approx(width / np.median(squared)) and mean.weight == weight
    assert ((cross_fitted - target) ** 2).mean() == pytest.approx(errors[width, weight], rel=1e-3)


def _best(target, predictions):
    """Of several cross-fits, the one with the smallest error over all genes."""
    return min(predictions, key=lambda p: ((p - target) ** 2).mean())


def test_wavy_targets_get_a_narrower_kernel_than_smooth_ones():
    rng = np.random.default_rng(4)
    design = rng.normal(size=(300, 2))
    precision = []
    for frequency in (0.7, 3.0):
        target = np.sin(frequency * design) + 0.05 * rng.normal(size=(300, 2))
        precision.append(RegressionMean.fit(design, target, np.arange(300) % 3)[0].kernel.precision)
    assert precision[1] > 2 * precision[0]


def test_the_mix_is_convex(curved):
    mean, _ = RegressionMean.fit(*curved)
    design = curved[0]
    smooth = mean.kernel_ridge.predict(mean.kernel.transform(design))
    expected = (1 - mean.weight) * mean.ridge.predict(design) + mean.weight * smooth
    assert 0 <= mean.weight <= 1
    np.testing.assert_allclose(mean.predict(design), expected, atol=1e-10)
