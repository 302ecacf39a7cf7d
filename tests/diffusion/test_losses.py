"""The denoising loss: what it is for denoisers whose error is known."""

import torch

from flagst.diffusion import EDM, VESDE, denoising_loss


def _draw(process, n=20000, width=3):
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(n, width, generator=generator)
    noise = torch.randn(n, width, generator=generator)
    return x0, process.sample_sigma(n, generator=generator), noise


def test_an_untrained_network_has_loss_one():
    # F = 0 leaves c_skip * x, the best linear guess; the weight makes its error 1 at every noise level
    process = EDM()
    x0, sigma, noise = _draw(process)
    loss = denoising_loss(process.denoiser(lambda x, s: torch.zeros_like(x)), x0, sigma, noise, process=process)
    assert loss.shape == (20000,)
    low, high = sigma[:, 0] < sigma.median(), sigma[:, 0] >= sigma.median()
    for rows in (low, high):
        assert abs(float(loss[rows].mean()) - 1) < 0.03


def test_ve_without_a_network_has_loss_one():
    # D = x: the error is sigma * noise
    process = VESDE()
    x0, sigma, noise = _draw(process)
    loss = denoising_loss(process.denoiser(lambda x, s: torch.zeros_like(x)), x0, sigma, noise, process=process)
    torch.testing.assert_close(loss, (noise**2).mean(dim=1), rtol=1e-2, atol=1e-3)


def test_the_exact_denoiser_of_a_point_has_no_loss():
    process = EDM()
    x0, sigma, noise = _draw(process, n=50)
    assert denoising_loss(lambda x, s: x0, x0, sigma, noise, process=process).abs().max() == 0


def test_every_spot_has_its_own_loss():
    process = EDM()
    x0, sigma, noise = _draw(process, n=10)
    denoise = process.denoiser(lambda x, s: torch.zeros_like(x))
    loss = denoising_loss(denoise, x0, sigma, noise, process=process)
    other = x0.clone()
    other[4] += 3
    changed = denoising_loss(denoise, other, sigma, noise, process=process) != loss
    assert changed.nonzero().flatten().tolist() == [4]
