"""Networks that each leave out a part of the tissue: what they learn, what is sampled from them, what it sets."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from flagst.model import flag
from flagst.model.training_windows import training_inputs
from flagst.sampling.fit import fit_latent, fit_mean
from flagst.sampling.moran_matching import moran_curve, moran_factors
from flagst.sampling.sampler import SectionSampler


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
    """The latent basis before its noise scale was set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few sections
        sections = model._sections(model.adata, measured=True)
        return fit_latent(sections, *fit_mean(sections, model.settings_), model.settings_)[0].latent


@pytest.fixture
def sampler(trained, query):
    """Of the first section of the query."""
    return trained._samplers(query)[0][1]


def like(sampler, **changes):
    """Another sampler of the same section."""
    parts = {"fitted": sampler.fitted, "settings": sampler.settings, "module": sampler.module}
    same = {"moran_weight": sampler.moran_weight, "networks": sampler.networks}
    return SectionSampler(sampler.section, **parts | same | changes)


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

    def garbled(inputs, coords, data, folds, rows):
        def change(values):
            return [np.where((fold == 1)[:, None], 3.0, v) for v, fold in zip(values, folds, strict=True)]

        changed = replace(data, state=change(data.state), expression=change(data.expression))
        return split(inputs, coords, changed, folds, rows)

    split, found = flag.split_windows, []
    for stand_in in (split, garbled):
        monkeypatch.setattr(flag, "split_windows", stand_in)
        # gradients are clipped window by window and nothing is shared, gene vectors apart
        model = train(make.model(table(make, names), gfm=None), **make.QUICK)
        found.append([weights(network) for network in model.module.networks])
    assert [same(a, b) for a, b in zip(*found, strict=True)] == [k == 1 for k in range(len(found[0]))]


def test_each_training_section_is_sampled_by_the_network_without_it(make, monkeypatch):
    parts = []

    class Recorded(flag.HeldOutTissue):
        def __init__(self, given, clean):
            super().__init__(given, clean)
            parts.extend(self.parts)

    monkeypatch.setattr(flag, "HeldOutTissue", Recorded)
    train(make.model(table(make, "ABCD")), **make.QUICK)
    assert [(s.section.name, s.networks) for s, _ in parts] == [("A", (0,)), ("B", (1,)), ("C", (2,)), ("D", (0,))]
    assert all(len(rows) == len(s.section) for s, rows in parts)


@pytest.mark.parametrize(("names", "blocks"), [("A", 4), ("AB", 8), ("ABC", 3), ("ABCDE", 5)])
def test_all_tissue_is_behind_the_intervals(make, names, blocks):
    adata = table(make, names)
    found = train(make.model(adata), **make.QUICK | {"max_epochs": 1}).intervals_
    assert (found.n_sections, found.n_blocks, found.n_spots) == (len(names), blocks, adata.n_obs)


def test_the_noise_scale_is_set_on_held_out_tissue(make, monkeypatch):
    """The covariance of neighbours that is missing there, and noise with which samples have the measured Moran's I."""
    seen, calibrate = [], flag.calibrate_noise_scale

    def recorded(held_out, latent):
        seen.append((held_out, latent))
        return calibrate(held_out, latent)

    monkeypatch.setattr(flag, "calibrate_noise_scale", recorded)
    model = train(make.model(make.table()), **make.QUICK)
    before, after = fitted_before(model), model.fitted_.latent
    [(held_out, given)] = seen
    np.testing.assert_array_equal(given.noise_sd, before.noise_sd)
    sampled = held_out.sampled(given)
    shared = held_out.missing_covariance(sampled) / held_out.shared_moran()
    np.testing.assert_allclose(after.shared_sd**2, np.minimum(shared, held_out.missing_variance(sampled)))
    assert after.shared_sd.max() > 0.1
    sampled = held_out.sampled(after)
    factor = after.noise_sd / before.noise_sd
    np.testing.assert_allclose(factor, factor[0])
    moved = replace(after, noise_sd=before.noise_sd)
    gaps = [abs(held_out.moran_gap(sampled, latent)) for latent in (moved, after)]
    assert gaps[1] < gaps[0]
    # other measurements on the held-out tissue ask for another factor
    for sampler, _ in held_out.parts:
        sampler.section.target[:] = np.random.default_rng(0).permuted(sampler.section.target, axis=0)
    other = calibrate(held_out, given)
    assert abs(other.noise_sd[0] / given.noise_sd[0] - factor[0]) > 0.01
    for part in ("scale", "components", "sd"):
        np.testing.assert_array_equal(getattr(after, part), getattr(before, part))


def test_the_noise_scale_is_that_of_samples_whose_morans_i_is_not_matched(make):
    given, free = (train(make.model(make.table(), match_moran=on), **make.QUICK) for on in (True, False))
    for part in ("noise_sd", "shared_sd"):
        np.testing.assert_array_equal(*(getattr(model.fitted_.latent, part) for model in (given, free)))


def test_without_cross_fitting_nothing_is_held_out_or_set(make, query):
    model = train(make.model(make.table(), cross_fit=False), **make.QUICK)
    assert len(model.module.networks) == 1 and model.intervals_ is None
    assert not [name for name in model.history_ if name.endswith("validation") or name == "validation_loss"]
    latent, before = model.fitted_.latent, fitted_before(model)
    assert (latent.shared_sd == 0).all()
    np.testing.assert_array_equal(latent.noise_sd, before.noise_sd)
    model.predict(query)
    assert np.isfinite(query.layers["flagst"]).all()


