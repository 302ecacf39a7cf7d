"""Rescale each gene's residual in a sample so that its Moran's I matches the training sections.

Moran's I of a gene differs little between sections of one tissue, and much between genes. Samples know it only roughly:
a few hundred spots leave Moran's I of one sample to chance. Between mean and sample all genes are smoother than
measured, each by another amount. So each gene's residual is scaled, once per sample and independently of the other
genes. On out-of-distribution tissue the training sections count less, and the abundance of genes counts more.
"""

from collections.abc import Callable, Iterable

import numpy as np

from flagst.regression.moran import MoranSums, moran_by_abundance

#: Share of the training sections in the Moran's I that is aimed at, in distribution; the rest is the sample's own.
TRAINING_SHARE = 0.75
#: Share of the Moran's I to be expected from abundance, out of distribution.
ABUNDANCE_SHARE = 0.25
#: Value of ``structure`` at which Moran's I is matched.
MATCHED_AT = 0.85
#: Factors of the residual at which Moran's I is computed.
STEPS = np.concatenate([np.arange(0, 10) / 10, [1, 1.15, 1.4]])
#: A gene's residual changes by these factors at most: the larger one is the last at which Moran's I is computed.
BOUNDS = 0.3, STEPS[-1] / MATCHED_AT
#: Numbers, spots times genes, that are worked on at once: what a processor keeps close.
VALUES_AT_ONCE = 2**17


def moran_factors(
    curve: np.ndarray, moran: np.ndarray, *, weight: float = 1.0, abundance: np.ndarray | None = None
) -> np.ndarray:
    """Factors of one sampled residual, from Moran's I of the mean plus every part of it.

    ``I(mean + 0.85 f_g residual_g) = aim_g + c`` for factors ``f_g`` from 0.3 to 1.65. Below structure 1 a prediction
    is smoother than tissue, and ``c`` is by how much unmodified samples are: the mean over genes of
    ``I(mean + 0.85 residual) - I(mean + residual)``.

    Parameters
    ----------
    curve
        ``(len(STEPS), n_genes)`` from :func:`moran_curve`.
    moran
        ``(n_genes,)`` Moran's I in the training sections; NaN where it is not known.
    weight
        How far ``moran`` holds for this tissue, 0 to 1: ``aim = min(w moran + v expected + (1 - w - v) I(sample),
        I(mean))`` with ``w = 0.75 weight``, 0 where ``moran`` is not known, and ``v = 0.25 (1 - weight)``.
    abundance
        ``(n_genes,)`` mean target in the training sections. ``expected`` is
        :func:`flagst.regression.moran.moran_by_abundance`, moved to the mean over genes of ``I(sample)``: it says which
        genes have a higher Moran's I, and not how high it is on average. ``None`` for ``v = 0``.

    Returns
    -------
    ``(n_genes,)``. Genes whose Moran's I the residual does not lower keep factor 1.
    """
    free = curve[-1] < curve[0]
    if not free.any():
        return np.ones(curve.shape[1])
    sample = curve[STEPS == 1][0]
    aim = sample + np.where(np.isfinite(moran), TRAINING_SHARE * weight * (np.nan_to_num(moran) - sample), 0.0)
    expected = None if abundance is None else moran_by_abundance(moran, abundance)
    if expected is not None:
        aim += ABUNDANCE_SHARE * (1 - weight) * (expected - expected[free].mean() - sample + sample[free].mean())
    aim = np.minimum(aim, curve[0])
    excess = (_at(curve, MATCHED_AT) - sample)[free].mean()
    # noise lowers Moran's I; where it rises by chance, the first step that is low enough counts
    falling = np.minimum.accumulate(curve, axis=0)
    return np.where(free, np.clip(_first_step(falling, aim + excess) / MATCHED_AT, *BOUNDS), 1.0)


def moran_curve(
    parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]],
    restore: Callable[[np.ndarray, slice], np.ndarray],
) -> np.ndarray:
    """Moran's I of the mean plus every part of the residual, ``(len(STEPS), n_genes)``.

    Parameters
    ----------
    parts
        Of a section: mean and residual of some spots, ``(n_part, n_genes)`` standardised each, and ``neighbours``,
        ``rows`` and ``new`` as in :meth:`flagst.regression.MoranSums.add`.
    restore
        From standardised values of some genes, and which these are, to the unit of the target, in which Moran's I is
        taken.
    """
    sums: dict[int, list[MoranSums]] = {}
    width = None
    for mean, residual, *where in parts:
        width = width or max(VALUES_AT_ONCE // len(mean), 1)
        for start in range(0, mean.shape[1], width):
            genes = slice(start, start + width)
            centre, part = np.ascontiguousarray(mean[:, genes]), np.ascontiguousarray(residual[:, genes])
            of_genes = sums.setdefault(start, [MoranSums() for _ in STEPS])
            for step, total in zip(STEPS, of_genes, strict=True):
                total.add(restore(centre + step * part, genes), *where)
    return np.hstack([np.stack([total.result() for total in of_genes]) for of_genes in sums.values()])


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
