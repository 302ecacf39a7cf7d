"""Cells: points of very uneven density, far from any grid, and as many as a slide has. No dense matrix of them."""

import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from flagst.data.from_anndata import sections_from_anndata
from flagst.data.graph import MORAN_NEIGHBOURS, knn, moran_graph
from flagst.data.measured import training_spacing
from flagst.data.windows import N_EDGES, partition, section_inputs, window

N_CELLS = 20_000
#: What one byte for every pair of cells would take.
DENSE = N_CELLS**2


def uneven_cells(n_cells, seed=0):
    """Follicles that are a hundred times denser than what lies between, and some cells on their own, in um."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(1000, 5000, (8, 2))
    n_dense = int(0.7 * n_cells)
    dense = centres[rng.integers(8, size=n_dense)] + rng.normal(0, 60, (n_dense, 2))
    sparse = rng.uniform(500, 5500, (n_cells - n_dense - 5, 2))
    alone = np.array([[0, 0], [6000, 0], [0, 6000], [6000, 6000], [3000, -900]])
    return np.concatenate([dense, sparse, alone])


def cells_table(n_cells, um_per_px=0.25, seed=0):
    rng = np.random.default_rng(seed)
    table = anndata.AnnData(obs=pd.DataFrame({"section": "X"}, index=[f"c{i}" for i in range(n_cells)]))
    table.obsm["spatial"] = uneven_cells(n_cells, seed) / um_per_px
    table.obsm["X_image"] = rng.normal(size=(n_cells, 20)).astype(np.float32)
    table.uns["flagst"] = {"params": {"um_per_px": {"X": um_per_px}, "layout": {"X": "irregular"}}}
    return table


def test_coordinates_and_distances_are_micrometres():
    (section,) = sections_from_anndata(cells_table(400))
    np.testing.assert_allclose(section.coords, uneven_cells(400))
    assert section.layout == "irregular"
    far = np.linalg.norm(section.coords[-1] - section.coords[:-1], axis=1)
    np.testing.assert_allclose(section.distances[-1], np.sort(far)[:18])
    spacing = training_spacing(cells_table(400), [section])
    assert spacing == {"pitch_um": pytest.approx(np.median(section.distances[:, 0])), "layout": "irregular"}
    unknown = cells_table(400)
    del unknown.uns["flagst"]["params"]["um_per_px"]
    assert training_spacing(unknown, [section]) is None


def test_a_slide_of_cells_needs_no_dense_matrix():
    table = cells_table(N_CELLS)
    tracemalloc.start()
    (section,) = sections_from_anndata(table)
    tensors = section_inputs(section.image, section.neighbours, section.distances, None)
    graph = moran_graph(section.coords, section.layout)
    parts = partition(section.coords, 1024)
    windows = [window(tensors, part, n_hops=2) for part in parts[:2]]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < DENSE / 4
    assert section.neighbours.shape == section.distances.shape == (N_CELLS, 18)
    assert graph.nnz == N_CELLS * MORAN_NEIGHBOURS["irregular"]
    assert tensors["edge_index"].shape == (2, N_CELLS * (N_EDGES + 1))
    assert sum(map(len, parts)) == N_CELLS and max(map(len, parts)) <= 1024
    assert all(len(w["image"]) < N_CELLS / 4 for w in windows)


def test_edges_of_lone_and_of_crowded_cells_are_finite():
    coords = uneven_cells(600)
    neighbours, distances = knn(coords, 18)
    white = np.random.default_rng(0).normal(size=(600, 5))
    tensors = section_inputs(white, neighbours, distances, None)
    for values in tensors.values():
        assert torch.isfinite(values.float()).all()
    kernel = tensors["edge_attr"][: 600 * N_EDGES, 0].reshape(600, N_EDGES)
    assert (kernel[-5:] < 1e-6).all()  # nothing reaches a cell on its own
    assert kernel[:420].mean() > 0.3  # and much a crowded one
    shuffled = np.random.default_rng(1).permutation(600)
    again = knn(coords[shuffled], 18)
    np.testing.assert_array_equal(shuffled[again[0]], neighbours[shuffled])


def test_cells_in_one_place_do_not_break_the_graph():
    """Segmentation gives cells of equal centroids now and then; a stack of them has distance 0 all over."""
    coords = np.concatenate([np.zeros((30, 2)), uneven_cells(50)])
    neighbours, distances = knn(coords, 8)
    assert (neighbours != np.arange(80)[:, None]).all() and np.isfinite(distances).all()
    tensors = section_inputs(np.ones((80, 3)), neighbours, distances, None)
    assert all(torch.isfinite(values.float()).all() for values in tensors.values())
    assert moran_graph(coords, "irregular").sum() == pytest.approx(80)
