"""Folds: whole sections where there are enough, compact blocks of equal size where there are not."""

import numpy as np
import pytest

from flagst.regression import cross_fitting_folds


def _coords(n, seed=0):
    return np.random.default_rng(seed).uniform(0, [20, 10], (n, 2))


@pytest.mark.parametrize("n_sections", [3, 5, 20])
def test_whole_sections(n_sections):
    section = np.repeat([f"S{i}" for i in range(n_sections)], 15)
    section = section[np.random.default_rng(0).permutation(len(section))]
    folds = cross_fitting_folds(section, _coords(len(section)))
    for name in np.unique(section):
        assert len(np.unique(folds[section == name])) == 1
    assert folds.min() == 0 and len(np.unique(folds)) == min(n_sections, folds.max() + 1)
    assert len(np.unique(folds)) >= min(n_sections, 3)


@pytest.mark.parametrize("n_sections", [1, 2])
@pytest.mark.parametrize("n_spots", [50, 97])
def test_blocks_are_balanced_and_stay_in_their_section(n_sections, n_spots):
    section = np.repeat(np.arange(n_sections), n_spots)
    coords = np.concatenate([_coords(n_spots, seed) for seed in range(n_sections)])
    folds = cross_fitting_folds(section, coords)
    assert len(np.unique(folds)) == 4 * n_sections
    for fold in np.unique(folds):
        assert len(np.unique(section[folds == fold])) == 1
        assert abs((folds == fold).sum() - n_spots / 4) <= 1


def test_blocks_are_compact():
    coords = _coords(400)
    folds = cross_fitting_folds(np.zeros(400), coords)
    extent = [coords[folds == fold].std(axis=0).prod() for fold in range(4)]
    assert max(extent) < coords.std(axis=0).prod() / 3


def test_blocks_do_not_depend_on_order_rotation_or_unit():
    coords = _coords(120)
    folds = cross_fitting_folds(np.zeros(120), coords)
    order = np.random.default_rng(1).permutation(120)
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    for other in (
        cross_fitting_folds(np.zeros(120), coords[order])[np.argsort(order)],
        cross_fitting_folds(np.zeros(120), 7 * coords @ turn + 100),
    ):
        # the same blocks, whatever their numbers
        np.testing.assert_array_equal(folds[:, None] == folds, other[:, None] == other)


def test_spots_on_a_line_and_identical_spots_still_make_folds():
    for coords in (np.column_stack([np.arange(60.0), np.zeros(60)]), np.ones((60, 2))):
        folds = cross_fitting_folds(np.zeros(60), coords)
        np.testing.assert_array_equal(np.bincount(folds), [15, 15, 15, 15])


def test_a_regular_array_is_cut_in_equal_parts():
    x, y = np.meshgrid(np.arange(5.0), np.arange(17.0))
    folds = cross_fitting_folds(np.zeros(85), np.column_stack([x.ravel(), y.ravel()]))
    assert np.ptp(np.bincount(folds)) <= 1
