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
    """
    error = denoise(x0 + sigma * noise, sigma) - x0
    return (process.loss_weight(sigma) * error**2).mean(dim=-1)
