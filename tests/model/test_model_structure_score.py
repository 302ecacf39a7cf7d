"""Structure at equal accuracy and the spread set by it, on toys whose answers are known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.model import spread
from flagst.model.spread import calibrate_spread
from flagst.model.validation import STRUCTURES, StructureScore
from flagst.regression import ResidualModel

N_SIDE, N_LATENT, NOISE, SMOOTHNESS = 14, 3, 0.6, 6.0


class Predictor:
    """Stands in for a section's predictor: states are as smooth as the true ones, the module is their gain."""

    def __init__(self, n_genes=24, seed=0, residual_size=0.8):
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(np.arange(N_SIDE), np.arange(N_SIDE)), -1).reshape(-1, 2) * 100.0
        self.graph = moran_graph(grid, "square")
        components = np.linalg.qr(rng.normal(size=(n_genes, min(N_LATENT, n_genes))))[0].T
        sd = np.linspace(2.0, 1.0, len(components))
        # genes differ in their noise, and so in their spatial order
        noise = NOISE * np.linspace(0.5, 1.5, n_genes)
        self.truth = ResidualModel(np.full(n_genes, residual_size), components, sd, noise)
        tissue = self.fields(1, rng)
        self.mean = 0.5 * tissue @ rng.normal(size=(1, n_genes))
        measured = self.mean + self.truth.decode(self.fields(len(sd), rng), rng.normal(size=self.mean.shape))
        self.section = SimpleNamespace(coords=grid, layout="square", target=measured)
        scaler = SimpleNamespace(restore=lambda values: values)
        self.fitted = SimpleNamespace(stage=SimpleNamespace(scaler=scaler), residual=self.truth)
        self.module = 1.0

    def fields(self, n, rng):
        """Smooth fields of unit variance, ``(n_spots, n)``."""
        white = rng.normal(size=(self.graph.shape[0], n))
        smooth = white + SMOOTHNESS * (self.graph @ white)
        return (smooth - smooth.mean(axis=0)) / smooth.std(axis=0)

    def states(self, n_draws, seed):
        rng = np.random.default_rng([seed, 1])
        shape, n_latent = self.mean.shape, len(self.truth.sd)
        return [(self.module * self.fields(n_latent, rng), rng.normal(size=shape)) for _ in range(n_draws)]


def score_of(predictor, rows=None):
    return StructureScore([predictor], [np.arange(N_SIDE**2) if rows is None else rows])


@pytest.fixture
def toy():
    predictor = Predictor()
    return SimpleNamespace(predictor=predictor, score=score_of(predictor), truth=predictor.truth)


def test_the_true_model_has_no_order_gap(toy):
    assert abs(toy.score.order_gap(toy.score.states(), toy.truth)) < 0.05
    less, more = (replace(toy.truth, noise=f * toy.truth.noise) for f in (0.5, 2.0))
    states = toy.score.states()
    assert toy.score.order_gap(states, less) > 0.05 and toy.score.order_gap(states, more) < -0.05


@pytest.mark.parametrize("factor", [0.9, 1.2])
def test_the_noise_factor_closes_the_order_gap(toy, factor, monkeypatch):
    monkeypatch.setattr(spread, "STATE_FACTORS", (1.0,))
    states = toy.score.states()
    # what has to be multiplied with to be as ordered as the measurement, by bisection
    low, high = 0.3, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        too_ordered = toy.score.order_gap(states, replace(toy.truth, noise=middle * toy.truth.noise)) > 0
        low, high = (middle, high) if too_ordered else (low, middle)
    fitted = replace(toy.truth, noise=low / factor * toy.truth.noise)
    calibrated = calibrate_spread(toy.score, fitted)
    np.testing.assert_allclose(calibrated.noise / fitted.noise, factor, atol=0.05)
    gap, before = (abs(toy.score.order_gap(states, model)) for model in (calibrated, fitted))
    assert gap < 0.02 and gap < before / 2
    for part in ("scale", "components", "sd"):
        np.testing.assert_array_equal(getattr(calibrated, part), getattr(fitted, part))


def test_states_that_are_too_weak_are_widened(toy):
    """A network surer of new tissue than it should be: half of the standard deviation."""
    toy.score.use(0.5)
    calibrated = calibrate_spread(toy.score, toy.truth)
    assert (calibrated.sd > 1.3 * toy.truth.sd).all()
    states = toy.score.states()
    assert toy.score.score(states, calibrated) > toy.score.score(states, toy.truth)


def test_scrambled_loadings_score_lower(toy):
    order = np.random.default_rng(0).permutation(toy.truth.components.shape[1])
    scrambled = replace(toy.truth, components=toy.truth.components[:, order])
    states = toy.score.states()
    assert toy.score.score(states, toy.truth) > toy.score.score(states, scrambled) + 0.1


def test_states_without_spatial_order_score_lower(toy):
    rng = np.random.default_rng(0)
    states = toy.score.states()
    mixed = [[(rng.permuted(state, axis=0), noise) for state, noise in part] for part in states]
    assert toy.score.score(states, toy.truth) > toy.score.score(mixed, toy.truth) + 0.02


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
    assert toy.score.score(states, toy.truth) == pytest.approx(toy.score.score(states, narrow), abs=apart / 3)


def test_the_score_is_that_of_the_structure_with_90_percent_of_pcc(toy):
    states = toy.score.states()
    kept = 0.9 * front(toy.score, states, toy.truth, 0.0)[0]
    structures = np.linspace(0, 1, 101)
    pcc = np.array([front(toy.score, states[:1], toy.truth, s)[0] for s in structures])
    expected = front(toy.score, states, toy.truth, structures[np.flatnonzero(pcc >= kept).max()])[1]
    assert toy.score.score(states, toy.truth) == pytest.approx(expected, abs=0.05)


def test_when_pcc_never_falls_so_far_the_last_structure_counts(toy):
    faint = replace(toy.truth, scale=0.01 * toy.truth.scale)
    states = toy.score.states()
    assert front(toy.score, states, faint, 1.0)[0] > 0.95 * front(toy.score, states, faint, 0.0)[0]
    assert toy.score.score(states, faint) == pytest.approx(front(toy.score, states, faint, STRUCTURES[-1])[1])


def test_the_weights_of_now_are_scored(toy):
    strong, nothing = toy.score(1.0), toy.score(0.0)
    assert np.isfinite([strong, nothing]).all() and strong > nothing + 0.05
    assert toy.predictor.module == 0.0


def test_parts_are_averaged_and_only_held_out_rows_count():
    first, second = Predictor(seed=0), Predictor(seed=5)
    rows = np.arange(N_SIDE**2 // 2)
    both = StructureScore([first, second], [rows, rows])
    states, gaps = both.states(), []
    for part, predictor in zip(states, (first, second), strict=True):
        gaps.append(score_of(predictor, rows).order_gap([part], first.truth))
    assert both.order_gap(states, first.truth) == pytest.approx(np.mean(gaps))
    before = both.score(states, first.truth)
    second.section.target[len(rows) :] = 0.0  # not held out
    assert both.score(states, first.truth) == before


def test_nothing_to_score_is_nan():
    few = score_of(Predictor(), np.arange(5))
    assert few.parts == [] and np.isnan(few(1.0))
    single = Predictor(n_genes=1)
    score = score_of(single)  # one gene has no correlations
    assert np.isnan(score(1.0))
    assert calibrate_spread(score, single.truth) is single.truth
