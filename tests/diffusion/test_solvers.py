"""Solvers against the exact answer: for a Gaussian target the probability-flow ODE has a closed form."""

import numpy as np
import pytest
import torch

from flagst.diffusion import EDM, SOLVERS, VESDE, dpm_solver_pp_2m, heun

MU, SD = 1.5, 0.7


class GaussianDenoiser:
    """Exact denoiser of N(MU, SD^2), which counts its calls."""

    def __init__(self):
        self.n_calls = 0

    def __call__(self, x, sigma):
        assert sigma.shape == (len(x), 1)
        self.n_calls += 1
        return (SD**2 * x + sigma**2 * MU) / (SD**2 + sigma**2)


def exact(noise, sigma_max):
    """Where the ODE takes ``sigma_max * noise`` at noise level 0."""
    return MU + (sigma_max * noise - MU) * SD / (SD**2 + sigma_max**2) ** 0.5


@pytest.fixture
def noise():
    return torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("process", [EDM(), VESDE()], ids=["edm", "ve"])
@pytest.mark.parametrize(("solver", "evaluations"), [(dpm_solver_pp_2m, 20), (heun, 39)])
def test_a_gaussian_is_reproduced_in_20_steps(process, solver, evaluations, noise):
    denoise = GaussianDenoiser()
    sampled = solver(denoise, noise, process.schedule(20).double())
    expected = exact(noise, process.sigma_max)
    assert denoise.n_calls == evaluations
    assert (sampled - expected).abs().mean() < 0.02 * SD
    assert abs(float(sampled.mean() - expected.mean())) < 0.005
    assert abs(float(sampled.std() / expected.std()) - 1) < 0.02


def test_mean_and_standard_deviation_are_those_of_the_target(noise):
    sampled = dpm_solver_pp_2m(GaussianDenoiser(), noise, EDM().schedule(20).double())
    # what is left of MU at the highest noise level is not known to the start: MU * SD / sigma_max = 0.05
    assert abs(float(sampled.mean()) - MU) < 0.07
    assert abs(float(sampled.std()) - SD) < 0.03 * SD


@pytest.mark.parametrize("solver", [dpm_solver_pp_2m, heun])
def test_errors_fall_quadratically_with_steps(solver, noise):
    process = EDM()
    expected = exact(noise, process.sigma_max)
    errors = []
    for n_steps in (10, 20, 40, 80):
        sampled = solver(GaussianDenoiser(), noise, process.schedule(n_steps).double())
        errors.append(float((sampled - expected).abs().mean()))
    assert all(later < earlier / 2 for earlier, later in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("solver", [dpm_solver_pp_2m, heun])
def test_one_step_is_the_denoised_start(solver):
    noise, denoise = torch.randn(5, 3), GaussianDenoiser()
    process = EDM()
    sampled = solver(denoise, noise, process.schedule(1))
    start = noise * process.sigma_max
    torch.testing.assert_close(sampled, denoise(start, torch.full((5, 1), process.sigma_max)))


@pytest.mark.parametrize("n_steps", [1, 2, 20, 101])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_the_number_of_evaluations_is_the_number_of_calls(name, n_steps):
    denoise = GaussianDenoiser()
    SOLVERS[name].solve(denoise, torch.randn(3, 1), EDM().schedule(n_steps))
    assert SOLVERS[name].n_evaluations(n_steps) == denoise.n_calls


def test_heun_of_the_published_schedule_counts_201():
    denoise = GaussianDenoiser()
    heun(denoise, torch.randn(3, 1), VESDE().schedule(101))
    assert denoise.n_calls == 201


@pytest.mark.parametrize("solver", [dpm_solver_pp_2m, heun])
def test_solvers_are_deterministic_and_leave_the_noise_alone(solver):
    noise = torch.randn(6, 2)
    before = noise.clone()
    sigmas = EDM().schedule(8)
    first, second = solver(GaussianDenoiser(), noise, sigmas), solver(GaussianDenoiser(), noise, sigmas)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(noise, before)
