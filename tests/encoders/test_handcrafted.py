"""The built-in encoder: finite, named, independent of batching, sensitive to what it names."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flagst.encoders import Handcrafted

EOSIN_PINK, NUCLEUS = (235, 190, 215), (80, 60, 140)


@pytest.fixture(scope="module")
def encoder():
    return Handcrafted()


def tissue(n_nuclei, radius=3, seed=0, background=EOSIN_PINK):
    """(112, 112, 3) patch with round nuclei that do not touch."""
    rng = np.random.default_rng(seed)
    patch = np.full((112, 112, 3), background, dtype=float) + rng.normal(0, 2, (112, 112, 3))
    places = np.stack(np.meshgrid(np.arange(8, 108, 12), np.arange(8, 108, 12)), axis=-1).reshape(-1, 2)
    y, x = np.mgrid[:112, :112]
    for cx, cy in rng.permutation(places)[:n_nuclei]:
        patch[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = NUCLEUS
    return np.clip(patch, 0, 255).astype(np.uint8)


def value(encoder, patch, name):
    return encoder.encode(patch[None])[0, encoder.feature_names.index(name)]


def test_every_feature_has_a_name(encoder):
    assert len(encoder.feature_names) == len(set(encoder.feature_names)) == encoder.n_features == 118


@pytest.mark.parametrize("kind", ["white", "black", "noise", "one colour"])
def test_any_patch_gives_finite_numbers(encoder, kind):
    shape = (3, 112, 112, 3)
    patches = {
        "white": np.full(shape, 255),
        "black": np.zeros(shape),
        "noise": np.random.default_rng(0).integers(0, 256, shape),
        "one colour": np.broadcast_to(np.array(EOSIN_PINK), shape),
    }[kind].astype(np.uint8)
    features = encoder.encode(patches)
    assert features.shape == (3, 118) and features.dtype == np.float32 and np.isfinite(features).all()
    assert np.abs(features).max() < 100


def test_a_patch_does_not_depend_on_its_batch(encoder):
    patches = np.stack([tissue(n, seed=n) for n in range(40)])
    together = encoder.encode(patches)
    alone = np.concatenate([encoder.encode(patch[None]) for patch in patches])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(encoder.encode, [patches] * 8):
            np.testing.assert_array_equal(result, together)
    assert encoder.encode(patches[:0]).shape == (0, 118)


def test_turning_a_patch_over_changes_little(encoder):
    patches = np.stack([tissue(30, seed=s) for s in range(6)])
    turned = encoder.encode(np.ascontiguousarray(patches[:, ::-1, ::-1]))
    spread = encoder.encode(np.stack([tissue(n, seed=n) for n in range(0, 60, 3)])).std(0) + 0.05
    assert np.median(np.abs(turned - encoder.encode(patches)) / spread) < 0.2


def test_nuclei_are_counted_and_measured(encoder):
    few, many = tissue(10), tissue(50)
    assert value(encoder, few, "nuclei_number") ** 2 == pytest.approx(10, abs=2)
    assert value(encoder, many, "nuclei_number") ** 2 == pytest.approx(50, abs=5)
    assert value(encoder, many, "nuclei_area") > value(encoder, few, "nuclei_area")
    assert value(encoder, tissue(20, radius=5), "nuclei_size") > value(encoder, tissue(20, radius=2), "nuclei_size")
    assert value(encoder, tissue(20, radius=5), "nuclei_erosion2") > value(encoder, tissue(20), "nuclei_erosion2")
    assert (
        value(encoder, many, "haematoxylin_inside_nuclei") > value(encoder, many, "haematoxylin_outside_nuclei") + 0.3
    )


def test_lumen_and_stain_amounts(encoder):
    half = tissue(0)
    half[:, :56] = 250
    assert value(encoder, half, "lumen") == pytest.approx(np.sqrt(0.5), abs=0.02)
    assert value(encoder, tissue(0, background=(225, 130, 190)), "eosin_mean") > value(encoder, tissue(0), "eosin_mean")
    assert value(encoder, tissue(40), "haematoxylin_q95") > value(encoder, tissue(0), "haematoxylin_q95")


def test_wrong_patches_are_errors(encoder):
    with pytest.raises(ValueError, match="112"):
        encoder.encode(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="float"):
        encoder.encode(np.zeros((1, 112, 112, 3)))
    with pytest.raises(ValueError, match="positive"):
        Handcrafted(nucleus_threshold=0)
