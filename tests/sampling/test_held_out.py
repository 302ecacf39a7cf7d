"""Held-out tissue: which samplers it is made of, and statistics of toys whose answers are known."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from toy_samplers import N_LATENT, N_SIDE, SmoothSampler, held_out, held_out_rows, known_tissue, slopes

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.sampling.fit import section_moran
from flagst.sampling.held_out import HeldOutTissue


@pytest.fixture
def toy():
    return known_tissue()


@pytest.mark.parametrize("names", ["A", "AB", "ABC"])
def test_samples_of_held_out_tissue_are_matched_to_other_tissue(make, names, monkeypatch):
    """The Moran's I, the mean and the network of every part do not come from its own measurement."""
    from flagst.model import flag

    seen, given = [], []

    class Recorded(flag.HeldOutTissue):
        def __init__(self, parts, clean):
            super().__init__(parts, clean)
            seen.extend(parts)

    def recorded(sections, data, folds, *parts):
        given.append((data, folds))
        return made(sections, data, folds, *parts)

    made = flag.held_out_samplers
    monkeypatch.setattr(flag, "HeldOutTissue", Recorded)
    monkeypatch.setattr(flag, "held_out_samplers", recorded)
    table = make.table(names=tuple(names), n_spots=56)
    model = make.model(table)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "With . section", UserWarning)
        model.train(**make.QUICK | {"max_epochs": 1})
    assert len(seen) == {1: 4, 2: 8, 3: 3}[len(names)]
    sections = model._sections(table, measured=True)
    data, folds = given[0]
    for sampler, rows in seen:
        number = [s.name for s in sections].index(sampler.section.name)
        known = [section_moran(s) for s in sections if s.name != sampler.section.name]
        rest = np.setdiff1d(sampler.everything, rows)
        known += [section_moran(sampler.section, rest)] if len(rest) else []
        np.testing.assert_allclose(sampler.moran, np.mean(known, axis=0))
        [network] = sampler.networks
        np.testing.assert_array_equal(rows, np.flatnonzero(folds[number] == network))
        np.testing.assert_array_equal(sampler.mean_of(rows), data.mean[number][rows])


def test_the_true_model_has_no_moran_gap(toy):
    sampled = toy.tissue.sampled(toy.truth)
    assert abs(toy.tissue.moran_gap(sampled, toy.truth)) < 0.05
    less, more = (replace(toy.truth, noise_sd=f * toy.truth.noise_sd) for f in (0.5, 2.0))
    assert toy.tissue.moran_gap(sampled, less) > 0.05 and toy.tissue.moran_gap(sampled, more) < -0.05


def test_samples_are_those_of_the_held_out_rows(toy):
    sampler, rows = toy.sampler, np.arange(60)
    asked = []
    inputs = sampler.decoder_inputs
    sampler.decoder_inputs = lambda seed, rows, *, latent: asked.append((seed, rows, latent)) or inputs(seed, rows)
    tissue = held_out_rows(sampler, rows)
    [samples] = tissue.sampled(toy.truth)
    assert len(samples) == tissue.n_samples == 12
    for number, (sample, (seed, sampled_rows, latent)) in enumerate(zip(samples, asked, strict=True)):
        # noise is balanced over the whole section, with the basis that will decode it
        assert seed == f"0/{number}" and sampled_rows is sampler.everything and latent is toy.truth
        for values, whole in zip(sample, inputs(seed, sampler.everything), strict=True):
            np.testing.assert_array_equal(values, whole[rows])


@pytest.mark.parametrize("rows", [np.arange(N_SIDE**2), np.arange(60)])
def test_expected_moran_of_shared_noise_is_that_of_many_samples(toy, rows):
    """Also over a part of a section, whose border spots share noise with spots outside."""
    graph = moran_graph(toy.sampler.section.coords[rows], "square")
    noise = toy.sampler.shared(4000, np.random.default_rng(0))[rows]
    own = noise.var(axis=0)
    expected = (metrics.morans_i(noise, graph) * own).mean() / own.mean()
    assert held_out_rows(toy.sampler, rows).shared_moran() == pytest.approx(expected, abs=0.005)


