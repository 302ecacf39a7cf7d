"""Balanced noise in draws: there by default, the same in windows, and off when asked or when sections are large."""

import numpy as np
import pytest

from flagst.model import slide
from flagst.regression import balance


@pytest.fixture(scope="module")
def trained(make):
    """A quick model and a section of 200 spots, with balanced noise or not."""

    def train(**changes):
        model = make.model(make.table(), **changes)
        model.train(**make.QUICK)
        return model

    return {True: train(), False: train(balance_noise=False)}


@pytest.fixture(scope="module")
def query(make):
    return make.table(names=("X",), n_spots=200, seed=7)


def noise_and_state(predictor, draw=0):
    state, noise, state_noise = predictor.states(draw + 1, seed=0)[draw]
    return noise, state + state_noise * predictor.fitted.residual.jitter


def chance(noise, state):
    """Largest correlation between two genes' noises, or of one with the state."""
    found = np.corrcoef(noise.T, state.T)
    return np.abs(found[: noise.shape[1]][:, : len(found)] - np.eye(noise.shape[1], len(found))).max()


def test_noise_of_every_draw_is_balanced_by_default(trained, query):
    assert trained[True].settings_.balance_noise
    for balanced, model in trained.items():
        [(_, predictor)] = model._predictors(query)
        found = [chance(*noise_and_state(predictor, draw)) for draw in range(2)]
        assert max(found) < 1e-4 if balanced else min(found) > 0.1
        first, second = (noise_and_state(predictor, draw)[0] for draw in range(2))
        assert np.abs(first - second).mean() > 0.5  # and every draw has its own


def test_also_behind_the_intervals(trained, query, monkeypatch):
    [(_, predictor)] = trained[True]._predictors(query)
    seen = []
    monkeypatch.setattr(predictor, "residual", lambda *drawn: seen.append(drawn) or np.zeros_like(predictor.mean))
    assert len(list(predictor.redrawn(1, 3, "x"))) == 3
    for state, noise, state_noise in seen:
        assert chance(noise, state + state_noise * predictor.fitted.residual.jitter) < 1e-4


def test_windows_have_the_same_noise(trained, query, monkeypatch):
    model = trained[True]
    [(_, whole)], [(_, cut)] = (model._predictors(query, windows=w, window_spots=60) for w in (False, True))
    np.testing.assert_allclose(cut.drawn("0/0", np.arange(200))[1], noise_and_state(whole)[0], atol=1e-3)
    layers = [model.predict(query.copy(), window_spots=size).layers["flagst"] for size in (10**6, 60)]
    np.testing.assert_allclose(*layers, atol=1e-3)
    unbalanced = trained[False].predict(query.copy(), window_spots=60).layers["flagst"]
    assert np.abs(layers[1] - unbalanced).max() > 0.05


def test_windows_keep_the_noise_of_few_draws_and_let_go_of_it(trained, query, monkeypatch):
    monkeypatch.setattr(slide, "HELD_VALUES", 2 * query.n_obs * len(trained[True].genes_))
    monkeypatch.setattr(slide, "DECODED_VALUES", 50 * len(trained[True].genes_))
    [(_, cut)] = trained[True]._predictors(query, windows=True)
    held, drawn = [], []
    for _, part in cut.parts(3):
        drawn.append(part.draws(3, 0))
        held.append(len(cut._whole))
    assert set(held) == {2} and not cut._whole and len(drawn) > 1
    [(_, whole)] = trained[True]._predictors(query, windows=False)
    np.testing.assert_allclose(np.concatenate(drawn, axis=1), whole.draws(3, 0), atol=1e-3)


def test_a_spot_unlike_all_others_varies_as_much_as_they_do(trained, query):
    [(_, predictor)] = trained[True]._predictors(query)
    predictor.mean = predictor.mean.copy()
    predictor.mean[7] += 30  # far out on every component
    noise = np.stack([noise_and_state(predictor, draw)[0][7] for draw in range(20)])
    assert 0.85 < noise.std() < 1.15


def test_large_sections_are_left_as_they_come_whole_or_not(trained, query, monkeypatch):
    monkeypatch.setattr(balance, "MAX_SPOTS", 199)
    [(_, whole)], [(_, cut)] = (trained[True]._predictors(query, windows=w) for w in (False, True))
    assert whole.settings.balance_noise and not cut.balanced
    assert chance(*noise_and_state(whole)) > 0.1
    layers = [trained[True].predict(query.copy(), window_spots=size).layers["flagst"] for size in (10**6, 60)]
    np.testing.assert_allclose(*layers, atol=1e-4)
