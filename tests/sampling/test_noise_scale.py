"""The noise scale that held-out tissue sets, on toys whose answers are known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from toy_samplers import N_LATENT, N_SIDE, SmoothSampler, held_out, held_out_rows, known_tissue, slopes

from flagst import metrics
from flagst.sampling import noise_scale
from flagst.sampling.noise_scale import calibrate_noise_scale


@pytest.fixture
def toy():
    return known_tissue()


def moran_factor(toy, sampled, latent):
    """The factor of the noise at which samples have the Moran's I of the measurement, by bisection."""
    low, high = 0.3, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        too_smooth = toy.tissue.moran_gap(sampled, replace(latent, noise_sd=middle * latent.noise_sd)) > 0
        low, high = (middle, high) if too_smooth else (low, middle)
    return low


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_the_noise_factor_closes_the_moran_gap(toy, factor):
    sampled = toy.tissue.sampled(toy.truth)
    fitted = replace(toy.truth, noise_sd=moran_factor(toy, sampled, toy.truth) / factor * toy.truth.noise_sd)
    calibrated = calibrate_noise_scale(toy.tissue, fitted)
    np.testing.assert_allclose(calibrated.noise_sd / fitted.noise_sd, factor, atol=0.02)
    gap, before = (abs(toy.tissue.moran_gap(sampled, latent)) for latent in (calibrated, fitted))
    assert gap < 0.01 and gap < before / 5
    for part in ("scale", "components", "sd"):
        np.testing.assert_array_equal(getattr(calibrated, part), getattr(fitted, part))


@pytest.mark.parametrize("size", [0.3, 3.0])
def test_the_noise_changes_by_a_bounded_factor(toy, size):
    fitted = replace(toy.truth, noise_sd=size * toy.truth.noise_sd)
    factor = calibrate_noise_scale(toy.tissue, fitted).noise_sd / fitted.noise_sd
    np.testing.assert_allclose(factor, noise_scale.MAX_FACTOR if size < 1 else 1 / noise_scale.MAX_FACTOR, rtol=0.02)


def test_states_that_are_right_get_no_shared_noise(toy):
    np.testing.assert_allclose(calibrate_noise_scale(toy.tissue, toy.truth).shared_sd, 0, atol=1e-4)


@pytest.fixture(params=[0, 10])
def weak(request):
    """Networks that are overconfident on new tissue: states of half the standard deviation, three sections.

    They know what is smooth in the states; the rest is independent between spots.
    """
    truth = SmoothSampler(seed=request.param).truth
    samplers = [SmoothSampler(seed=request.param + i, rough=0.75, truth=truth) for i in range(3)]
    for sampler in samplers:
        sampler.gain = 0.5
    return SimpleNamespace(tissue=held_out(*((s, s.everything) for s in samplers)), truth=truth, first=samplers[0])


def covariance(values, graph):
    return metrics.morans_i(values, graph) * values.var(axis=0)


def test_states_that_are_too_weak_get_the_covariance_of_neighbours_that_they_lack(weak):
    """Clean states are smooth in part: less comes back than what is missing in variance."""
    rng = np.random.default_rng(4)
    for name, states in weak.tissue.clean.items():
        mixed = slopes(weak.first) + 1.5 * rng.normal(size=states.shape)
        weak.tissue.clean[name] = (mixed - mixed.mean(axis=0)) / mixed.std(axis=0)
    calibrated = calibrate_noise_scale(weak.tissue, weak.truth)
    assert (calibrated.shared_sd > 0.2).all() and (calibrated.shared_sd**2 < 0.5).all()
    sampled = weak.tissue.sampled(weak.truth)
    np.testing.assert_allclose(weak.tissue.missing_variance(sampled), 0.75)
    graph = weak.tissue.graphs[0]
    clean = np.mean([covariance(states, graph) for states in weak.tissue.clean.values()], axis=0)
    found = np.mean([covariance(z, graph) for part in sampled for z, *_ in part], axis=0)
    added = calibrated.shared_sd * np.stack([weak.first.shared(N_LATENT, rng) for _ in range(400)])
    brought = np.mean([covariance(noise, graph) for noise in added], axis=0)
    np.testing.assert_allclose(found + brought, clean, atol=0.01)
    assert (np.abs(found - clean) > 0.05).all()


def test_shared_noise_has_no_more_variance_than_states_lack(weak):
    """Clean states are smoother than noise that neighbours share."""
    for name in weak.tissue.clean:
        weak.tissue.clean[name] = slopes(weak.first)
    sampled = weak.tissue.sampled(weak.truth)
    assert (weak.tissue.missing_covariance(sampled) / weak.tissue.shared_moran() > 0.75).all()
    np.testing.assert_allclose(calibrate_noise_scale(weak.tissue, weak.truth).shared_sd ** 2, 0.75)


def test_without_neighbours_no_noise_is_shared(weak):
    for sampler, _ in weak.tissue.parts:
        sampler.neighbours = sampler.neighbours[:, :0]
    assert weak.tissue.shared_moran() == pytest.approx(-1 / (N_SIDE**2 - 1))
    np.testing.assert_array_equal(calibrate_noise_scale(weak.tissue, weak.truth).shared_sd, 0)


def test_components_that_hold_everything_stay_unmodified(toy):
    full = replace(toy.truth, noise_sd=np.zeros_like(toy.truth.noise_sd))
    assert calibrate_noise_scale(toy.tissue, full) is full


def test_without_held_out_tissue_the_basis_stays_unmodified():
    few = SmoothSampler()
    assert calibrate_noise_scale(held_out_rows(few, np.arange(5)), few.truth) is few.truth
