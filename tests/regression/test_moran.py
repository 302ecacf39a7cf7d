"""Moran's I over nearest neighbours: the measure itself, from parts of a section, and the line by abundance."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from flagst.data.graph import knn, moran_graph
from flagst.metrics import morans_i
from flagst.regression import MoranSums, neighbour_moran
from flagst.regression.moran import moran_by_abundance

N_SPOTS, N_GENES = 400, 5


@pytest.fixture
def section():
    """Positions, smooth and rough values, and the four nearest spots."""
    rng = np.random.default_rng(0)
    coords = rng.uniform(0, 20, size=(N_SPOTS, 2))
    near = knn(coords, 4)[0]
    wave = np.sin(coords[:, :1] / 3) + np.cos(coords[:, 1:] / 4)
    return coords, 100 * (wave * np.linspace(0, 2, N_GENES) + rng.normal(size=(N_SPOTS, N_GENES))), near


def parts_of(near, rows, n_parts):
    """Parts with their neighbours: kept spots, places of the neighbours and of the rows in them, and which are new."""
    seen = np.zeros(len(near), bool)
    for own in np.array_split(rows, n_parts):
        kept, place = np.unique(np.concatenate([own, near[own].ravel()]), return_inverse=True)
        yield kept, place[len(own) :].reshape(len(own), -1), place[: len(own)], ~seen[kept]
        seen[kept] = True


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_it_is_morans_i(section, offset):
    coords, values, near = section
    expected = morans_i(values, moran_graph(coords, "square"))
    np.testing.assert_allclose(neighbour_moran(values + offset, near), expected, atol=1e-6)
    assert np.ptp(expected) > 0.3


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("n_parts", [1, 2, 7])
def test_sums_over_parts_are_those_of_the_section(section, n_parts, offset):
    """Parts that hold their neighbours too, each spot counted once in the mean, the centre given or not."""
    coords, values, near = section
    rows = np.random.default_rng(1).permutation(N_SPOTS)
    for centre in (None, values.mean(axis=0) + offset + 0.3):
        sums = MoranSums(centre)
        for kept, *where in parts_of(near, rows, n_parts):
            sums.add(values[kept] + offset, *where)
        np.testing.assert_allclose(sums.result(), neighbour_moran(values + offset, near), atol=1e-8)
        np.testing.assert_allclose(sums.result(), morans_i(values, moran_graph(coords, "square")), atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_sums_over_some_rows(section, offset):
    """The mean is that of all spots seen: the rows and their neighbours."""
    _, values, near = section
    rows = np.arange(0, N_SPOTS, 3)
    kept = np.unique(np.concatenate([rows, near[rows].ravel()]))
    centred = values - values[kept].mean(axis=0)
    expected = (centred[rows] * centred[near[rows]].mean(axis=1)).sum(axis=0) / (centred[rows] ** 2).sum(axis=0)
    sums = MoranSums()
    for part, *where in parts_of(near, rows, 5):
        sums.add(values[part] + offset, *where)
    np.testing.assert_allclose(sums.result(), expected, atol=1e-8)
    place = np.searchsorted(kept, near[rows]), np.searchsorted(kept, rows)
    np.testing.assert_allclose(neighbour_moran(values[kept] + offset, *place), expected, atol=1e-8)


def test_it_is_morans_i_of_weights_to_any_neighbours(section):
    values, near = section[1], np.random.default_rng(2).integers(N_SPOTS, size=(N_SPOTS, 3))
    weights, starts = np.full(3 * N_SPOTS, 1 / 3), np.arange(0, 3 * N_SPOTS + 1, 3)
    graph = csr_matrix((weights, near.ravel(), starts), shape=(N_SPOTS, N_SPOTS))
    np.testing.assert_allclose(neighbour_moran(values, near), morans_i(values, graph), atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_constant_columns_have_moran_zero(kind):
    near = knn(np.random.default_rng(0).uniform(size=(5000, 2)), 4)[0]
    values = np.full((5000, 4), [0.1, 0.7, 3.3, 0.0], dtype=kind)
    np.testing.assert_array_equal(neighbour_moran(values, near), 0)
    sums = MoranSums()
    for kept, *where in parts_of(near, np.arange(5000), 4):
        sums.add(values[kept], *where)
    np.testing.assert_array_equal(sums.result(), 0)


def test_small_variation_on_a_large_value_still_counts(section):
    _, values, near = section
    np.testing.assert_allclose(neighbour_moran(1000 + values / 100, near), neighbour_moran(values, near), atol=1e-6)


def test_moran_by_abundance_is_the_least_squares_line():
    rng = np.random.default_rng(0)
    abundance = rng.gamma(2, size=50)
    moran = 0.1 + 0.05 * abundance + rng.normal(0, 0.05, 50)
    unknown = rng.permutation(50)[:9]
    moran[unknown] = np.nan
    known = np.isfinite(moran)
    slope, intercept = np.polyfit(abundance[known], moran[known], 1)
    np.testing.assert_allclose(moran_by_abundance(moran, abundance), intercept + slope * abundance, rtol=1e-9)
    # no line: too few genes, a fall, genes alike
    assert moran_by_abundance(moran[:15], abundance[:15]) is None
    assert moran_by_abundance(-moran, abundance) is None
    assert moran_by_abundance(moran, np.full(50, 1e6)) is None
    assert moran_by_abundance(np.full(50, np.nan), abundance) is None
