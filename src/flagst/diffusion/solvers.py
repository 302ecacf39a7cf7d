"""Solvers of the probability-flow ODE. Each reads like the algorithm box it comes from.

``denoise(x, sigma)`` takes states ``(n_spots, d_state)`` and noise levels ``(n_spots, 1)`` and
returns denoised states. ``sigmas`` is a decreasing ``(n_steps + 1,)`` tensor that ends in 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


def _expand(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.to(x).expand(len(x), 1)


@torch.no_grad()
def dpm_solver_pp_2m(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Second-order multistep solver with data prediction: ``n_steps`` network evaluations.

    Parameters
    ----------
    denoise
        ``D(x, sigma)``.
    noise
        ``(n_spots, d_state)`` standard normal; scaled by ``sigmas[0]`` here.
    sigmas
        ``(n_steps + 1,)``, decreasing, last 0.

    Returns
    -------
    ``(n_spots, d_state)`` samples.

    Source
    ------
    Lu et al. 2022, DPM-Solver++, Algorithm 2, with ``lambda = -log(sigma)`` and ``alpha = 1``.

    Examples
    --------
    >>> import torch
    >>> from flagst.diffusion import EDM, dpm_solver_pp_2m
    >>> denoise = lambda x, sigma: x / (1 + sigma**2)  # exact for states of a standard normal distribution
    >>> noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    >>> samples = dpm_solver_pp_2m(denoise, noise, EDM().schedule(20))
    >>> bool(abs(samples.std() - 1) < 0.1)
    True
    """
    x = noise * sigmas[0]
    previous, previous_h = None, None
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        denoised = denoise(x, _expand(sigma, x))
        if sigma_next == 0:
            return denoised
        h = torch.log(sigma / sigma_next)
        if previous is None:
            direction = denoised
        else:
            r = previous_h / h
            direction = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * previous
        x = (sigma_next / sigma) * x - torch.expm1(-h) * direction
        previous, previous_h = denoised, h
    return x


@torch.no_grad()
def heun(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's second-order method: ``2 * n_steps - 1`` network evaluations.

    Parameters
    ----------
    denoise, noise, sigmas
        As in :func:`dpm_solver_pp_2m`.

    Returns
    -------
    ``(n_spots, d_state)`` samples.

    Source
    ------
    Karras et al. 2022, Algorithm 1. The last step, to 0, is an Euler step.

    Examples
    --------
    >>> import torch
    >>> from flagst.diffusion import EDM, heun
    >>> denoise = lambda x, sigma: x / (1 + sigma**2)  # exact for states of a standard normal distribution
    >>> noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    >>> samples = heun(denoise, noise, EDM().schedule(20))
    >>> bool(abs(samples.std() - 1) < 0.1)
    True
    """
    x = noise * sigmas[0]
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoise(x, _expand(sigma, x))) / sigma
        euler = x + (sigma_next - sigma) * slope
        if sigma_next == 0:
            return euler
        slope_next = (euler - denoise(euler, _expand(sigma_next, x))) / sigma_next
        x = x + (sigma_next - sigma) * (slope + slope_next) / 2
    return x


class Solver(NamedTuple):
    """A solver of the probability-flow ODE and its cost.

    Attributes
    ----------
    solve
        From ``D(x, sigma)``, noise ``(n_spots, d_state)`` and noise levels ``(n_steps + 1,)`` to samples
        ``(n_spots, d_state)``, as :func:`dpm_solver_pp_2m`.
    n_evaluations
        Number of noise levels ``n_steps`` -> number of network evaluations of one sample.

    Examples
    --------
    >>> from flagst.diffusion import SOLVERS
    >>> SOLVERS["heun"].n_evaluations(101)
    201
    """

    solve: Callable[[Denoise, Tensor, Tensor], Tensor]
    n_evaluations: Callable[[int], int]


#: Name in :class:`flagst.settings.Settings` -> solver.
SOLVERS = {
    "dpm++2m": Solver(dpm_solver_pp_2m, lambda n_steps: n_steps),
    "heun": Solver(heun, lambda n_steps: 2 * n_steps - 1),
}
