"""The residual of a draw, shared out so that its genes have the spatial order of the training sections.

How ordered a gene is in space differs little between sections of one tissue, and much between genes. Draws
know it only roughly: a few hundred spots of one draw leave Moran's I to chance, and between mean and draw all
genes are smoother than measured, each by another amount. So each gene's residual is scaled, once per draw, whatever
order other genes are to have. What carries over to tissue of another kind is less which genes are ordered than which
are measured well: the abundant ones.
"""

from collections.abc import Callable, Iterable

import numpy as np

from flagst.regression.spatial_order import MoranSums, neighbour_moran, order_by_abundance

#: Share of the training sections in the order that is aimed at where they are trusted; the rest is the draw's own.
TRUST = 0.75
#: Share of the order that genes' abundance lets one expect, where training sections are not trusted.
BY_ABUNDANCE = 0.25
#: Structure at which genes have the order, all with the same excess over it.
MATCHED_AT = 0.85
#: Parts of the residual at which Moran's I is looked at.
STEPS = np.concatenate([np.arange(0, 10) / 10, [1, 1.15, 1.4]])
#: A gene's residual changes by these factors at most: the larger one is as far as Moran's I is looked at.
BOUNDS = 0.3, STEPS[-1] / MATCHED_AT
#: Numbers, spots times genes, that it is taken of at once: what a processor keeps close.
VALUES_AT_ONCE = 2**17


def match_draw_order(
    mean: np.ndarray,
    residual: np.ndarray,
    restore: Callable[[np.ndarray, slice], np.ndarray],
    neighbours: np.ndarray,
    order: np.ndarray,
    *,
    trust: float = 1.0,
    abundance: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Scale every gene of one drawn residual.

    ``I(mean + 0.85 f_g residual_g) = aim_g + c`` for factors ``f_g`` from 0.3 to 1.65. On the way to the draw a
    prediction is smoother than tissue, and ``c`` is by how much draws are as they come: the mean over genes of
    ``I(mean + 0.85 residual) - I(mean + residual)``.

    Parameters
    ----------
    mean, residual
        ``(n_spots, n_genes)`` standardised; the residual is the draw minus the mean.
    restore
        From standardised values of some genes, and which these are, to the unit of the target, in which Moran's I
        is taken.
    neighbours
        ``(n_spots, k)``, the neighbours Moran's I is taken over.
    order
        ``(n_genes,)`` Moran's I in the training sections; NaN where it is not known.
    trust
        How far ``order`` holds for this tissue, in [0, 1]: ``aim = min(w order + v expected + (1 - w - v) I(draw),
        I(mean))`` with ``w = 0.75 trust``, 0 where ``order`` is not known, and ``v = 0.25 (1 - trust)``.
    abundance
        ``(n_genes,)`` mean target in the training sections. ``expected`` is the order that it lets one expect,
        :func:`flagst.regression.spatial_order.order_by_abundance`, moved to the mean over genes of ``I(draw)``: which
        genes have more order, not how much there is. ``None`` for ``v = 0``.
    rows
        The spots that Moran's I is taken over, ascending; ``None`` for all.

    Returns
    -------
    ``(n_spots, n_genes)``: the residual, each gene times its factor. Genes whose Moran's I the residual does not
    lower keep factor 1.
    """
    curve = _curve(mean, residual, restore, neighbours, rows)
    return residual * order_factors(curve, order, trust=trust, abundance=abundance)


def order_factors(
    curve: np.ndarray, order: np.ndarray, *, trust: float = 1.0, abundance: np.ndarray | None = None
) -> np.ndarray:
    """Factors ``(n_genes,)`` of the residual, from Moran's I of the mean plus every part of it.

    Parameters
    ----------
    curve
        ``(len(STEPS), n_genes)``.
    order, trust, abundance
        As in :func:`match_draw_order`.
    """
    free = curve[-1] < curve[0]
    if not free.any():
        return np.ones(curve.shape[1])
    draw = curve[STEPS == 1][0]
    aim = draw + np.where(np.isfinite(order), TRUST * trust * (np.nan_to_num(order) - draw), 0.0)
    expected = None if abundance is None else order_by_abundance(order, abundance)
    if expected is not None:
        aim += BY_ABUNDANCE * (1 - trust) * (expected - expected[free].mean() - draw + draw[free].mean())
    aim = np.minimum(aim, curve[0])
    excess = (_at(curve, MATCHED_AT) - draw)[free].mean()
    # noise takes order away; where chance has it otherwise, the first step that is low enough counts
    falling = np.minimum.accumulate(curve, axis=0)
    return np.where(free, np.clip(_first_step(falling, aim + excess) / MATCHED_AT, *BOUNDS), 1.0)


def order_curve(
    parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    restore: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Moran's I of the mean plus every part of the residual, ``(len(STEPS), n_genes)``, from parts of a section.

    Parameters
    ----------
    parts
        Mean and residual of some spots, and ``neighbours``, ``rows`` and ``new`` as in :meth:`MoranSums.add`.
    restore
        As in :func:`match_draw_order`.
    """
    sums = [MoranSums() for _ in STEPS]
    for mean, residual, *where in parts:
        for step, total in zip(STEPS, sums, strict=True):
            total.add(restore(mean + step * residual), *where)
    return np.stack([total.result() for total in sums])


def _curve(
    mean: np.ndarray,
    residual: np.ndarray,
    restore: Callable[[np.ndarray, slice], np.ndarray],
    neighbours: np.ndarray,
    rows: np.ndarray | None,
) -> np.ndarray:
    """:func:`order_curve` of a whole section, some genes at a time."""
    if rows is not None:
        near = neighbours[rows]
        kept, position = np.unique(np.concatenate([rows, near.ravel()]), return_inverse=True)
        mean, residual = mean[kept], residual[kept]
        rows, neighbours = position[: len(rows)], position[len(rows) :].reshape(near.shape)
    curve, width = np.empty((len(STEPS), mean.shape[1])), max(VALUES_AT_ONCE // len(mean), 1)
    for start in range(0, mean.shape[1], width):
        genes = slice(start, start + width)
        centre, part = np.ascontiguousarray(mean[:, genes]), np.ascontiguousarray(residual[:, genes])
        for number, step in enumerate(STEPS):
            curve[number, genes] = neighbour_moran(restore(centre + step * part, genes), neighbours, rows)
    return curve


def _at(curve: np.ndarray, step: float) -> np.ndarray:
    """A curve between its steps, ``(n_genes,)``."""
    after = np.searchsorted(STEPS, step)
    share = (step - STEPS[after - 1]) / (STEPS[after] - STEPS[after - 1])
    return (1 - share) * curve[after - 1] + share * curve[after]


def _first_step(curve: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Smallest step, interpolated, at which a falling curve is down to what is allowed; else the last."""
    above = (curve > allowed).sum(axis=0)
    low = np.clip(above, 1, len(STEPS) - 1)
    genes = np.arange(curve.shape[1])
    before, after = curve[low - 1, genes], curve[low, genes]
    share = np.clip((before - allowed) / np.where(before > after, before - after, np.inf), 0, 1)
    step = STEPS[low - 1] + share * (STEPS[low] - STEPS[low - 1])
    return np.where(above == len(STEPS), STEPS[-1], np.where(above == 0, 0.0, step))
