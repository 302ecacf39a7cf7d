"""Scaling, context features and the whole stage before the diffusion."""

import numpy as np
import pytest

from flagst.data.graph import knn
from flagst.regression import ContextFeatures, RegressionStage, TargetScaler, section_centre


def _sections(n_sections=3, n_spots=60, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(6, 4))
    images, neighbours, coords, targets = [], [], [], []
    for _ in range(n_sections):
        positions = rng.uniform(0, 10, (n_spots, 2))
        image = np.column_stack([np.sin(positions), np.cos(positions), rng.normal(size=(n_spots, 2))])
        images.append(image.astype(np.float32))
        coords.append(positions)
        neighbours.append(knn(positions, 18)[0])
        targets.append((image @ weights + 5 + 0.1 * rng.normal(size=(n_spots, 4))).astype(np.float32))
    return images, neighbours, coords, targets


def test_scaler_round_trip_and_constant_genes():
    target = np.random.default_rng(0).uniform(1, 5, (50, 3)).astype(np.float32)
    target[:, 1] = 2.0
    scaler = TargetScaler.fit(target)
    scaled = scaler.standardise(target)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=0)[[0, 2]], 1, atol=1e-6)
    np.testing.assert_allclose(scaler.restore(scaled), target, atol=1e-5)
    assert (scaled[:, 1] == 0).all()
    assert (scaler.restore(np.full((2, 3), -100.0)) == 0).all()


@pytest.mark.parametrize("neighbourhoods", [(18,), (6, 18)])
def test_context_is_the_neighbourhood_means(neighbourhoods):
    images, neighbours, _, _ = _sections()
    width = 6 * (1 + len(neighbourhoods))  # all components
    features = ContextFeatures.fit(images, neighbours, n_components=width, neighbourhoods=neighbourhoods)
    image = images[0].astype(np.float64)
    scaled = (image - image.mean(axis=0)) / features.scale
    parts = [scaled, *(np.array([scaled[n[:k]].mean(axis=0) for n in neighbours[0]]) for k in neighbourhoods)]
    expected = np.hstack(parts) @ features.components.T
    np.testing.assert_allclose(features.transform(images[0], neighbours[0]), expected, atol=1e-8)


def test_the_default_neighbourhood_is_18_spots():
    images, neighbours, _, _ = _sections()
    default, said = (ContextFeatures.fit(images, neighbours, **k) for k in ({}, {"neighbourhoods": (18,)}))
    np.testing.assert_array_equal(default.transform(images[0], neighbours[0]), said.transform(images[0], neighbours[0]))


def test_context_ignores_the_staining_of_a_slide():
    images, neighbours, _, _ = _sections()
    features = ContextFeatures.fit(images, neighbours)
    other = ContextFeatures.fit([images[0] + 9, *images[1:]], neighbours)
    np.testing.assert_allclose(
        features.transform(images[0], neighbours[0]),
        other.transform(images[0] + 9, neighbours[0]),
        atol=1e-4,
    )


def test_whitened_features_are_white_and_bounded():
    images, neighbours, _, _ = _sections()
    features = ContextFeatures.fit(images, neighbours)
    white = np.concatenate([features.whiten(image) for image in images])
    assert np.abs(white).max() <= 4
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(white.shape[1]), atol=0.1)


def test_no_neighbourhoods_leave_the_spot_itself():
    images, neighbours, _, _ = _sections()
    features = ContextFeatures.fit(images, neighbours, neighbourhoods=())
    shuffled = [np.random.default_rng(0).permuted(n, axis=0) for n in neighbours]
    np.testing.assert_array_equal(
        features.transform(images[0], neighbours[0]), features.transform(images[0], shuffled[0])
    )


@pytest.mark.parametrize("regression", ["ridge", "mixed"])
@pytest.mark.parametrize("n_sections", [1, 2, 3])
def test_stage_predicts_held_out_spots(regression, n_sections):
    images, neighbours, coords, targets = _sections(n_sections)
    stage, cross_fitted = RegressionStage.fit(images, neighbours, coords, targets, regression=regression)
    standard = stage.scaler.standardise(np.concatenate(targets))
    assert cross_fitted.shape == standard.shape
    assert ((cross_fitted - standard) ** 2).mean() < 0.5
    new = _sections(n_sections + 1)  # the same rule, sections never seen
    predicted = stage.predict(new[0][-1], new[1][-1])
    assert predicted.shape == (60, 4) and np.isfinite(predicted).all()
    truth = stage.scaler.standardise(new[3][-1])
    assert all(np.corrcoef(predicted[:, g], truth[:, g])[0, 1] > 0.8 for g in range(4))


def test_some_rows_are_predicted_as_in_the_whole_section():
    images, near, coords, targets = _sections()
    stage, _ = RegressionStage.fit(images, near, coords, targets)
    rows = np.random.default_rng(0).permutation(len(images[0]))[:7]
    found = stage.predict(images[0], near[0], rows=rows, centre=section_centre(images[0]))
    np.testing.assert_allclose(found, stage.predict(images[0], near[0])[rows], atol=1e-9)
    np.testing.assert_array_equal(
        stage.predict(images[0], near[0], rows=rows), found
    )  # the centre is that of the section
