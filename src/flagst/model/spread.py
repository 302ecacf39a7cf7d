"""Spread of the draws, set on held-out tissue."""

from dataclasses import replace

import numpy as np

from flagst.model.validation import StructureScore, at_equal_accuracy
from flagst.regression import ResidualModel

#: Shares of the missing variance of the states that are tried.
SHARES = (0.0, 0.25, 0.5, 1.0)
#: The noise of all genes together may change by this factor at most, up or down.
MAX_FACTOR = 1.4
N_HALVINGS = 6


def calibrate_spread(score: StructureScore, residual: ResidualModel) -> ResidualModel:
    """Set the noise beside the diffusion so that draws on held-out tissue have the measured structure.

    A network trained on a few hundred spots is surer of a new section than it should be: the
    variance of its states there is well below one. Part of what is missing comes back as noise on
    the components, independent between spots. For each share of it, the noise of all genes gets the
    factor at which the mean Moran's I of full draws equals the measured one; the share with the
    best structure is kept, looked at in full draws and where PCC has fallen to 90 %.

    Parameters
    ----------
    score
        Held-out tissue and the networks that have not seen it.
    residual
        As fitted.

    Returns
    -------
    The model with ``jitter`` and another ``noise``; as it came when nothing is defined.
    """
    if not score.parts:
        return residual
    states = score.states()
    missing = np.sqrt(np.clip(1 - score.variance(states), 0, 1))
    candidates = [_match_order(score, states, replace(residual, jitter=np.sqrt(s) * missing)) for s in SHARES]
    fronts = [score.front(states, candidate) for candidate in candidates]
    scores = [at_equal_accuracy(front) + front[-1, 1] for front in fronts]
    return candidates[int(np.nanargmax(scores))] if np.isfinite(scores).any() else residual


def _match_order(score: StructureScore, states: list, residual: ResidualModel) -> ResidualModel:
    """The noise factor at which draws are as ordered in space as the measurement, on average."""
    low, high = -np.log(MAX_FACTOR), np.log(MAX_FACTOR)
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        too_ordered = score.order_gap(states, replace(residual, noise=residual.noise * np.exp(middle))) > 0
        low, high = (middle, high) if too_ordered else (low, middle)
    return replace(residual, noise=residual.noise * np.exp((low + high) / 2))
