"""Structure at equal accuracy and the spread set by it, on toys whose answers are known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.model import spread
from flagst.model.spread import calibrate_spread
from flagst.model.validation import STRUCTURES, StructureScore, at_equal_accuracy
from flagst.regression import ResidualModel

N_SIDE, N_LATENT, NOISE, SMOOTHNESS = 14, 3, 0.6, 6.0


def equal(score, states, residual):
    """Structure at equal accuracy."""
    return at_equal_accuracy(score.front(states, residual))


def full(score, states, residual):
    """Structure of full draws."""
    return score.front(states, residual)[-1, 1]


class Predictor:
    """Stands in for a section's predictor: its states are as smooth as the true ones, times a gain.

    A share ``rough`` of the variance of the true states is independent between spots.
    """

    def __init__(self, n_genes=24, seed=0, residual_size=0.8, rough=0.0, truth=None):
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(np.arange(N_SIDE), np.arange(N_SIDE)), -1).reshape(-1, 2) * 100.0
        self.graph = moran_graph(grid, "square")
        components = np.linalg.qr(rng.normal(size=(n_genes, min(N_LATENT, n_genes))))[0].T
        sd = np.linspace(2.0, 1.0, len(components))
        # genes differ in their noise, and so in their spatial order
        noise = NOISE * np.linspace(0.5, 1.5, n_genes)
        jitter = np.zeros(len(sd))
        self.truth = truth or ResidualModel(np.full(n_genes, residual_size), components, sd, noise, jitter)
        tissue = self.fields(1, rng)
        self.mean = 0.5 * tissue @ rng.normal(size=(1, n_genes))
        state, *noise = self.drawn(rng)
        measured = self.mean + self.truth.decode(
            np.sqrt(1 - rough) * state + np.sqrt(rough) * rng.normal(size=state.shape), *noise
        )
        self.section = SimpleNamespace(coords=grid, layout="square", target=measured)
        scaler = SimpleNamespace(restore=lambda values: values)
        self.fitted = SimpleNamespace(stage=SimpleNamespace(scaler=scaler), residual=self.truth)
        self.gain = 1.0

    def fields(self, n, rng):
        """Smooth fields of unit variance, ``(n_spots, n)``."""
        white = rng.normal(size=(self.graph.shape[0], n))
        smooth = white + SMOOTHNESS * (self.graph @ white)
        return (smooth - smooth.mean(axis=0)) / smooth.std(axis=0)

    def drawn(self, rng, gain=1.0):
        """A state and the two noises beside it."""
        n_latent = len(self.truth.sd)
        state, gene_noise = gain * self.fields(n_latent, rng), rng.normal(size=self.mean.shape)
        return state, gene_noise, rng.normal(size=(len(self.mean), n_latent))

    def states(self, n_draws, seed):
        rng = np.random.default_rng([seed, 1])
        return [self.drawn(rng, self.gain) for _ in range(n_draws)]


def score_of(predictor, rows=None):
    return StructureScore([(predictor, np.arange(N_SIDE**2) if rows is None else rows)])


@pytest.fixture
def toy():
    predictor = Predictor()
    return SimpleNamespace(predictor=predictor, score=score_of(predictor), truth=predictor.truth)


def test_the_true_model_has_no_order_gap(toy):
    assert abs(toy.score.order_gap(toy.score.states(), toy.truth)) < 0.05
    less, more = (replace(toy.truth, noise=f * toy.truth.noise) for f in (0.5, 2.0))
    states = toy.score.states()
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
    states = toy.score.states()
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
    np.testing.assert_allclose(toy.score.variance(toy.score.states()), 1, atol=1e-9)
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
    return SimpleNamespace(score=StructureScore([(p, rows) for p in predictors]), truth=truth)


def test_states_that_are_too_weak_get_jitter(weak):
    states = weak.score.states()
    np.testing.assert_allclose(weak.score.variance(states), 0.25)
    calibrated = calibrate_spread(weak.score, weak.truth)
    # a share of the variance that is missing, the same of all components
    share = calibrated.jitter**2 / 0.75
    np.testing.assert_allclose(share, share[0])
    assert share[0] >= 0.5 and np.isclose(spread.SHARES, share[0]).any()
    assert abs(weak.score.order_gap(states, calibrated)) < abs(weak.score.order_gap(states, weak.truth))
    assert full(weak.score, states, calibrated) > full(weak.score, states, weak.truth) + 0.02


def test_the_share_with_the_best_structure_is_kept(toy, weak):
    """Against a loop over shares, each with its own noise factor; smooth states want no jitter."""
    toy.predictor.gain, kept = 0.5, []
    for case in (toy, weak):
        states, scores = case.score.states(), {}
        for share in spread.SHARES:
            moved = replace(case.truth, jitter=np.full(N_LATENT, np.sqrt(0.75 * share)))
            factor = np.clip(order_factor(case, states, moved), 1 / spread.MAX_FACTOR, spread.MAX_FACTOR)
            moved = replace(moved, noise=factor * moved.noise)
            scores[share] = equal(case.score, states, moved) + front(case.score, states, moved, 1.0)[1]
        kept.append(max(scores, key=scores.get))
        found = calibrate_spread(case.score, case.truth).jitter
        np.testing.assert_allclose(found, np.sqrt(0.75 * kept[-1]), atol=1e-6)
    assert kept[0] == 0 and kept[1] > 0


def test_variance_is_that_over_held_out_rows_weighted_by_their_number():
    first, second = Predictor(seed=0), Predictor(seed=5)
    first.gain, second.gain = 0.5, 2.0
    rows = np.arange(40), np.arange(100, 196)
    score = StructureScore([(first, rows[0]), (second, rows[1])])
    states = score.states()
    expected = np.zeros(N_LATENT)
    for part, own in zip(states, rows, strict=True):
        for state, _, _ in part:
            expected += len(own) * np.var(state[own], axis=0) / len(part)
    np.testing.assert_allclose(score.variance(states), expected / (40 + 96))


def test_scrambled_loadings_score_lower(toy):
    order = np.random.default_rng(0).permutation(toy.truth.components.shape[1])
    scrambled = replace(toy.truth, components=toy.truth.components[:, order])
    states = toy.score.states()
    assert equal(toy.score, states, toy.truth) > equal(toy.score, states, scrambled) + 0.08


def test_states_without_spatial_order_score_lower(toy):
    rng = np.random.default_rng(0)
    states = toy.score.states()
    mixed = [[(rng.permuted(state, axis=0), *noise) for state, *noise in part] for part in states]
    assert equal(toy.score, states, toy.truth) > equal(toy.score, mixed, toy.truth) + 0.02


def front(score, states, residual, structure):
    """PCC, and the mean of GSC and SSC, of the draws at one structure."""
    drawn = score.draws(states, residual, structure)
    pcc = np.mean([metrics.pcc(d, m) for d, m, _ in drawn])
    return pcc, np.mean([(metrics.gsc(d, m) + metrics.ssc(d, m, graph)) / 2 for d, m, graph in drawn])


@pytest.mark.parametrize("factor", [0.5, 0.7])
def test_models_that_differ_by_their_spread_alone_score_alike(toy, factor):
    """Halving the spread halves the way along the same front; at one structure they would differ."""
    states, narrow = toy.score.states(), replace(toy.truth, scale=factor * toy.truth.scale)
    apart = front(toy.score, states, toy.truth, 0.3)[1] - front(toy.score, states, narrow, 0.3)[1]
    assert apart > 0.03
    assert equal(toy.score, states, toy.truth) == pytest.approx(equal(toy.score, states, narrow), abs=apart / 3)


def test_the_score_is_that_of_the_structure_with_90_percent_of_pcc(toy):
    states = toy.score.states()
    kept = 0.9 * front(toy.score, states, toy.truth, 0.0)[0]
    structures = np.linspace(0, 1, 101)
    pcc = np.array([front(toy.score, states[:1], toy.truth, s)[0] for s in structures])
    expected = front(toy.score, states, toy.truth, structures[np.flatnonzero(pcc >= kept).max()])[1]
    assert equal(toy.score, states, toy.truth) == pytest.approx(expected, abs=0.05)


def test_when_pcc_never_falls_so_far_the_last_structure_counts(toy):
    faint = replace(toy.truth, scale=0.01 * toy.truth.scale)
    states = toy.score.states()
    assert front(toy.score, states, faint, 1.0)[0] > 0.95 * front(toy.score, states, faint, 0.0)[0]
    assert equal(toy.score, states, faint) == pytest.approx(front(toy.score, states, faint, STRUCTURES[-1])[1])


def test_full_is_the_structure_of_full_draws(toy):
    states = toy.score.states()
    assert full(toy.score, states, toy.truth) == pytest.approx(front(toy.score, states, toy.truth, 1.0)[1])


def test_states_without_information_score_lower(toy):
    strong = equal(toy.score, toy.score.states(), toy.truth)
    toy.predictor.gain = 0.0
    nothing = equal(toy.score, toy.score.states(), toy.truth)
    assert np.isfinite([strong, nothing]).all() and strong > nothing + 0.05


def test_parts_are_averaged_and_only_held_out_rows_count():
    first, second = Predictor(seed=0), Predictor(seed=5)
    rows = np.arange(N_SIDE**2 // 2)
    both = StructureScore([(first, rows), (second, rows)])
    states, gaps = both.states(), []
    for part, predictor in zip(states, (first, second), strict=True):
        gaps.append(score_of(predictor, rows).order_gap([part], first.truth))
    assert both.order_gap(states, first.truth) == pytest.approx(np.mean(gaps))
    before = equal(both, states, first.truth)
    second.section.target[len(rows) :] = 0.0  # not held out
    assert equal(both, states, first.truth) == before


def test_when_nothing_is_defined_the_model_comes_back_as_it_was():
    few = Predictor()
    assert score_of(few, np.arange(5)).parts == []
    assert calibrate_spread(score_of(few, np.arange(5)), few.truth) is few.truth
    single = Predictor(n_genes=1)
    score = score_of(single)  # one gene has no correlations
    states = score.states()
    assert np.isnan(equal(score, states, single.truth)) and np.isnan(full(score, states, single.truth))
    assert calibrate_spread(score, single.truth) is single.truth


def test_parts_that_say_nothing_are_left_out():
    few, flat, good = Predictor(), Predictor(), Predictor(seed=5)
    flat.section.target[:40] = 1.0
    rows = np.arange(40)
    score = StructureScore([(few, rows[:9]), (flat, rows), (good, rows)])
    assert [(predictor, len(own)) for predictor, own in score.parts] == [(good, 40)]
