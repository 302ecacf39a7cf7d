"""Texture functions against plain formulas, scikit-image, and patterns whose answer is known."""

import numpy as np
import pytest

from flagst.encoders import _texture as texture


@pytest.fixture
def noise():
    return np.random.default_rng(0).random((3, 112, 112)).astype(np.float32)


def stripes(period, angle=0.0):
    y, x = np.mgrid[:112, :112]
    wave = np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    return wave[None].astype(np.float32)


def test_moments_and_quantiles(noise):
    mean, std, *quantiles = texture.moments_and_quantiles(noise).T
    flat = noise.reshape(3, -1)
    np.testing.assert_allclose(mean, flat.mean(1), atol=1e-5)
    np.testing.assert_allclose(std, flat.std(1), atol=1e-5)
    np.testing.assert_allclose(quantiles, np.percentile(flat, texture.QUANTILES, axis=1), atol=0.03)


def test_correlation(noise):
    expected = [np.corrcoef(noise[i].ravel(), (noise[i] ** 2).ravel())[0, 1] for i in range(3)]
    np.testing.assert_allclose(texture.correlation(noise, noise**2)[:, 0], expected, atol=1e-4)
    assert np.abs(texture.correlation(noise, np.ones_like(noise))).max() < 1e-3


def test_blur_is_the_binomial_filter_without_borders(noise):
    from scipy.ndimage import convolve1d

    kernel = np.array([1, 4, 6, 4, 1]) / 16
    expected = convolve1d(convolve1d(noise, kernel, axis=1), kernel, axis=2)[:, 2:-2, 2:-2]
    np.testing.assert_allclose(texture.blur(noise), expected, atol=1e-5)


def test_cell_means_cover_everything_once(noise):
    cells = texture.cell_means(noise, 4)
    np.testing.assert_allclose(cells[1, 2, 3], noise[1, 56:84, 84:].mean(), atol=1e-5)
    uneven = texture.cell_means(np.ones((1, 7, 7), np.float32), 4)
    np.testing.assert_allclose(uneven, 1, atol=1e-6)


def bands(plane):
    return texture.band_energies(plane, texture.blur(plane))


def test_bands_answer_to_their_own_octave():
    energies = np.array([bands(stripes(p))[0, ::2] for p in (3, 10, 20, 40)])
    assert (energies.argmax(axis=1) == np.arange(4)).all()


def test_bands_see_where_detail_is(noise):
    half = noise[:1].copy()
    half[:, :, 56:] = 0.5
    assert bands(half)[0, 1] > 5 * bands(noise[:1])[0, 1]


def test_grey_level_differences_equal_the_cooccurrence_matrix():
    from skimage.feature import graycomatrix, graycoprops

    levels = np.random.default_rng(0).integers(0, 32, (112, 112))
    levels = (levels + np.roll(levels, 1, 1)) // 2
    statistics = texture.grey_level_differences((levels[None] / 32).astype(np.float32))[0].reshape(-1, 3)
    for lag, (contrast, correlation, homogeneity) in zip(texture.LAGS, statistics, strict=True):
        matrix = graycomatrix(levels.astype(np.uint8), [lag], [0, np.pi / 2], levels=32, symmetric=True, normed=True)
        assert contrast == pytest.approx(np.sqrt(graycoprops(matrix, "contrast").mean()) / 32, rel=1e-3)
        assert correlation == pytest.approx(graycoprops(matrix, "correlation").mean(), abs=0.02)
        assert 0 < homogeneity < 1


def test_local_binary_patterns_are_shares_and_ignore_turning(noise):
    patterns = texture.local_binary_patterns(noise)
    assert patterns.shape == (3, 20)
    np.testing.assert_allclose(patterns.reshape(3, 2, 10).sum(2), 1)
    turned = texture.local_binary_patterns(np.rot90(noise, axes=(1, 2)))
    np.testing.assert_allclose(turned, patterns, atol=1e-12)
    flat = texture.local_binary_patterns(np.full((1, 112, 112), 0.4, np.float32))[0]
    assert flat[8] == flat[18] == 1


@pytest.mark.parametrize("angle", [0.0, 0.6, np.pi / 2])
def test_stripes_have_a_direction_and_noise_has_none(noise, angle):
    local, _, whole, *_ = texture.orientation(texture.blur(stripes(9, angle)))[0]
    assert local > 0.9 and whole > 0.9
    local, _, whole, *_ = texture.orientation(texture.blur(noise))[0]
    assert local < 0.6 and whole < 0.1


def test_share(noise):
    np.testing.assert_allclose(texture.share(noise > 0.3), (noise > 0.3).mean((1, 2)))
