"""Scale of the noise beside the latent state, set on held-out tissue."""

from dataclasses import replace

import numpy as np

from flagst.regression import LatentBasis
from flagst.sampling.held_out import HeldOutTissue

#: The noise of all genes together may change by this factor at most, up or down.
MAX_FACTOR = 1.4
N_HALVINGS = 6
#: Smaller noise, in units of the residual's standard deviation, is rounding.
MIN_NOISE = 1e-3


def calibrate_noise_scale(held_out: HeldOutTissue, latent: LatentBasis) -> LatentBasis:
    """Set the noise so that samples on held-out tissue have the Moran's I of the measurement.

    A network that was trained on a few hundred spots is overconfident on a new section: its states there have too
    little variance, and too little covariance between neighbours. The missing covariance is added as noise that
    neighbours share, see :func:`flagst.sampling.spot_noise.shared_noise`, up to the missing variance. Then the noise of
    all genes gets the factor, 1.4 at most, at which the mean Moran's I of unmodified samples equals the measured one.
    Where the components hold everything there is no noise to scale, and nothing is changed. Without a spatial graph
    nothing is shared, and only the factor is set.

    Parameters
    ----------
    held_out
        Held-out tissue and the networks that have not seen it.
    latent
        As fitted.

    Returns
    -------
    The basis with another ``shared_sd`` and ``noise_sd``; unmodified when there is no held-out tissue.
    """
    if not held_out.parts or latent.noise_sd.max() < MIN_NOISE:
        return latent
    latent = replace(latent, shared_sd=np.sqrt(_shared_variance(held_out, held_out.sampled(latent))))
    sampled = held_out.sampled(latent)
    low, high = -np.log(MAX_FACTOR), np.log(MAX_FACTOR)
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        too_smooth = held_out.moran_gap(sampled, replace(latent, noise_sd=latent.noise_sd * np.exp(middle))) > 0
        low, high = (middle, high) if too_smooth else (low, middle)
    return replace(latent, noise_sd=latent.noise_sd * np.exp((low + high) / 2))


def _shared_variance(held_out: HeldOutTissue, sampled: list) -> np.ndarray:
    """Variance of shared noise, ``(n_latent,)``, with the covariance of neighbours that sampled states lack."""
    variance, moran = held_out.missing_variance(sampled), held_out.shared_moran()
    if moran <= 0:  # every spot has noise of its own
        return np.zeros_like(variance)
    return np.minimum(held_out.missing_covariance(sampled) / moran, variance)
