"""Sections as tensors: edges, mixing weights, windows and parts."""

import numpy as np
import pytest
import torch

from flagst.data.graph import knn
from flagst.data.windows import (
    N_EDGES,
    SIGMA_PITCHES,
    denoiser_window,
    encoder_window,
    partition,
    section_inputs,
    spot_pitch,
    window,
)


@pytest.fixture
def section():
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(8.0), np.arange(6.0))
    coords = 100 * np.column_stack([x.ravel(), y.ravel()])
    return coords, rng.normal(size=(48, 5)), *knn(coords, 18)


@pytest.fixture
def tensors(section):
    coords, white, neighbours, distances = section
    return section_inputs(white, neighbours, distances, np.ones((48, 3)))


def test_shapes_and_types(tensors):
    assert tensors["image"].shape == (48, 5) and tensors["mean"].shape == (48, 3)
    assert tensors["edge_index"].shape == (2, 48 * (N_EDGES + 1))
    assert tensors["mix_index"].shape == (2, 48 * N_EDGES)
    for key, values in tensors.items():
        assert values.dtype == (torch.int64 if key.endswith("index") else torch.float32)
        assert torch.isfinite(values.float()).all()


def test_every_spot_has_one_self_edge_and_mixing_has_none(tensors):
    source, target = tensors["edge_index"]
    assert sorted(source[source == target].tolist()) == list(range(48))
    source, target = tensors["mix_index"]
    assert (source != target).all()


def test_edges_run_from_neighbours_with_the_two_features_of_the_paper(section, tensors):
    coords, white, neighbours, _ = section
    source, target = tensors["edge_index"].numpy()
    for edge in (0, 5, 100, 200):
        i, j = target[edge], source[edge]
        assert j in neighbours[i, :N_EDGES]
        squared = ((coords[i] - coords[j]) ** 2).sum()
        kernel = np.exp(-squared / (2 * (SIGMA_PITCHES * 100) ** 2))
        cosine = white[i] @ white[j] / np.linalg.norm(white[i]) / np.linalg.norm(white[j])
        np.testing.assert_allclose(tensors["edge_attr"][edge], [kernel, cosine], atol=1e-5)


def test_mixing_weights_sum_to_one(tensors):
    sums = torch.zeros(48).index_add(0, tensors["mix_index"][1], tensors["mix_weight"])
    torch.testing.assert_close(sums, torch.ones(48))


def test_the_unit_of_length_does_not_matter(section):
    coords, white, neighbours, distances = section
    first = section_inputs(white, neighbours, distances, None)
    second = section_inputs(white, neighbours, distances / 290, None)
    assert "mean" not in first
    for key in first:
        torch.testing.assert_close(first[key], second[key])


@pytest.mark.parametrize("coords", [np.zeros((12, 2)), np.repeat(np.eye(2), 6, axis=0)], ids=["one", "two"])
def test_repeated_positions_stay_finite(coords):
    tensors = section_inputs(np.ones((12, 2)), *knn(coords, 18), None)
    assert all(torch.isfinite(values.float()).all() for values in tensors.values())


def test_no_edges_leave_the_spot_itself(section):
    _, white, neighbours, distances = section
    tensors = section_inputs(white, neighbours[:, :0], distances[:, :0], None)
    assert tensors["mix_index"].shape == (2, 0)
    assert torch.equal(tensors["edge_index"][0], tensors["edge_index"][1])


def test_a_section_of_two_spots_works():
    tensors = section_inputs(np.ones((2, 3)), *knn(np.array([[0.0, 0], [1, 0]]), 18), None)
    assert tensors["mix_index"].tolist() == [[1, 0], [0, 1]]


def test_a_window_keeps_its_spots_and_their_halo(section, tensors):
    coords = section[0]
    core = np.flatnonzero(coords[:, 0] < 200)
    part = window(tensors, core, n_hops=1)
    n_spots = len(part["image"])
    assert part["core"].sum() == len(core) < n_spots < 48
    # renumbered edges join the same spots as before
    kept = [row for row in range(48) if (tensors["image"][row] == part["image"]).all(dim=1).any()]
    before = set(zip(*tensors["edge_index"].tolist(), strict=True))
    after = {(kept[a], kept[b]) for a, b in zip(*part["edge_index"].tolist(), strict=True)}
    assert after == {(a, b) for a, b in before if a in kept and b in kept}
    # every edge into the core is there
    assert {(a, b) for a, b in before if b in core} <= after


def test_a_window_of_everything_is_the_section(tensors):
    part = window(tensors, np.arange(48), n_hops=2)
    assert part["core"].all()
    for key, values in tensors.items():
        torch.testing.assert_close(part[key], values)


def test_without_a_halo_a_window_is_closed(section, tensors):
    core = np.flatnonzero(section[0][:, 0] < 200)
    part = window(tensors, core, n_hops=0)
    assert part["core"].all() and len(part["image"]) == len(core)
    assert part["edge_index"].max() < len(core)


def test_parts_are_disjoint_compact_and_small(section):
    coords = section[0]
    parts = partition(coords, 13)
    assert sorted(np.concatenate(parts)) == list(range(48))
    assert max(map(len, parts)) <= 13 and len(parts) == 4
    assert max(np.ptp(coords[rows], axis=0).max() for rows in parts) < np.ptp(coords, axis=0).max()
    assert len(partition(coords, 48)) == 1


@pytest.mark.parametrize("n_hops", [1, 2])
def test_edges_of_a_window_of_an_evaluation_are_those_of_the_section(section, tensors, n_hops):
    """Every spot but the outermost ring has all edges it has in the whole section, with the same values."""
    _, white, neighbours, distances = section
    core, graph = np.array([9, 0, 1]), (neighbours[:, :N_EDGES], distances[:, :N_EDGES])
    pitch = spot_pitch(graph[1])
    parts = {
        ("edge_index", "edge_attr"): encoder_window(white, *graph, core, n_hops=n_hops, pitch=pitch),
        ("mix_index", "mix_weight"): denoiser_window(*graph, core, n_hops=n_hops, pitch=pitch),
    }
    for (index, value), part in parts.items():
        rows = part["rows"]
        np.testing.assert_array_equal(rows[part["core"]], np.sort(core))
        source, target = rows[part[index]]
        inner = core
        for _ in range(n_hops - 1):
            inner = np.union1d(inner, graph[0][inner])
        kept = np.isin(tensors[index][1], inner)
        expected = {(int(s), int(t)): v for (s, t), v in zip(tensors[index].T[kept], tensors[value][kept], strict=True)}
        found = {(int(s), int(t)): v for s, t, v in zip(source, target, part[value], strict=True)}
        assert found.keys() == expected.keys()
        for edge, values in expected.items():
            np.testing.assert_allclose(found[edge], values, atol=1e-6)
