"""Networks that each leave out a part of the tissue: what they learn, what is drawn from them, what it sets."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from flagst.model import flag
from flagst.regression import match_draw_order
from flagst.sampling.fit import fit_before_diffusion


def train(model, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "With . section", UserWarning)
        model.train(**kwargs)
    return model


def table(make, names):
    """At least 50 spots, as a model asks for."""
    return make.table(names=tuple(names), n_spots=40 if len(names) > 1 else 56)


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second, *, tolerance=0.0):
    return all(torch.allclose(first[name], second[name], rtol=0, atol=tolerance) for name in first)


def fitted_before(model):
    """The residual model as it was before its spread was set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few sections
        return fit_before_diffusion(model._sections(model.adata, measured=True), model.settings_)[0].residual


@pytest.fixture
def predictor(trained, query):
    """Of the first section of the query."""
    return trained._predictors(query)[0][1]


@pytest.mark.parametrize(("names", "n_networks"), [("A", 4), ("AB", 4), ("ABC", 3), ("ABCDE", 3)])
def test_number_of_networks(make, names, n_networks):
    assert len(make.model(table(make, names)).module.networks) == n_networks
    assert len(make.model(table(make, names), cross_fit=False).module.networks) == 1


@pytest.mark.parametrize("left_out", [0, 2])
def test_windows_of_others_do_not_change_a_network(make, monkeypatch, left_out):
    def some(*args):
        training, validation = split(*args)
        return [w for w in training if int(w["network"]) != left_out], validation

    split = flag.split_windows
    monkeypatch.setattr(flag, "split_windows", some)
    model = make.model(make.table())
    before = [weights(network) for network in model.module.networks]
    train(model, **make.QUICK)
    after = [weights(network) for network in model.module.networks]
    # a moving average of the same numbers is off by rounding
    found = [same(b, a, tolerance=1e-5) for b, a in zip(before, after, strict=True)]
    assert found == [k == left_out for k in range(3)]


@pytest.mark.parametrize("names", ["A", "ABC", "ABCD"])
def test_a_network_has_not_seen_the_states_and_the_expression_of_its_fold(make, monkeypatch, names):
    """They are garbled for one fold: its network comes out the same, the others do not."""

    def garbled(predictors, data, folds, rows):
        def change(values):
            return [np.where((fold == 1)[:, None], 3.0, v) for v, fold in zip(values, folds, strict=True)]

        changed = replace(data, state=change(data.state), expression=change(data.expression))
        return split(predictors, changed, folds, rows)

    split, found = flag.split_windows, []
    for stand_in in (split, garbled):
        monkeypatch.setattr(flag, "split_windows", stand_in)
        # gradients are clipped window by window and nothing is shared, gene vectors apart
        model = train(make.model(table(make, names), gfm=None), **make.QUICK)
        found.append([weights(network) for network in model.module.networks])
    assert [same(a, b) for a, b in zip(*found, strict=True)] == [k == 1 for k in range(len(found[0]))]


def test_each_section_of_training_is_drawn_by_the_network_without_it(make, monkeypatch):
    parts = []

    class Recorded(flag.HeldOutTissue):
        def __init__(self, given, clean):
            super().__init__(given, clean)
            parts.extend(self.parts)

    monkeypatch.setattr(flag, "HeldOutTissue", Recorded)
    train(make.model(table(make, "ABCD")), **make.QUICK)
    assert [(p.section.name, p.networks) for p, _ in parts] == [("A", (0,)), ("B", (1,)), ("C", (2,)), ("D", (0,))]
    assert all(len(rows) == len(p.section) for p, rows in parts)


@pytest.mark.parametrize(("names", "blocks"), [("A", 4), ("AB", 8), ("ABC", 3), ("ABCDE", 5)])
def test_all_tissue_is_behind_the_intervals(make, names, blocks):
    adata = table(make, names)
    found = train(make.model(adata), **make.QUICK | {"max_epochs": 1}).intervals_
    assert (found.n_sections, found.n_blocks, found.n_spots) == (len(names), blocks, adata.n_obs)


