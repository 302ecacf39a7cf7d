"""Noise belongs to a spot: not to its batch, its order or its neighbours."""

import numpy as np
import pytest

from flagst.data.graph import moran_graph
from flagst.data.sections import Section
from flagst.metrics import morans_i
from flagst.sampling.spot_noise import shared_noise, spot_noise

NAMES = np.array([f"A_{i}" for i in range(500)])


def test_noise_is_standard_normal_and_independent():
    latent, genes = spot_noise("A", NAMES, seed=0, widths=(16, 40))
    assert latent.shape == (500, 16) and genes.shape == (500, 40) and genes.dtype == np.float32
    both = np.hstack([latent, genes])
    assert abs(both.mean()) < 0.02 and abs(both.std() - 1) < 0.02
    assert np.abs(np.corrcoef(both.T) - np.eye(56)).max() < 0.2


def test_a_spot_keeps_its_noise():
    whole = spot_noise("A", NAMES, seed=3, widths=(4, 7))
    order = np.random.default_rng(0).permutation(500)[:50]
    part = spot_noise("A", NAMES[order], seed=3, widths=(4, 7))
    for values, expected in zip(part, whole, strict=True):
        np.testing.assert_array_equal(values, expected[order])


def test_seed_section_and_name_each_matter():
    first = spot_noise("A", NAMES, seed="0/0", widths=(3,))[0]
    for section, names, seed in (
        ("B", NAMES, "0/0"),
        ("A", NAMES, "0/1"),
        ("A", np.char.add(NAMES, "x"), "0/0"),
    ):
        other = spot_noise(section, names, seed=seed, widths=(3,))[0]
        assert not np.isclose(first, other).any(axis=1).any()


def test_the_global_generator_is_not_used():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    spot_noise("A", NAMES[:5], seed=0, widths=(2,))
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_values_stay_what_they_are():
    # from numpy 2.4 on Linux: a saved model should sample the same on every machine and release
    found = spot_noise("A", NAMES[:1], seed="0/0", widths=(3,))[0]
    np.testing.assert_allclose(found, [[0.5430934, 1.4030399, -0.1247335]], atol=1e-6)


def test_the_first_numbers_do_not_depend_on_the_others():
    """Sampled states need the first few numbers of a spot, decoding needs all of them."""
    start, *_ = spot_noise("A", NAMES, seed=3, widths=(4, 300, 4))
    np.testing.assert_array_equal(spot_noise("A", NAMES, seed=3, widths=(4,))[0], start)


@pytest.fixture
def section():
    grid = np.stack(np.meshgrid(np.arange(25.0), np.arange(20.0)), -1).reshape(-1, 2)
    near = np.argsort(((grid[:, None] - grid) ** 2).sum(axis=-1), axis=1, kind="stable")[:, 1:9]
    return Section("A", NAMES, grid, np.zeros((500, 1), np.float32), near, np.ones(near.shape))


def test_shared_noise_is_the_sum_over_the_surroundings(section):
    own = spot_noise("A", NAMES, seed="3/shared", widths=(4,))[0]
    found = shared_noise(section, section.around(8), seed=3, width=4)
    assert found.shape == (500, 4) and found.dtype == np.float32
    expected = (own + sum(own[column] for column in section.neighbours.T)) / 3
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(shared_noise(section, section.around(0), seed=3, width=4), own)


def test_shared_noise_has_variance_one_and_is_autocorrelated(section):
    noise = shared_noise(section, section.around(8), seed=0, width=200)
    assert abs(noise.std() - 1) < 0.02 and np.abs(np.corrcoef(noise.T) - np.eye(200)).mean() < 0.1
    # side by side, six of nine spots are the same
    assert morans_i(noise, moran_graph(section.coords, "square")).mean() == pytest.approx(0.65, abs=0.04)


def test_a_spot_keeps_its_shared_noise_in_any_part(section):
    whole, rows = shared_noise(section, section.around(8), seed=3, width=4), np.array([40, 3, 499])
    np.testing.assert_allclose(shared_noise(section, section.around(8, rows), seed=3, width=4), whole[rows], atol=1e-6)
    assert not np.isclose(shared_noise(section, section.around(8), seed=4, width=4), whole).any(axis=1).any()
