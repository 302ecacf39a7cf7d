"""Nearest neighbours and Moran's graph: brute force, ties, order, edge cases."""

import numpy as np
import pytest

from flagst.data.graph import MORAN_NEIGHBOURS, knn, moran_graph


def square_array(side=6, pitch=290.5):
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    return np.column_stack([x.ravel(), y.ravel()]) * pitch


def hex_array(side=6):
    y, x = np.divmod(np.arange(side**2), side)
    return np.column_stack([x + 0.5 * (y % 2), y * np.sqrt(3) / 2]) * 100.0


def test_knn_equals_brute_force():
    coords = np.random.default_rng(0).random((40, 2))
    indices, distances = knn(coords, 5)
    pairwise = np.linalg.norm(coords[:, None] - coords[None], axis=-1)
    np.fill_diagonal(pairwise, np.inf)
    np.testing.assert_array_equal(indices, np.argsort(pairwise, axis=1)[:, :5])
    np.testing.assert_allclose(distances, np.sort(pairwise, axis=1)[:, :5])
    assert indices.dtype == np.int64


@pytest.mark.parametrize("coords", [square_array(), hex_array(), square_array(3)])
@pytest.mark.parametrize("k", [1, 4, 6, 8])
def test_ties_do_not_depend_on_spot_order(coords, k):
    order = np.random.default_rng(1).permutation(len(coords))
    indices, distances = knn(coords, k)
    shuffled, shuffled_distances = knn(coords[order], k)
    np.testing.assert_array_equal(order[shuffled], indices[order])
    np.testing.assert_allclose(shuffled_distances, distances[order])
    # Moving the section does not matter either.
    np.testing.assert_array_equal(knn(coords + [1234.56, -78.9], k)[0], indices)


def test_k_is_clipped():
    indices, distances = knn(np.array([[0.0, 0], [1, 0], [5, 0]]), 10)
    np.testing.assert_array_equal(indices, [[1, 2], [0, 2], [1, 0]])
    np.testing.assert_allclose(distances, [[1, 5], [1, 4], [4, 5]])
    assert knn(np.zeros((1, 2)), 3)[0].shape == (1, 0)
    assert knn(np.zeros((0, 2)), 3)[0].shape == (0, 0)


def test_itself_is_excluded_even_among_duplicates():
    coords = np.array([[1.0, 1]] * 30 + [[2.0, 2]])
    indices, _ = knn(coords, 3)
    assert not (indices == np.arange(31)[:, None]).any()
    assert all(len(set(row)) == 3 for row in indices)


def test_moran_graph_is_binary_row_normalised():
    graph = moran_graph(square_array(), "square")
    np.testing.assert_allclose(graph.sum(axis=1), 1.0)
    np.testing.assert_allclose(graph.data, 0.25)
    assert graph.diagonal().sum() == 0
    inner = 2 * 6 + 2
    assert set(graph[inner].indices) == {inner - 1, inner + 1, inner - 6, inner + 6}


def test_hexagonal_ring_is_found():
    coords = hex_array()
    graph = moran_graph(coords, "hex")
    inner = 2 * 6 + 2
    distances = np.linalg.norm(coords[graph[inner].indices] - coords[inner], axis=1)
    np.testing.assert_allclose(distances, 100.0)
    assert MORAN_NEIGHBOURS == {"square": 4, "hex": 6, "irregular": 6, "other": 6}


def test_small_sections_use_what_is_there():
    graph = moran_graph(np.array([[0.0, 0], [1, 0], [0, 1]]), "other")
    np.testing.assert_allclose(graph.toarray(), (1 - np.eye(3)) / 2)


def test_errors():
    with pytest.raises(ValueError, match="layout must be one of"):
        moran_graph(square_array(), "visium")
    with pytest.raises(ValueError, match="at least 2 spots"):
        moran_graph(np.zeros((1, 2)), "hex")
    with pytest.raises(ValueError, match=r"\(n_spots, 2\).*got shape \(4, 3\)"):
        knn(np.zeros((4, 3)), 2)
    with pytest.raises(ValueError, match="coords has NaN.*first at row 1"):
        knn(np.array([[0.0, 0], [np.nan, 1]]), 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        knn(square_array(), 0)
