"""Draws on held-out tissue and the spread set by them, on toys whose answers are known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.model import spread
from flagst.regression import LatentBasis
from flagst.sampling.fit import Fitted
from flagst.sampling.held_out import HeldOutTissue
from flagst.sampling.noise_scale import calibrate_spread

N_SIDE, N_LATENT, NOISE, SMOOTHNESS = 14, 3, 0.6, 6.0


class Predictor:
    """Stands in for a section's predictor: its states are as smooth as the true ones, times a gain.

    A share ``rough`` of the variance of the true states is independent between spots.
    """

    def __init__(self, n_genes=24, seed=0, residual_size=0.8, rough=0.0, truth=None):
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(np.arange(N_SIDE), np.arange(N_SIDE)), -1).reshape(-1, 2) * 100.0
        self.graph = moran_graph(grid, "square")
        self.around = np.column_stack([np.arange(N_SIDE**2), self.graph.indices.reshape(N_SIDE**2, -1)])
        components = np.linalg.qr(rng.normal(size=(n_genes, min(N_LATENT, n_genes))))[0].T
        sd = np.linspace(2.0, 1.0, len(components))
        # genes differ in their noise, and so in their spatial order
        noise = NOISE * np.linspace(0.5, 1.5, n_genes)
        jitter = np.zeros(len(sd))
        self.truth = truth or LatentBasis(np.full(n_genes, residual_size), components, sd, noise, jitter)
        tissue = self.fields(1, rng)
        self.mean = 0.5 * tissue @ rng.normal(size=(1, n_genes))
        state, *noise = self.draw(rng)
        measured = self.mean + self.truth.decode(
            np.sqrt(1 - rough) * state + np.sqrt(rough) * rng.normal(size=state.shape), *noise
        )
        self.section = SimpleNamespace(name=str(seed), coords=grid, layout="square", target=measured)
        scaler = SimpleNamespace(restore=lambda values, genes=None: values)
        self.fitted = Fitted(SimpleNamespace(scaler=scaler), self.truth, np.zeros(n_genes), {})
        self.gain = 1.0

    def fields(self, n, rng):
        """Smooth fields of unit variance, ``(n_spots, n)``."""
        white = rng.normal(size=(self.graph.shape[0], n))
        smooth = white + SMOOTHNESS * (self.graph @ white)
        return (smooth - smooth.mean(axis=0)) / smooth.std(axis=0)

    def draw(self, rng, gain=1.0):
        """A state and the two noises beside it."""
        n_latent = len(self.truth.sd)
        state, gene_noise = gain * self.fields(n_latent, rng), rng.normal(size=self.mean.shape)
        return state, gene_noise, self.shared(n_latent, rng)

    def shared(self, n, rng):
        """Noise that neighbours have in common, ``(n_spots, n)``."""
        return rng.normal(size=(len(self.mean), n))[self.around].sum(axis=1) / np.sqrt(self.around.shape[1])

    def drawn(self, n_draws, seed):
        rng = np.random.default_rng([seed, 1])
        return [self.draw(rng, self.gain) for _ in range(n_draws)]

    def decodable(self, drawn):
        return drawn


def held_out(*parts):
    """Of predictors and their rows; clean states have variance 1 over any of them."""
    clean = {}
    for predictor, rows in parts:
        states = predictor.fields(N_LATENT, np.random.default_rng(9))
        states[rows] = (states[rows] - states[rows].mean(axis=0)) / states[rows].std(axis=0)
        clean[predictor.section.name] = states
    return HeldOutTissue(list(parts), clean)


def score_of(predictor, rows=None):
    return held_out((predictor, np.arange(N_SIDE**2) if rows is None else rows))


@pytest.fixture
def toy():
    predictor = Predictor()
    return SimpleNamespace(predictor=predictor, score=score_of(predictor), truth=predictor.truth)


def test_the_true_model_has_no_order_gap(toy):
    assert abs(toy.score.order_gap(toy.score.states(toy.truth), toy.truth)) < 0.05
    less, more = (replace(toy.truth, noise=f * toy.truth.noise) for f in (0.5, 2.0))
    states = toy.score.states(toy.truth)
    assert toy.score.order_gap(states, less) > 0.05 and toy.score.order_gap(states, more) < -0.05


def order_factor(toy, states, residual):
    """What the noise has to be multiplied with to be as ordered as the measurement, by bisection."""
    low, high = 0.3, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        too_ordered = toy.score.order_gap(states, replace(residual, noise=middle * residual.noise)) > 0
        low, high = (middle, high) if too_ordered else (low, middle)
    return low


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_the_noise_factor_closes_the_order_gap(toy, factor):
    states = toy.score.states(toy.truth)
    fitted = replace(toy.truth, noise=order_factor(toy, states, toy.truth) / factor * toy.truth.noise)
    calibrated = calibrate_spread(toy.score, fitted)
    np.testing.assert_allclose(calibrated.noise / fitted.noise, factor, atol=0.02)
    gap, before = (abs(toy.score.order_gap(states, model)) for model in (calibrated, fitted))
    assert gap < 0.01 and gap < before / 5
    for part in ("scale", "components", "sd"):
        np.testing.assert_array_equal(getattr(calibrated, part), getattr(fitted, part))


@pytest.mark.parametrize("size", [0.3, 3.0])
def test_the_noise_changes_by_a_bounded_factor(toy, size):
    fitted = replace(toy.truth, noise=size * toy.truth.noise)
    factor = calibrate_spread(toy.score, fitted).noise / fitted.noise
    np.testing.assert_allclose(factor, spread.MAX_FACTOR if size < 1 else 1 / spread.MAX_FACTOR, rtol=0.02)


def test_states_that_are_right_get_no_jitter(toy):
    np.testing.assert_allclose(toy.score.missing_variance(toy.score.states(toy.truth)), 0, atol=1e-9)
    np.testing.assert_allclose(calibrate_spread(toy.score, toy.truth).jitter, 0, atol=1e-4)


@pytest.fixture(params=[0, 10])
def weak(request):
    """Networks surer of new tissue than they should be: states of half the standard deviation, three sections.

    They know what is smooth in the states; the rest comes spot by spot.
    """
    truth = Predictor(seed=request.param).truth
    predictors = [Predictor(seed=request.param + i, rough=0.75, truth=truth) for i in range(3)]
    for predictor in predictors:
        predictor.gain = 0.5
    rows = np.arange(N_SIDE**2)
    return SimpleNamespace(score=held_out(*((p, rows) for p in predictors)), truth=truth)


def slopes(predictor):
    """The smoothest states there are: columns that rise over the section, of variance 1."""
    column, row = (predictor.section.coords / 100.0).T
    found = np.stack([column, row, column + row], axis=1)
    return (found - found.mean(axis=0)) / found.std(axis=0)


def covariance(values, graph):
    return metrics.morans_i(values, graph) * values.var(axis=0)


def test_states_that_are_too_weak_get_the_covariance_of_neighbours_that_they_lack(weak):
    """Clean states are smooth in part: less comes back than what is missing in variance."""
    rng = np.random.default_rng(4)
    for name, states in weak.score.clean.items():
        mixed = slopes(weak.score.parts[0][0]) + 1.5 * rng.normal(size=states.shape)
        weak.score.clean[name] = (mixed - mixed.mean(axis=0)) / mixed.std(axis=0)
    calibrated = calibrate_spread(weak.score, weak.truth)
    assert (calibrated.jitter > 0.2).all() and (calibrated.jitter**2 < 0.5).all()
    states = weak.score.states(weak.truth)
    np.testing.assert_allclose(weak.score.missing_variance(states), 0.75)
    graph = weak.score.graphs[0]
    clean = np.mean([covariance(states, graph) for states in weak.score.clean.values()], axis=0)
    drawn = np.mean([covariance(z, graph) for part in states for z, *_ in part], axis=0)
    added = calibrated.jitter * np.stack([weak.score.parts[0][0].shared(N_LATENT, rng) for _ in range(400)])
    brought = np.mean([covariance(noise, graph) for noise in added], axis=0)
    np.testing.assert_allclose(drawn + brought, clean, atol=0.01)
    assert (np.abs(drawn - clean) > 0.05).all()


def test_shared_noise_has_no_more_variance_than_states_lack(weak):
    """Clean states are smoother than noise that neighbours share."""
    for name in weak.score.clean:
        weak.score.clean[name] = slopes(weak.score.parts[0][0])
    states = weak.score.states(weak.truth)
    assert (weak.score.missing_covariance(states) / weak.score.shared_order() > 0.75).all()
    np.testing.assert_allclose(calibrate_spread(weak.score, weak.truth).jitter ** 2, 0.75)


def test_noise_that_no_spot_shares_brings_nothing_back(weak):
    for predictor, rows in weak.score.parts:
        predictor.around = rows[:, None]
    assert weak.score.shared_order() == pytest.approx(-1 / (N_SIDE**2 - 1))
    np.testing.assert_array_equal(calibrate_spread(weak.score, weak.truth).jitter, 0)


@pytest.mark.parametrize("rows", [np.arange(N_SIDE**2), np.arange(60)])
def test_expected_order_of_shared_noise_is_that_of_many_draws(toy, rows):
    """Also over a part of a section, whose border spots share noise with spots outside."""
    predictor, graph = toy.predictor, moran_graph(toy.predictor.section.coords[rows], "square")
    noise = predictor.shared(4000, np.random.default_rng(0))[rows]
    own = noise.var(axis=0)
    expected = (metrics.morans_i(noise, graph) * own).mean() / own.mean()
    assert score_of(predictor, rows).shared_order() == pytest.approx(expected, abs=0.005)


def test_missing_covariance_is_that_with_neighbours_over_held_out_rows():
    predictor, rows = Predictor(), np.arange(60)
    predictor.gain = 0.5
    clean = 3 * slopes(predictor)
    score = HeldOutTissue([(predictor, rows)], {predictor.section.name: clean})
    states, graph = score.states(predictor.truth), score.graphs[0]

    def with_neighbours(values):
        centred = values[rows] - values[rows].mean(axis=0)
        return (centred * (graph @ centred)).mean(axis=0)

    expected = with_neighbours(clean) - np.mean([with_neighbours(z) for z, *_ in states[0]], axis=0)
    assert (expected > 0.1).all()
    np.testing.assert_allclose(score.missing_covariance(states), expected)


def test_missing_variance_is_that_over_held_out_rows_weighted_by_their_number():
    first, second = Predictor(seed=0), Predictor(seed=5)
    first.gain, second.gain = 0.5, 0.7
    rows = np.arange(40), np.arange(100, 196)
    clean = {p.section.name: p.fields(N_LATENT, np.random.default_rng(3)) for p in (first, second)}
    score = HeldOutTissue([(first, rows[0]), (second, rows[1])], clean)
    states = score.states(first.truth)
    expected = np.zeros(N_LATENT)
    for part, own, true in zip(states, rows, clean.values(), strict=True):
        expected += len(own) * np.var(true[own], axis=0)  # less than 1: a part of a smooth field
        for state, _, _ in part:
            expected -= len(own) * np.var(state[own], axis=0) / len(part)
    assert (expected > 0).all()
    np.testing.assert_allclose(score.missing_variance(states), expected / (40 + 96))


def test_states_with_more_variance_than_clean_ones_lack_nothing(toy):
    toy.predictor.gain = 1.5
    np.testing.assert_array_equal(toy.score.missing_variance(toy.score.states(toy.truth)), 0)


def test_components_that_hold_everything_are_left_alone(toy):
    full = replace(toy.truth, noise=np.zeros_like(toy.truth.noise))
    assert calibrate_spread(toy.score, full) is full


def test_genes_constant_in_the_held_out_tissue_do_not_count():
    predictor, other = Predictor(), Predictor()
    other.section.target[:, 3:6] = 2.0
    kept = np.r_[0:3, 6:24]
    score = score_of(other)
    states = score.states(other.truth)
    own = [
        metrics.morans_i(predictor.mean + other.truth.decode(*drawn), predictor.graph)[kept].mean()
        for drawn in states[0]
    ]
    measured = metrics.morans_i(predictor.section.target, predictor.graph)[kept].mean()
    assert score.order_gap(states, other.truth) == pytest.approx(np.mean(own) - measured)


def test_parts_are_averaged_and_only_held_out_rows_count():
    first, second = Predictor(seed=0), Predictor(seed=5)
    rows = np.arange(N_SIDE**2 // 2)
    both = held_out((first, rows), (second, rows))
    states, gaps = both.states(first.truth), []
    for part, predictor in zip(states, (first, second), strict=True):
        gaps.append(score_of(predictor, rows).order_gap([part], first.truth))
    assert both.order_gap(states, first.truth) == pytest.approx(np.mean(gaps))
    before = both.order_gap(states, first.truth)
    second.section.target[len(rows) :] = 0.0  # not held out
    assert both.order_gap(states, first.truth) == before


def test_without_held_out_tissue_the_model_comes_back_as_it_was():
    few = Predictor()
    assert score_of(few, np.arange(5)).parts == []
    assert calibrate_spread(score_of(few, np.arange(5)), few.truth) is few.truth


def test_parts_that_say_nothing_are_left_out():
    few, flat, good = Predictor(), Predictor(), Predictor(seed=5)
    flat.section.target[:40] = 1.0
    rows = np.arange(40)
    score = HeldOutTissue([(few, rows[:9]), (flat, rows), (good, rows)], {})
    assert [(predictor, len(own)) for predictor, own in score.parts] == [(good, 40)]
