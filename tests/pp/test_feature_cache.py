"""The cache of image features: a stopped run continues, and features of other inputs are not used."""

import logging

import numpy as np
import pytest

from flagst.data import patches as patches_module
from flagst.pp import image_features


class Counting:
    """Mean colour, counting patches; stops after ``most`` of them."""

    patch_px, patch_um, n_features, feature_names = 20, (40.0,), 3, ["r", "g", "b"]

    def __init__(self, version="1", weights="a", most=None):
        self.name, self.version, self.weights = "counting", version, weights
        self.n_encoded, self.most = 0, most

    def params(self):
        return {"sha256": self.weights, "mean": [0.5, 0.5, 0.5]}

    def encode(self, patches):
        if self.most is not None and self.n_encoded + len(patches) > self.most:
            raise KeyboardInterrupt
        self.n_encoded += len(patches)
        return patches.mean((1, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks in a small image."""
    monkeypatch.setattr(patches_module.plan_blocks, "__kwdefaults__", {"block_px": 128})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept" / "features"


@pytest.fixture
def table(sdata):
    """Two sections of 30 spots with images in memory, which have no chunks."""
    return sdata.tables["table"].copy()


def features(table, encoder, **kwargs):
    """Features from scratch, as a new session would make them."""
    table.obsm.pop("X_image", None)
    image_features(table, encoder=encoder, progress=False, **{"n_jobs": 1} | kwargs)
    return table.obsm["X_image"].copy()


def blocks(folder):
    return sorted(folder.glob("*/*.npy"))


def test_a_second_run_encodes_nothing(table, folder):
    plain = features(table, Counting())
    first, second = Counting(), Counting()
    np.testing.assert_array_equal(features(table, first, cache=folder), plain)
    assert first.n_encoded == 60 and len(blocks(folder)) > 10
    np.testing.assert_array_equal(features(table, second, cache=folder), plain)
    assert second.n_encoded == 0
    third = Counting()
    np.testing.assert_array_equal(features(table.copy(), third, cache=str(folder), n_jobs=3), plain)
    assert third.n_encoded == 0


def test_a_stopped_run_goes_on_where_it_stopped(table, folder):
    expected = features(table, Counting())
    stopped = Counting(most=35)
    with pytest.raises(KeyboardInterrupt):
        features(table, stopped, cache=folder)
    assert "X_image" not in table.obsm and 0 < stopped.n_encoded <= 35
    resumed = Counting()
    np.testing.assert_array_equal(features(table, resumed, cache=folder), expected)
    assert resumed.n_encoded == 60 - stopped.n_encoded


def test_only_what_changed_is_encoded_again(table, folder):
    def encoded(encoder=None, **kwargs):
        encoder = encoder or Counting()
        values = features(table, encoder, cache=folder, **kwargs)
        np.testing.assert_array_equal(values, features(table, Counting(), **kwargs))
        return encoder.n_encoded

    assert encoded() == 60
    assert encoded(Counting(version="2")) == encoded(Counting(weights="b")) == 60
    assert encoded(patch_um=60) == 60
    assert encoded(patch_um=[40, 60]) == 0  # both scales are known
    assert encoded(stain_normalise=None) == 60

    image = table.uns["spatial"]["B"]["images"]
    image["hires"] = image["hires"].copy()
    image["hires"][200:206, 400:406] = 7  # nothing but these pixels
    assert encoded(stain_normalise=None) == 30
    table.obsm["spatial"][0] += 8.0
    assert 0 < encoded(stain_normalise=None) < 15


def test_damaged_and_half_written_blocks_are_encoded_again(table, folder, caplog):
    expected = features(table, Counting(), cache=folder)
    for i, path in enumerate(blocks(folder)):
        whole = path.read_bytes()
        header = whole.replace(b"'descr'", b"'descr' ((", 1)  # what python's own parser stumbles over
        spoilt = [whole[:-4], b"", b"no array", header, whole][min(i, 4)]
        path.write_bytes(spoilt)
    np.save(blocks(folder)[4], np.full_like(np.load(blocks(folder)[4]), np.nan))
    again = Counting()
    with caplog.at_level(logging.WARNING, logger="flagst"):
        np.testing.assert_array_equal(features(table, again, cache=folder), expected)
    assert caplog.text.count("is damaged") == 5 and 0 < again.n_encoded < 60
    assert all(np.isfinite(np.load(path)).all() for path in blocks(folder))


def test_a_block_that_cannot_be_finished_leaves_nothing_behind_that_counts(table, folder, monkeypatch):
    from flagst.pp import _cache

    def replace(draft, path):
        if str(path).endswith(".npy"):
            raise OSError("killed")
        return real(draft, path)

    real = _cache.os.replace
    monkeypatch.setattr(_cache.os, "replace", replace)
    with pytest.raises(OSError, match="killed"):
        features(table, Counting(), cache=folder)
    monkeypatch.undo()
    assert not blocks(folder) and not list(folder.glob("*/*.part"))
    again = Counting()
    features(table, again, cache=folder)
    assert again.n_encoded == 60


def test_values_that_are_not_finite_are_not_kept(table, folder):
    class Broken(Counting):
        def encode(self, patches):
            return np.full((len(patches), 3), np.nan, np.float32)

    with pytest.raises(ValueError, match="NaN"):
        features(table, Broken(), cache=folder)
    assert not blocks(folder)


def test_a_function_is_kept_by_its_name_and_version(table, folder):
    from flagst.encoders import CallableEncoder

    def colour(version):
        return CallableEncoder(lambda x: x.mean((2, 3)), name="a b/c", version=version, patch_px=20, patch_um=40)

    for version in ("1", "2", "1"):
        features(table, colour(version), cache=folder)
    assert len(list(folder.iterdir())) == 2 and all(p.name.startswith("a_b_c-") for p in folder.iterdir())


def test_the_resolution_that_is_read_is_the_one_compared(table, folder):
    """Two images with the same finest level, and other pixels below it."""
    import dask.array as da
    from xarray import DataArray, DataTree

    from flagst.data.patches import image_levels, plan_blocks
    from flagst.pp._cache import FeatureCache, fingerprint

    fine = np.random.default_rng(0).integers(0, 255, (3, 400, 600), dtype=np.uint8)
    coarse = fine[:, ::2, ::2].copy()
    other = coarse.copy()
    other[:, 100, 100] += 1

    def levels(*arrays):
        scales = {
            f"scale{i}": DataArray(a, dims=("c", "y", "x")).to_dataset(name="image") for i, a in enumerate(arrays)
        }
        return image_levels(DataTree.from_dict(scales))

    def key(arrays, side):
        block = plan_blocks(levels(*arrays), np.array([[300.0, 200.0]]), side=side, out_px=20)[0]
        return FeatureCache(folder, Counting()).key(fingerprint(block.level), block, None)

    assert key((fine, coarse), 20) == key((fine, other), 20)  # cut from the finest
    assert key((fine, coarse), 40) != key((fine, other), 40)
    chunked = levels(da.from_array(fine, chunks=(3, 77, 100)), coarse)
    assert [fingerprint(level) for level in chunked] == [fingerprint(level) for level in levels(fine, coarse)]


def test_large_images_are_compared_by_some_pixels_whatever_their_chunks(monkeypatch):
    import dask.array as da

    from flagst.data.patches import Level
    from flagst.pp import _cache

    monkeypatch.setattr(_cache, "_FINGERPRINT_PX", 100)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 310, 290), dtype=np.uint8)
    whole = _cache.fingerprint(Level(pixels, 1.0, 1.0))
    for chunk, at_once in ((1, 1), (3, 1), (50, 1), (310, 1), (1, 100), (3, 100)):
        monkeypatch.setattr(_cache, "_ROWS_AT_ONCE", at_once)
        assert _cache.fingerprint(Level(da.from_array(pixels, chunks=(3, chunk, 64)), 1.0, 1.0)) == whole
    for row, seen in ((100, True), (101, False)):  # every fourth
        changed = pixels.copy()
        changed[:, row, 100] += 1
        assert (_cache.fingerprint(Level(changed, 1.0, 1.0)) != whole) == seen


def test_another_way_of_cutting_and_another_precision_are_encoded_again(table, folder, monkeypatch):
    from flagst.pp import _cache

    class Half(Counting):
        dtypes = ("float16",)

    for encoder, encoded in ((Counting(), 60), (Half(), 60), (Half(), 0), (Counting(), 0)):
        features(table, encoder, cache=folder)
        assert encoder.n_encoded == encoded
    monkeypatch.setattr(_cache, "FORMAT", _cache.FORMAT + 1)
    again = Counting()
    features(table, again, cache=folder)
    assert again.n_encoded == 60


def test_a_corrected_licence_is_written_and_nothing_encoded(table):
    class Licensed(Counting):
        licence = "MIT"

    encoder, corrected = Licensed(), Licensed()
    features(table, encoder)
    record = table.uns["flagst"]["features"]["X_image"]
    assert record["licence"] == "MIT"
    corrected.licence = "CC0"
    image_features(table, encoder=corrected, progress=False, n_jobs=1)
    assert corrected.n_encoded == 0 and record["licence"] == "CC0"


def test_a_precision_that_other_machines_choose_is_none_of_this_one(folder):
    from flagst.encoders import CallableEncoder
    from flagst.pp._cache import FeatureCache

    def kept(precision, **kwargs):
        encoder = CallableEncoder(lambda x: x.mean((2, 3)), name="n", patch_px=20, precision=precision)
        return FeatureCache(folder, encoder, **kwargs).folder

    assert kept("auto") == kept("float32") == kept("float32", elsewhere=True)
    assert len({kept("auto"), kept("auto", elsewhere=True), kept("bfloat16")}) == 3