def test_missing_covariance_is_that_with_neighbours_over_held_out_rows():
    sampler, rows = SmoothSampler(), np.arange(60)
    sampler.gain = 0.5
    clean = 3 * slopes(sampler)
    tissue = HeldOutTissue([(sampler, rows)], {sampler.section.name: clean})
    sampled, graph = tissue.sampled(sampler.truth), tissue.graphs[0]

    def with_neighbours(values):
        centred = values - values.mean(axis=0)
        return (centred * (graph @ centred)).mean(axis=0)

    expected = with_neighbours(clean[rows]) - np.mean([with_neighbours(z) for z, *_ in sampled[0]], axis=0)
    assert (expected > 0.1).all()
    np.testing.assert_allclose(tissue.missing_covariance(sampled), expected)


def test_missing_variance_is_that_over_held_out_rows_weighted_by_their_number():
    first, second = SmoothSampler(seed=0), SmoothSampler(seed=5)
    first.gain, second.gain = 0.5, 0.7
    rows = np.arange(40), np.arange(100, 196)
    clean = {s.section.name: s.fields(N_LATENT, np.random.default_rng(3)) for s in (first, second)}
    tissue = HeldOutTissue([(first, rows[0]), (second, rows[1])], clean)
    sampled = tissue.sampled(first.truth)
    expected = np.zeros(N_LATENT)
    for part, own, true in zip(sampled, rows, clean.values(), strict=True):
        expected += len(own) * np.var(true[own], axis=0)  # less than 1: a part of a smooth field
        for state, _, _ in part:
            assert len(state) == len(own)
            expected -= len(own) * np.var(state, axis=0) / len(part)
    assert (expected > 0).all()
    np.testing.assert_allclose(tissue.missing_variance(sampled), expected / (40 + 96))


def test_states_with_more_variance_than_clean_ones_lack_nothing(toy):
    toy.sampler.gain = 1.5
    np.testing.assert_array_equal(toy.tissue.missing_variance(toy.tissue.sampled(toy.truth)), 0)


def test_states_that_are_right_lack_nothing(toy):
    np.testing.assert_allclose(toy.tissue.missing_variance(toy.tissue.sampled(toy.truth)), 0, atol=1e-9)


def test_genes_constant_in_the_held_out_tissue_do_not_count():
    sampler, other = SmoothSampler(), SmoothSampler()
    other.section.target[:, 3:6] = 2.0
    kept = np.r_[0:3, 6:24]
    tissue = held_out_rows(other)
    sampled = tissue.sampled(other.truth)
    own = [
        metrics.morans_i(sampler.mean + other.truth.decode(*inputs), sampler.graph)[kept].mean()
        for inputs in sampled[0]
    ]
    measured = metrics.morans_i(sampler.section.target, sampler.graph)[kept].mean()
    assert tissue.moran_gap(sampled, other.truth) == pytest.approx(np.mean(own) - measured)


def test_parts_are_averaged_and_only_held_out_rows_count():
    first, second = SmoothSampler(seed=0), SmoothSampler(seed=5)
    rows = np.arange(N_SIDE**2 // 2)
    both = held_out((first, rows), (second, rows))
    sampled, gaps = both.sampled(first.truth), []
    for part, sampler in zip(sampled, (first, second), strict=True):
        gaps.append(held_out_rows(sampler, rows).moran_gap([part], first.truth))
    assert both.moran_gap(sampled, first.truth) == pytest.approx(np.mean(gaps))
    before = both.moran_gap(sampled, first.truth)
    second.section.target[len(rows) :] = 0.0  # not held out
    assert both.moran_gap(sampled, first.truth) == before


def test_parts_that_are_too_small_or_constant_are_left_out():
    few, flat, good = SmoothSampler(), SmoothSampler(), SmoothSampler(seed=5)
    flat.section.target[:40] = 1.0
    rows = np.arange(40)
    tissue = HeldOutTissue([(few, rows[:9]), (flat, rows), (good, rows)], {})
    assert [(sampler, len(own)) for sampler, own in tissue.parts] == [(good, 40)]
    assert held_out_rows(few, np.arange(5)).parts == []
