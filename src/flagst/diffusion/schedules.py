"""Noise levels and preconditioning: how a raw network becomes a denoiser.

A network output ``F`` becomes a denoised state through three scalings of the noise level ``sigma``::

    D(x, sigma) = c_skip(sigma) * x + c_out(sigma) * F(c_in(sigma) * x, sigma)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class NoiseProcess(ABC):
    """A variance-exploding process ``x = x0 + sigma * noise`` and its scalings.

    All noise levels are ``(n_spots, 1)`` float tensors, in units of the state ``x``.

    Examples
    --------
    >>> from flagst.diffusion import EDM, NoiseProcess
    >>> isinstance(EDM(), NoiseProcess)
    True
    """

    sigma_min: float
    sigma_max: float

    @abstractmethod
    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(c_skip, c_out, c_in)``, each of the shape of ``sigma``."""

    @abstractmethod
    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Weight of the squared error of ``D`` at ``sigma``."""

    @abstractmethod
    def sample_sigma(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """``(n, 1)`` noise levels for training, on the CPU."""

    @abstractmethod
    def schedule(self, n_steps: int) -> Tensor:
        """``(n_steps + 1,)`` decreasing noise levels for sampling; the last one is 0."""

    def denoiser(self, network: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """Wrap ``network(x_scaled, sigma)`` into ``D(x, sigma)``.

        Examples
        --------
        >>> import torch
        >>> from flagst.diffusion import EDM
        >>> denoise = EDM().denoiser(lambda x, sigma: torch.zeros_like(x))
        >>> denoise(torch.ones(3, 2), torch.ones(3, 1))[0]
        tensor([0.5000, 0.5000])
        """

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            c_skip, c_out, c_in = self.scalings(sigma)
            return c_skip * x + c_out * network(c_in * x, sigma)

        return denoise


@dataclass(frozen=True)
class EDM(NoiseProcess):
    """Preconditioning, noise-level distribution and schedule of Karras et al. 2022 (EDM).

    Parameters
    ----------
    sigma_data
        Standard deviation of the clean state; 1 for standardised states.
    sigma_min, sigma_max
        Range of the sampling schedule.
    p_mean, p_std
        Mean and standard deviation of ``log(sigma)`` in training.
    rho
        Curvature of the schedule.

    Source
    ------
    Karras et al., NeurIPS 2022, Table 1 (column "Ours") and eq. 5; the constants are ours (theirs:
    sigma_data 0.5, sigma 0.002 to 80, p_mean -1.2, p_std 1.2, for images).

    Examples
    --------
    >>> from flagst.diffusion import EDM
    >>> EDM(sigma_max=10.0).schedule(3)
    tensor([10.0000,  ...,  0.0200,  0.0000])
    """

    sigma_data: float = 1.0
    sigma_min: float = 0.02
    sigma_max: float = 20.0
    p_mean: float = -0.4
    p_std: float = 1.4
    rho: float = 7.0

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        return c_skip, c_out, 1 / variance.sqrt()

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def sample_sigma(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return (self.p_mean + self.p_std * torch.randn(n, 1, generator=generator)).exp()

    def schedule(self, n_steps: int) -> Tensor:
        ramp = torch.linspace(0, 1, n_steps, dtype=torch.float64)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigmas = (high + ramp * (low - high)) ** self.rho
        return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


@dataclass(frozen=True)
class VESDE(NoiseProcess):
    """The published process: noise levels log-linear from 0.01 to 10, no preconditioning.

    The network predicts ``sigma * score``, so ``D = x + sigma * F`` and the denoising
    score-matching loss weighted by ``sigma**2`` is ``|D - x0|**2 / sigma**2``.

    Source
    ------
    FLAG (arXiv 2605.18055); Song et al., ICLR 2021 (variance-exploding SDE).

    Examples
    --------
    >>> from flagst.diffusion import VESDE
    >>> VESDE().schedule(4).log10()[:4]
    tensor([ 1.,  0., -1., -2.])
    """

    sigma_min: float = 0.01
    sigma_max: float = 10.0

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = torch.ones_like(sigma)
        return one, sigma, one

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2

    def sample_sigma(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        log_low, log_high = math.log(self.sigma_min), math.log(self.sigma_max)
        return (log_low + (log_high - log_low) * torch.rand(n, 1, generator=generator)).exp()

    def schedule(self, n_steps: int) -> Tensor:
        log_low, log_high = math.log(self.sigma_min), math.log(self.sigma_max)
        sigmas = torch.linspace(log_high, log_low, n_steps, dtype=torch.float64).exp()
        return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


#: Name in :class:`flagst.settings.Settings` -> process. Constants are arguments of the classes.
PROCESSES: dict[str, type[NoiseProcess]] = {"edm": EDM, "ve": VESDE}