def test_the_spread_is_set_on_held_out_tissue(make, monkeypatch):
    """What neighbours lack in covariance on it, and noise that the measured order there asks for."""
    seen, calibrate = [], flag.calibrate_spread

    def recorded(held_out, residual):
        seen.append((held_out, residual))
        return calibrate(held_out, residual)

    monkeypatch.setattr(flag, "calibrate_spread", recorded)
    model = train(make.model(make.table()), **make.QUICK)
    before, after = fitted_before(model), model.fitted_.residual
    [(held_out, given)] = seen
    np.testing.assert_array_equal(given.noise, before.noise)
    states = held_out.states(given)
    shared = held_out.missing_covariance(states) / held_out.shared_order()
    np.testing.assert_allclose(after.jitter**2, np.minimum(shared, held_out.missing_variance(states)))
    assert after.jitter.max() > 0.1
    states = held_out.states(after)
    factor = after.noise / before.noise
    np.testing.assert_allclose(factor, factor[0])
    moved = replace(after, noise=before.noise)
    gaps = [abs(held_out.order_gap(states, residual)) for residual in (moved, after)]
    assert gaps[1] < gaps[0]
    # other measurements on the held-out tissue ask for another factor
    for predictor, _ in held_out.parts:
        predictor.section.target[:] = np.random.default_rng(0).permuted(predictor.section.target, axis=0)
    other = calibrate(held_out, given)
    assert abs(other.noise[0] / given.noise[0] - factor[0]) > 0.01
    for part in ("scale", "components", "sd"):
        np.testing.assert_array_equal(getattr(after, part), getattr(before, part))


def test_the_spread_is_that_of_draws_before_their_genes_get_the_order_of_the_training_sections(make):
    given, free = (train(make.model(make.table(), match_moran=on), **make.QUICK) for on in (True, False))
    for part in ("noise", "jitter"):
        np.testing.assert_array_equal(*(getattr(model.fitted_.residual, part) for model in (given, free)))


def test_without_cross_fitting_nothing_is_held_out_or_set(make, query):
    model = train(make.model(make.table(), cross_fit=False), **make.QUICK)
    assert len(model.module.networks) == 1 and model.intervals_ is None
    assert not [name for name in model.history_ if name.endswith("validation") or name == "validation_loss"]
    residual, before = model.fitted_.residual, fitted_before(model)
    assert (residual.jitter == 0).all()
    np.testing.assert_array_equal(residual.noise, before.noise)
    model.predict(query)
    assert np.isfinite(query.layers["flagst"]).all()


@pytest.mark.parametrize("names", ["A", "ABC"])
def test_without_diffusion_the_spread_and_the_intervals_are_still_set(make, query, names):
    model = make.model(table(make, names), diffusion=False)
    before = [weights(network) for network in model.module.networks]
    train(model)
    assert all(same(b, n.state_dict()) for b, n in zip(before, model.module.networks, strict=True))
    assert model.history_ == {} and model.intervals_.n_sections == len(names)
    assert not np.allclose(model.fitted_.residual.noise, fitted_before(model).noise)
    draws = model.sample(query, 40)
    assert np.isfinite(draws).all() and (draws.std(axis=0).mean(axis=0) > 0.05).all()


def test_without_a_mean_there_is_nothing_to_set(make, query):
    kwargs = {"d_context": 16, "denoiser_kwargs": {"width": 16, "n_blocks": 2, "n_heads": 2, "align_block": 1}}
    model = make.model(make.table(), preset="paper", network=kwargs, n_steps=3, n_average=1, cross_fit=True)
    train(model, **make.QUICK | {"max_epochs": 1})
    assert len(model.module.networks) == 3 and model.intervals_ is None
    assert "validation_loss" in model.history_
    model.predict(query)
    assert np.isfinite(query.layers["flagst"]).all()


def test_validation_is_by_the_network_without_the_section(make, monkeypatch):
    """The logged loss is the mean over sections of the loss of their own network, at its average weights."""
    seen = []
    loss = flag.FlagModule.loss

    def recorded(self, tensors, *args):
        if not self.training:
            seen.append((int(tensors["network"]), len(tensors["core"])))
        return loss(self, tensors, *args)

    monkeypatch.setattr(flag.FlagModule, "loss", recorded)
    train(make.model(make.table()), **make.QUICK | {"max_epochs": 1})
    assert sorted(seen[-3:]) == [(0, 40), (1, 40), (2, 40)]


def test_a_draw_is_its_state_decoded(predictor):
    residual, scaler = predictor.fitted.residual, predictor.fitted.stage.scaler
    n_spots, n_latent, n_genes = len(predictor.section), len(residual.sd), predictor.mean.shape[1]
    drawn = predictor.states(3, seed=4)
    assert [[part.shape for part in one] for one in drawn] == [
        [(n_spots, n_latent), (n_spots, n_genes), (n_spots, n_latent)]
    ] * 3
    for (state, noise, state_noise), found in zip(drawn, predictor.draws(3, seed=4), strict=True):
        moved = (state + residual.jitter * state_noise) * residual.sd
        unit = moved @ residual.components + residual.noise * noise
        matched = match_draw_order(
            predictor.mean,
            residual.scale * unit,
            scaler.restore,
            predictor.section.nearest(4),
            predictor.order,
            trust=predictor.trust,
            abundance=scaler.mean,
        )
        np.testing.assert_allclose(found, scaler.restore(predictor.mean + matched), atol=1e-5)
    noises = [np.hstack(one[1:]).ravel() for one in drawn]
    assert np.abs(np.corrcoef(noises) - np.eye(3)).max() < 0.25


