"""The residual of a draw, shared out so that its genes have the spatial order of the training sections.

How ordered a gene is in space differs little between sections of one tissue, and much between genes. Draws
know it only roughly: a few hundred spots of one draw leave Moran's I to chance, and between mean and draw all
genes are smoother than measured, each by another amount. So each gene's residual is scaled, once per draw.
"""

from collections.abc import Callable

import numpy as np

from flagst.regression.spatial_order import neighbour_moran

#: Share of the training sections in the order that is aimed at; the rest is the draw's own.
TRUST = 0.75
#: Structure at which genes have the order, with all the same excess over it.
MATCHED_AT = 0.7
#: A gene's residual changes by these factors at most.
BOUNDS = 0.3, 2.0
#: Parts of the residual at which Moran's I is looked at.
STEPS = np.concatenate([np.arange(0, 10) / 10, [1, 1.15, 1.4]])
N_HALVINGS = 30


def match_draw_order(
    mean: np.ndarray,
    residual: np.ndarray,
    restore: Callable[[np.ndarray], np.ndarray],
    neighbours: np.ndarray,
    order: np.ndarray,
    *,
    trust: float = 1.0,
) -> np.ndarray:
    """Scale every gene of one drawn residual, the mean of the factors being 1.

    Moran's I of ``mean + 0.7 * factor * residual`` shall exceed what is aimed at by the same amount in every
    gene. That amount is what a mean factor of 1 leaves: the draw as a whole neither gains nor loses order.

    Parameters
    ----------
    mean, residual
        ``(n_spots, n_genes)`` standardised; the residual is the draw minus the mean.
    restore
        From standardised values to the unit of the target, in which Moran's I is taken.
    neighbours
        ``(n_spots, k)``, the neighbours Moran's I is taken over.
    order
        ``(n_genes,)`` Moran's I in the training sections.
    trust
        How far ``order`` holds for this tissue, in [0, 1]. Aimed at is 3/4 of it and 1/4 of the draw's own
        Moran's I; with less trust the draw has a larger part.

    Returns
    -------
    ``(n_spots, n_genes)``: the residual, each gene times a factor from 0.3 to 2.
    """
    curve = np.stack([neighbour_moran(restore(mean + step * residual), neighbours) for step in STEPS])
    share = TRUST * trust
    aim = np.minimum(share * order + (1 - share) * curve[STEPS == 1][0], curve[0])
    # noise takes order away; where chance has it otherwise, the first step that is low enough counts
    curve = np.minimum.accumulate(curve, axis=0)

    def factor(excess: float) -> np.ndarray:
        return np.clip(_first_step(curve, aim + excess) / MATCHED_AT, *BOUNDS)

    low, high = -1.0, 2.0  # no two values of Moran's I are further apart
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if factor(middle).mean() > 1 else (low, middle)
    return residual * factor(high)


def _first_step(curve: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Smallest step, interpolated, at which a falling curve is down to what is allowed; else the last."""
    above = (curve > allowed).sum(axis=0)
    low = np.clip(above, 1, len(STEPS) - 1)
    genes = np.arange(curve.shape[1])
    before, after = curve[low - 1, genes], curve[low, genes]
    share = np.clip((before - allowed) / np.where(before > after, before - after, np.inf), 0, 1)
    step = STEPS[low - 1] + share * (STEPS[low] - STEPS[low - 1])
    return np.where(above == len(STEPS), STEPS[-1], np.where(above == 0, 0.0, step))
