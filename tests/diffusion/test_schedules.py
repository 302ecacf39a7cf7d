"""Scalings, weights, noise levels and schedules, by their defining identities."""

import math

import pytest
import torch

from flagst.diffusion import EDM, PROCESSES, VESDE

SIGMAS = torch.logspace(-2, 1.5, 40, dtype=torch.float64)[:, None]
MADE = [EDM(), EDM(sigma_data=0.5), VESDE()]


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
def test_edm_scalings_keep_unit_variance(sigma_data):
    process = EDM(sigma_data=sigma_data)
    c_skip, c_out, c_in = process.scalings(SIGMAS)
    variance = sigma_data**2 + SIGMAS**2
    one = torch.ones_like(SIGMAS)
    torch.testing.assert_close(c_in**2 * variance, one)  # unit input
    # the target of the raw network, (x0 - c_skip * x) / c_out, has unit variance
    torch.testing.assert_close(((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * SIGMAS**2) / c_out**2, one)
    # c_skip is the choice with the smallest c_out: the linear regression of x0 on x
    torch.testing.assert_close(c_skip, sigma_data**2 / variance)
    torch.testing.assert_close(process.loss_weight(SIGMAS) * c_out**2, one)


def test_edm_limits():
    c_skip, c_out, _ = EDM().scalings(torch.tensor([[1e-4], [1e4]], dtype=torch.float64))
    torch.testing.assert_close(c_skip.flatten(), torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(c_out.flatten(), torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-3, rtol=0)


def test_ve_network_is_sigma_times_the_score():
    process = VESDE()
    c_skip, c_out, c_in = process.scalings(SIGMAS)
    assert (c_skip == 1).all() and (c_in == 1).all()
    torch.testing.assert_close(c_out, SIGMAS)
    # score of N(0, 1 + sigma^2) in, exact denoiser of N(0, 1) out
    x = torch.linspace(-3, 3, 40, dtype=torch.float64)[:, None]
    denoise = process.denoiser(lambda state, sigma: -sigma * state / (1 + sigma**2))
    torch.testing.assert_close(denoise(x, SIGMAS), x / (1 + SIGMAS**2))
    torch.testing.assert_close(process.loss_weight(SIGMAS), 1 / SIGMAS**2)


def test_denoiser_scales_input_and_output():
    process, x, seen = EDM(), torch.randn(40, 3, dtype=torch.float64), {}

    def network(state, sigma):
        seen["state"], seen["sigma"] = state, sigma
        return torch.ones_like(state)

    denoised = process.denoiser(network)(x, SIGMAS)
    c_skip, c_out, c_in = process.scalings(SIGMAS)
    torch.testing.assert_close(seen["state"], c_in * x)
    assert seen["sigma"] is SIGMAS
    torch.testing.assert_close(denoised, c_skip * x + c_out)


@pytest.mark.parametrize("process", MADE)
def test_training_noise_levels_follow_the_generator(process):
    sampled = [process.sample_sigma(500, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert sampled[0].shape == (500, 1)
    assert torch.equal(sampled[0], sampled[1]) and not torch.equal(sampled[0], sampled[2])
    assert (sampled[0] > 0).all()


def test_training_noise_levels_have_the_stated_distribution():
    log_sigma = EDM(p_mean=-1.0, p_std=0.5).sample_sigma(20000, generator=torch.Generator().manual_seed(0)).log()
    assert abs(float(log_sigma.mean()) + 1) < 0.02 and abs(float(log_sigma.std()) - 0.5) < 0.02
    sigma = VESDE().sample_sigma(20000, generator=torch.Generator().manual_seed(0))
    assert 0.01 <= sigma.min() < 0.011 and 9 < sigma.max() <= 10
    middle = (math.log(0.01) + math.log(10)) / 2
    assert abs(float(sigma.log().median()) - middle) < 0.1  # uniform in log(sigma)


@pytest.mark.parametrize("process", MADE)
@pytest.mark.parametrize("n_steps", [2, 20, 101])
def test_schedules_fall_from_the_highest_level_to_zero(process, n_steps):
    sigmas = process.schedule(n_steps)
    assert sigmas.shape == (n_steps + 1,)
    assert (sigmas[1:] < sigmas[:-1]).all() and sigmas[-1] == 0
    torch.testing.assert_close(sigmas[[0, -2]], torch.tensor([process.sigma_max, process.sigma_min]))


@pytest.mark.parametrize("name", list(PROCESSES))
def test_constants_of_a_process_change_its_schedule(name):
    sigmas = PROCESSES[name](sigma_min=0.05, sigma_max=3.0).schedule(12)
    torch.testing.assert_close(sigmas[[0, -2]], torch.tensor([3.0, 0.05]))
    assert not torch.allclose(sigmas, PROCESSES[name]().schedule(12))


def test_the_published_schedule_is_log_linear():
    ratios = VESDE().schedule(30)[:-1].log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand(29), atol=1e-4, rtol=1e-4)