def test_a_predictor_without_a_fold_leaves_the_other_as_it_was(predictor):
    both = predictor.draws(2, seed=0)
    alone = [predictor.without(k) for k in range(3)]
    assert predictor.networks is None and [p.networks for p in alone] == [(0,), (1,), (2,)]
    np.testing.assert_array_equal(predictor.draws(2, seed=0), both)
    draws = [p.draws(2, seed=0) for p in alone]
    assert all(not np.allclose(a, b) for i, a in enumerate([*draws, both]) for b in [*draws, both][:i])


def test_states_are_drawn_by_the_networks_asked_for(make, query):
    model = train(make.model(make.table()), **make.QUICK | {"max_epochs": 1})
    own = model._predictors(query)[0][1].without(1)
    before = [state for state, *_ in own.states(2, seed=0)]
    with torch.no_grad():
        for other in (0, 2):
            for parameter in model.module.networks[other].parameters():
                parameter.add_(0.2)
    for state, expected in zip(own.states(2, seed=0), before, strict=True):
        np.testing.assert_array_equal(state[0], expected)


def test_redrawn_states_have_fresh_noise_beside_them(predictor):
    residual = predictor.fitted.residual
    loud = replace(predictor.fitted, residual=replace(residual, jitter=np.full_like(residual.jitter, 0.5)))
    quiet = replace(loud, residual=replace(residual, noise=0 * residual.noise, jitter=0 * residual.jitter))
    predictor.fitted, predictor.order = quiet, None  # genes keep their residual as it comes
    states = np.stack(list(predictor.redrawn(3, 4, "x"))).reshape(3, 4, *predictor.mean.shape)
    assert states.dtype == np.float32
    np.testing.assert_array_equal(states, np.repeat(states[:, :1], 4, axis=1))  # one state, four times
    assert np.abs(np.diff(states[:, 0], axis=0)).mean() > 0.05
    predictor.fitted = loud
    draws = np.stack(list(predictor.redrawn(3, 4, "x"))).reshape(states.shape)
    moved = (draws - states).reshape(12, -1)
    assert np.abs(np.corrcoef(moved) - np.eye(12)).max() < 0.35  # no noise comes twice
    np.testing.assert_array_equal(np.stack(list(predictor.redrawn(3, 4, "x"))), draws.reshape(12, *draws.shape[2:]))


def test_redrawn_draws_spread_as_full_draws_do(predictor):
    apart = np.stack(list(predictor.redrawn(40, 1, "x"))).std(axis=0).mean(axis=0)
    full = predictor.draws(40, "y").std(axis=0).mean(axis=0)
    np.testing.assert_allclose(apart, full, rtol=0.3)


def test_context_has_one_block_per_network(trained, predictor):
    context = predictor.context()
    for number in range(3):
        own = trained.module.context(predictor.inputs, number).numpy()
        np.testing.assert_array_equal(context[:, 16 * number : 16 * (number + 1)], own)


def test_early_stopping_without_held_out_tissue_is_refused(make):
    model = make.model(make.table(), cross_fit=False)
    with pytest.raises(ValueError, match="early_stopping=True needs networks.*cross_fit=True"):
        model.train(**make.QUICK, early_stopping=True)


def test_the_average_has_forgotten_the_start():
    """The first average is a copy of nearly untrained weights; its share must be gone at the end of a run."""
    from flagst.model.training import EMA_DECAY
    from flagst.regression.folds import N_BLOCKS
    from flagst.settings import Settings

    assert EMA_DECAY ** (Settings().max_steps / N_BLOCKS) < 0.02


@pytest.mark.parametrize("names", [("A", "B"), ("A",)])
def test_categories_without_spots_do_not_matter(make, query, names):
    table = make.table(names=names, n_spots=64)
    table.obs["section"] = table.obs["section"].cat.add_categories(["gone", "too"])
    model = make.model(table)
    with pytest.warns(UserWarning, match="spatial blocks"):
        model.train(**make.QUICK)
    assert np.isfinite(model.predict(query).layers["flagst"]).all()
