"""Lazy pyramids of image files: right pixels, decoded once."""

import numpy as np
import pytest
from PIL import Image

from flagst.io import clear_image_cache, images, lazy_pyramid


@pytest.fixture
def gradient() -> np.ndarray:
    """(90, 130, 3) smooth image, so that JPEG keeps it nearly unchanged."""
    rows, columns = np.mgrid[:90, :130]
    return np.stack([rows * 2, columns, 200 - rows], axis=-1).astype(np.uint8)


@pytest.fixture(autouse=True)
def _empty_cache():
    clear_image_cache()
    yield
    clear_image_cache()


@pytest.mark.parametrize("name, tolerance", [("image.png", 2), ("image.jpg", 6)])
def test_levels_halve_and_keep_the_picture(tmp_path, gradient, name, tolerance):
    path = tmp_path / name
    Image.fromarray(gradient).save(path, quality=98)
    levels = lazy_pyramid(path)
    assert [level.shape for level in levels] == [(90, 130, 3), (45, 65, 3), (22, 32, 3), (11, 16, 3)]
    for reduction, level in zip((1, 2, 4, 8), levels, strict=True):
        rows, columns = level.shape[0] * reduction, level.shape[1] * reduction
        blocks = gradient[:rows, :columns].reshape(level.shape[0], reduction, level.shape[1], reduction, 3)
        assert level.dtype == np.uint8
        assert np.abs(np.asarray(level, dtype=float) - blocks.mean(axis=(1, 3))).max() <= tolerance


def test_a_file_is_decoded_once_for_all_its_chunks(tmp_path, gradient, monkeypatch):
    path = tmp_path / "image.png"
    Image.fromarray(gradient).save(path)
    decoded = []
    read = images.read_reduced
    monkeypatch.setattr(images, "read_reduced", lambda *a: decoded.append(a) or read(*a))
    monkeypatch.setattr(images, "CHUNK", 32)
    level = lazy_pyramid(path)[0]
    assert decoded == []
    assert len(level.chunks[0]) == 3
    np.testing.assert_array_equal(level.compute(), gradient)
    np.testing.assert_array_equal(level[10:20, 40:50].compute(), gradient[10:20, 40:50])
    assert len(decoded) == 1


def test_the_cache_is_bounded(tmp_path, gradient, monkeypatch):
    monkeypatch.setattr(images, "CACHE_BYTES", gradient.nbytes)
    for name in ("a.png", "b.png"):
        Image.fromarray(gradient).save(tmp_path / name)
        lazy_pyramid(tmp_path / name)[0].compute()
    assert len(images._cache) == 1


def test_a_changed_file_is_decoded_again(tmp_path, gradient):
    path = tmp_path / "image.png"
    Image.fromarray(gradient).save(path)
    lazy_pyramid(path)[0].compute()
    Image.fromarray(255 - gradient[:80]).save(path)
    np.testing.assert_array_equal(lazy_pyramid(path)[0].compute(), 255 - gradient[:80])


def test_thumbnail_has_the_factor_from_full_resolution(gradient):
    levels = [gradient, gradient[::2, ::2]]
    small, factor = images.thumbnail(levels, longest=26)
    assert small.shape == (18, 26, 3)
    assert factor == pytest.approx(0.2)
    same, factor = images.thumbnail(levels, longest=1000)
    np.testing.assert_array_equal(same, gradient)
    assert factor == 1.0