@pytest.mark.parametrize("names", ["A", "ABC"])
def test_without_diffusion_the_noise_scale_and_the_intervals_are_still_set(make, query, names):
    model = make.model(table(make, names), diffusion=False)
    before = [weights(network) for network in model.module.networks]
    train(model)
    assert all(same(b, n.state_dict()) for b, n in zip(before, model.module.networks, strict=True))
    assert model.history_ == {} and model.intervals_.n_sections == len(names)
    assert not np.allclose(model.fitted_.latent.noise_sd, fitted_before(model).noise_sd)
    samples = model.sample(query, 40)
    assert np.isfinite(samples).all() and (samples.std(axis=0).mean(axis=0) > 0.05).all()


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


def test_a_sample_is_its_state_decoded(sampler):
    latent, scaler, mean = sampler.fitted.latent, sampler.fitted.stage.scaler, sampler.mean_of(sampler.everything)
    n_spots, n_latent, n_genes = len(sampler.section), len(latent.sd), mean.shape[1]
    sampled = [sampler.decoder_inputs(f"4/{i}", sampler.everything) for i in range(3)]
    assert [[part.shape for part in one] for one in sampled] == [
        [(n_spots, n_latent), (n_spots, n_genes), (n_spots, n_latent)]
    ] * 3
    near = sampler.section.nearest(4)
    for (state, noise, shared), found in zip(sampled, sampler.samples(3, seed=4), strict=True):
        moved = (state + latent.shared_sd * shared) * latent.sd
        residual = latent.scale * (moved @ latent.components + latent.noise_sd * noise)
        curve = moran_curve([(mean, residual, near, None, None)], scaler.restore)
        factors = moran_factors(curve, sampler.moran, weight=sampler.moran_weight, abundance=scaler.mean)
        np.testing.assert_allclose(found, scaler.restore(mean + residual * factors), atol=1e-5)
    noises = [np.hstack(one[1:]).ravel() for one in sampled]
    assert np.abs(np.corrcoef(noises) - np.eye(3)).max() < 0.25


def test_samplers_of_single_networks_give_other_samples(sampler):
    together = sampler.samples(2, seed=0)
    assert sampler.networks == (0, 1, 2)
    np.testing.assert_array_equal(like(sampler).samples(2, seed=0), together)
    samples = [like(sampler, networks=(k,)).samples(2, seed=0) for k in range(3)]
    every = [*samples, together]
    assert all(not np.allclose(a, b) for i, a in enumerate(every) for b in every[:i])


def test_states_are_sampled_by_the_networks_asked_for(make, query):
    model = train(make.model(make.table()), **make.QUICK | {"max_epochs": 1})
    own = like(model._samplers(query)[0][1], networks=(1,))
    before = [own.state(f"0/{i}") for i in range(2)]
    with torch.no_grad():
        for other in (0, 2):
            for parameter in model.module.networks[other].parameters():
                parameter.add_(0.2)
    again = like(own)
    for i, expected in enumerate(before):
        np.testing.assert_array_equal(again.state(f"0/{i}"), expected)


def test_resampled_states_have_fresh_noise_beside_them(sampler):
    def resampled(latent):
        fitted = replace(sampler.fitted, latent=latent)
        return np.stack(list(like(sampler, fitted=fitted, moran={}).whole().resampled(3, 4, "x")))

    latent = sampler.fitted.latent
    loud = replace(latent, shared_sd=np.full_like(latent.shared_sd, 0.5))
    quiet = replace(latent, noise_sd=0 * latent.noise_sd, shared_sd=0 * latent.shared_sd)
    states = resampled(quiet)
    states = states.reshape(3, 4, *states.shape[1:])
    assert states.dtype == np.float32
    np.testing.assert_array_equal(states, np.repeat(states[:, :1], 4, axis=1))  # one state, four times
    assert np.abs(np.diff(states[:, 0], axis=0)).mean() > 0.05
    samples = resampled(loud)
    moved = (samples.reshape(states.shape) - states).reshape(12, -1)
    assert np.abs(np.corrcoef(moved) - np.eye(12)).max() < 0.35  # no noise comes twice
    np.testing.assert_array_equal(resampled(loud), samples)


def test_resampled_states_have_the_standard_deviation_of_samples(sampler):
    apart = np.stack(list(sampler.whole().resampled(40, 1, "x"))).std(axis=0).mean(axis=0)
    full = sampler.samples(40, "y").std(axis=0).mean(axis=0)
    np.testing.assert_allclose(apart, full, rtol=0.3)


def test_context_has_one_block_per_network(trained, sampler):
    """Each is what training computes for its network, from the tensors of a whole section."""
    context, mean = sampler.context(), sampler.mean_of(sampler.everything)
    inputs = training_inputs(sampler.section, sampler.fitted, mean, sampler.settings, trained.module.d_image)
    for number in range(3):
        given = trained.module._get_inference_input(inputs) | {"network": number}
        with torch.no_grad():
            own = trained.module.inference(**given)["context"].numpy()
        np.testing.assert_allclose(context[:, 16 * number : 16 * (number + 1)], own, atol=1e-6)


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
