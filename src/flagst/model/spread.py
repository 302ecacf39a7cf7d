"""Spread of the draws, set on held-out tissue."""

from dataclasses import replace

import numpy as np

from flagst.model.validation import StructureScore
from flagst.regression import ResidualModel

#: Factors tried for the spread of the states.
STATE_FACTORS = (1.0, 1.4, 2.0)
#: One held-out section is little evidence: the noise may change by so much at most.
NOISE_FACTORS = np.linspace(0.85, 1.3, 10)


def calibrate_spread(score: StructureScore, residual: ResidualModel) -> ResidualModel:
    """Rescale states and noise so that draws on held-out tissue have the measured structure.

    A network trained on a few hundred spots is surer of a new section than it should be: the
    variance of its states there is well below one. For each factor on the states, the factor on
    the noise is the one at which the mean Moran's I of full draws equals the measured one; the
    pair with the best structure is kept.

    Parameters
    ----------
    score
        Held-out tissue and the trained module.
    residual
        As fitted.

    Returns
    -------
    The model with other ``sd`` and ``noise``.
    """
    states = score.states()
    candidates = [_match_order(score, states, replace(residual, sd=residual.sd * f)) for f in STATE_FACTORS]
    scores = [score.score(states, candidate) for candidate in candidates]
    return candidates[int(np.nanargmax(scores))] if np.isfinite(scores).any() else residual


def _match_order(score: StructureScore, states: list, residual: ResidualModel) -> ResidualModel:
    """The noise factor at which draws are as ordered in space as the measurement, on average."""
    candidates = [replace(residual, noise=residual.noise * f) for f in NOISE_FACTORS]
    gaps = [abs(score.order_gap(states, candidate)) for candidate in candidates]
    return candidates[int(np.nanargmin(gaps))]
