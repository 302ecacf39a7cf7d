"""Noise belongs to a spot: not to its batch, its order or its neighbours."""

import numpy as np

from flagst.data.noise import spot_noise

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
    # from numpy 2.4 on Linux: a saved model should draw the same on every machine and release
    found = spot_noise("A", NAMES[:1], seed="0/0", widths=(3,))[0]
    np.testing.assert_allclose(found, [[0.5430934, 1.4030399, -0.1247335]], atol=1e-6)


def test_the_first_numbers_do_not_depend_on_the_others():
    """Drawn states need the first few numbers of a spot, decoding needs all of them."""
    start, *_ = spot_noise("A", NAMES, seed=3, widths=(4, 300, 4))
    np.testing.assert_array_equal(spot_noise("A", NAMES, seed=3, widths=(4,))[0], start)
