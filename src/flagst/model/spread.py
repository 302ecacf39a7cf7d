"""Spread of the draws, set on held-out tissue."""

from dataclasses import replace

import numpy as np

from flagst.model.held_out import HeldOutTissue
from flagst.regression import ResidualModel

#: The noise of all genes together may change by this factor at most, up or down.
MAX_FACTOR = 1.4
N_HALVINGS = 6
#: Smaller noise, in units of the residual's standard deviation, is rounding.
MIN_NOISE = 1e-3


def calibrate_spread(held_out: HeldOutTissue, residual: ResidualModel) -> ResidualModel:
    """Set the noise beside the diffusion so that draws on held-out tissue are as ordered as the measurement.

    A network trained on a few hundred spots is surer of a new section than it should be: its states there have too
    little variance, and neighbours in them too little in common. What neighbours lack in covariance comes back as
    noise on the components that they share, see :func:`flagst.data.noise.shared_noise`, as far as states lack variance
    too. So what draws add to the mean is as smooth as what held-out measurements have beside theirs. Then the noise of
    all genes gets the factor, 1.4 at most, at which the mean Moran's I of draws, as they come before genes get their
    spatial order, equals the measured one. Where the components hold everything there is no noise to scale, and
    nothing is changed; without a spatial graph nothing is shared, and only the factor is set.

    Parameters
    ----------
    held_out
        Held-out tissue and the networks that have not seen it.
    residual
        As fitted.

    Returns
    -------
    The model with ``jitter`` and another ``noise``; as it came when there is no held-out tissue.
    """
    if not held_out.parts or residual.noise.max() < MIN_NOISE:
        return residual
    residual = replace(residual, jitter=np.sqrt(_shared_variance(held_out, held_out.states(residual))))
    states = held_out.states(residual)
    low, high = -np.log(MAX_FACTOR), np.log(MAX_FACTOR)
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        too_ordered = held_out.order_gap(states, replace(residual, noise=residual.noise * np.exp(middle))) > 0
        low, high = (middle, high) if too_ordered else (low, middle)
    return replace(residual, noise=residual.noise * np.exp((low + high) / 2))


def _shared_variance(held_out: HeldOutTissue, states: list) -> np.ndarray:
    """Variance of shared noise, ``(n_latent,)``, with the covariance of neighbours that drawn states lack."""
    variance, order = held_out.missing_variance(states), held_out.shared_order()
    if order <= 0:  # every spot has noise of its own
        return np.zeros_like(variance)
    return np.minimum(held_out.missing_covariance(states) / order, variance)
