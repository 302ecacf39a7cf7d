"""Windows for training: none crosses sections, and no network sees its fold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flagst.data.graph import knn
from flagst.data.sections import Section
from flagst.data.windows import section_inputs
from flagst.model import training_windows as windows
from flagst.regression import count_networks, network_folds
from flagst.sampling import held_out
from flagst.sampling.fit import TrainingData


def _section(name, n_spots, seed):
    coords = np.random.default_rng(seed).uniform(0, 10, (n_spots, 2))
    names = np.array([f"{name}_{i}" for i in range(n_spots)])
    return Section(name, names, coords, np.zeros((n_spots, 2), np.float32), *knn(coords, 18))


def _inputs(section):
    # the only image feature is the number of the spot, so that windows tell where they come from
    number = np.arange(len(section))[:, None].astype(float)
    return section_inputs(number, section.neighbours, section.distances, None)


@pytest.fixture
def sections():
    return [_section(name, 50 - 4 * i, i) for i, name in enumerate("ABCDE")]


def _data(sections):
    values = [np.full((len(s), 2), 7 * i, np.float32) for i, s in enumerate(sections)]
    return TrainingData(mean=values, state=values, expression=values, moran=[None] * len(sections))


def _split(sections, folds):
    return windows.split_windows([_inputs(s) for s in sections], [s.coords for s in sections], _data(sections), folds)


def _origin(window):
    """Section, and spots of it."""
    assert len(torch.unique(window["state"])) == 1  # one section
    return int(window["state"][0, 0]) // 7, set(window["image"][:, 0].int().tolist())


def _core(window):
    number, _ = _origin(window)
    return [(number, spot) for spot in window["image"][window["core"], 0].int().tolist()]


def test_without_folds_everything_is_trained_on(sections):
    training, validation = _split(sections, None)
    assert validation == [] and len(training) == 5
    for number, (window, section) in enumerate(zip(training, sections, strict=True)):
        assert _origin(window) == (number, set(range(len(section)))) and window["core"].all()
        assert window["state"].dtype == torch.float32 and int(window["network"]) == 0


@pytest.mark.parametrize("max_spots", [1024, 10])
@pytest.mark.parametrize("n_sections", [1, 2, 3, 5])
def test_a_network_sees_everything_but_its_fold(sections, monkeypatch, n_sections, max_spots):
    monkeypatch.setattr(windows, "MAX_WINDOW_SPOTS", max_spots)  # 10: cut further, with halos
    sections = sections[:n_sections]
    folds = network_folds([s.coords for s in sections])
    training, validation = _split(sections, folds)
    n_networks = count_networks(n_sections, cross_fit=True)
    assert {int(w["network"]) for w in training} == set(range(n_networks))
    for window in training + validation:
        held, (number, rows) = any(window is w for w in validation), _origin(window)
        assert all((folds[number][row] == int(window["network"])) == held for row in rows)  # the halo too
        assert window["core"].sum() <= max_spots
    for network in range(n_networks):
        for parts, held in ((training, False), (validation, True)):
            cores = [spot for w in parts if int(w["network"]) == network for spot in _core(w)]
            expected = [(n, r) for n, fold in enumerate(folds) for r in np.flatnonzero((fold == network) == held)]
            assert sorted(cores) == expected  # each once
    everything = sorted(spot for w in validation for spot in _core(w))
    assert everything == [(n, r) for n, section in enumerate(sections) for r in range(len(section))]


def test_edges_stay_inside_their_window(sections):
    training, validation = _split(sections[:2], network_folds([s.coords for s in sections[:2]]))
    for window in training + validation:
        for key in ("edge_index", "mix_index"):
            assert window[key].max() < len(window["image"])


def test_networks_by_number_of_sections():
    assert [count_networks(n, cross_fit=True) for n in (1, 2, 3, 4, 12)] == [4, 4, 3, 3, 3]
    assert [count_networks(n, cross_fit=False) for n in (1, 3, 12)] == [1, 1, 1]


@pytest.mark.parametrize("n_sections", [3, 4, 5])
def test_from_three_sections_on_folds_are_whole_sections(sections, n_sections):
    folds = network_folds([s.coords for s in sections[:n_sections]])
    assert [len(fold) for fold in folds] == [len(s) for s in sections[:n_sections]]
    assert all(len(np.unique(fold)) == 1 for fold in folds)
    sizes = np.bincount([fold[0] for fold in folds])
    assert len(sizes) == 3 and np.ptp(sizes) <= 1


@pytest.mark.parametrize("n_sections", [1, 2])
def test_few_sections_are_cut_into_four_blocks_each(sections, n_sections):
    for fold, section in zip(network_folds([s.coords for s in sections[:n_sections]]), sections, strict=False):
        sizes = np.bincount(fold)
        assert len(sizes) == 4 and np.ptp(sizes) <= 1
        areas = [section.coords[fold == k].std(axis=0).prod() for k in range(4)]
        assert np.mean(areas) < section.coords.std(axis=0).prod() / 2


@pytest.mark.parametrize("n_sections", [1, 2, 3, 5])
def test_every_spot_is_held_out_once_and_sampled_by_the_network_of_its_fold(sections, monkeypatch, n_sections):
    """The mean of a sampler is the cross-fitted one of its own section."""
    monkeypatch.setattr(held_out, "SectionSampler", lambda section, *parts, **kwargs: (section, kwargs))
    sections = [replace(s, target=s.coords.astype(np.float32)) for s in sections[:n_sections]]
    folds = network_folds([s.coords for s in sections])
    data, counts = _data(sections), [np.zeros(len(fold), int) for fold in folds]
    for (section, kwargs), rows in held_out.held_out_samplers(sections, data, folds, None, None, None):
        number = [s.name for s in sections].index(section.name)
        (network,) = kwargs["networks"]
        assert (folds[number][rows] == network).all() and kwargs["mean"] is data.mean[number]
        counts[number][rows] += 1
    assert all((count == 1).all() for count in counts)
