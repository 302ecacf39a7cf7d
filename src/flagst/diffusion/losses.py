"""The denoising loss."""

from collections.abc import Callable

from torch import Tensor

from flagst.diffusion.schedules import NoiseProcess


def denoising_loss(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    sigma: Tensor,
    noise: Tensor,
    *,
    process: NoiseProcess,
) -> Tensor:
    """Weighted squared error of the denoised state.

    Parameters
    ----------
    denoise
        ``D(x, sigma)``, for example from :meth:`NoiseProcess.denoiser`.
    x0
        ``(n_spots, d_state)`` clean states.
    sigma
        ``(n_spots, 1)`` noise levels.
    noise
        ``(n_spots, d_state)`` standard normal.
    process
        Gives the weight of each noise level.

    Returns
    -------
    ``(n_spots,)`` loss of each spot, mean over the state's dimensions.

    Source
    ------
    Karras et al. 2022, eq. 2 and eq. 8.

    Examples
    --------
    >>> import torch
    >>> from flagst.diffusion import EDM, denoising_loss
    >>> clean, sigma = torch.zeros(3, 2), torch.ones(3, 1)
    >>> denoising_loss(lambda x, sigma: torch.zeros_like(x), clean, sigma, torch.randn(3, 2), process=EDM())
    tensor([0., 0., 0.])
    """
    error = denoise(x0 + sigma * noise, sigma) - x0
    return (process.loss_weight(sigma) * error**2).mean(dim=-1)
