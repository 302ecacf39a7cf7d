"""Windows for training: none crosses sections or the border of held-out tissue."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flagst.data.graph import knn
from flagst.data.inputs import section_inputs
from flagst.data.section import Section
from flagst.model import windows
from flagst.model.fitting import TrainingData
from flagst.model.validation import held_out_rows


def _section(name, n_spots, seed):
    coords = np.random.default_rng(seed).uniform(0, 10, (n_spots, 2))
    names = np.array([f"{name}_{i}" for i in range(n_spots)])
    return Section(name, names, coords, np.zeros((n_spots, 2), np.float32), *knn(coords, 18))


def _predictor(section):
    # the only image feature is the number of the spot, so that windows tell where they come from
    number = np.arange(len(section))[:, None].astype(float)
    inputs = section_inputs(number, section.neighbours, section.distances, None)
    return SimpleNamespace(section=section, inputs=inputs)


@pytest.fixture
def sections():
    return [_section("A", 50, 0), _section("B", 40, 1), _section("C", 30, 2)]


def _data(sections):
    values = [np.full((len(s), 2), i, np.float32) for i, s in enumerate(sections)]
    return TrainingData(mean=values, state=values, expression=values)


def _origin(window):
    return int(window["state"][0, 0]), set(window["image"][:, 0].int().tolist())


def test_without_held_out_tissue_everything_is_trained_on(sections):
    training, validation = windows.split_windows([_predictor(s) for s in sections], _data(sections), None)
    assert validation == [] and len(training) == 3
    for number, (window, section) in enumerate(zip(training, sections, strict=True)):
        assert _origin(window) == (number, set(range(len(section)))) and window["core"].all()
        assert window["state"].dtype == torch.float32


def test_held_out_spots_never_enter_a_training_window(sections, monkeypatch):
    monkeypatch.setattr(windows, "MAX_WINDOW_SPOTS", 10)  # cut further, with halos
    held_out = [np.arange(12), np.arange(0), np.arange(30)]
    training, validation = windows.split_windows([_predictor(s) for s in sections], _data(sections), held_out)
    for window in training + validation:
        assert len(torch.unique(window["state"])) == 1  # one section
        assert window["core"].sum() <= 10
    for number, rows in map(_origin, training):
        assert rows.isdisjoint(held_out[number])
    for number, rows in map(_origin, validation):
        assert rows <= set(held_out[number])
    cores = {
        (n, r) for w in training for n in [_origin(w)[0]] for r in w["image"][w["core"], 0].int().tolist()
    }
    assert cores == {(n, r) for n, s in enumerate(sections) for r in range(len(s)) if r not in held_out[n]}
    assert sum(int(w["core"].sum()) for w in validation) == 42


def test_edges_stay_inside_their_window(sections):
    held_out = [np.arange(20), np.arange(0), np.arange(0)]
    training, validation = windows.split_windows([_predictor(s) for s in sections], _data(sections), held_out)
    for window in training + validation:
        for key in ("edge_index", "mix_index"):
            assert window[key].max() < len(window["image"])


def test_three_sections_hold_out_whole_ones(sections):
    rows = held_out_rows(sections)
    sizes = [len(r) for r in rows]
    assert all(size in (0, len(s)) for size, s in zip(sizes, sections, strict=True))
    assert 0 < sum(sizes) < sum(map(len, sections))


@pytest.mark.parametrize("n_sections", [1, 2])
def test_few_sections_hold_out_a_block_of_each(sections, n_sections):
    rows = held_out_rows(sections[:n_sections])
    for held, section in zip(rows, sections, strict=False):
        assert 0 < len(held) < len(section) / 2
        assert section.coords[held].std(axis=0).prod() < section.coords.std(axis=0).prod()
