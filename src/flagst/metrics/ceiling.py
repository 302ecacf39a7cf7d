"""Noise ceiling of structure scores: the highest score that count noise leaves possible, by count splitting."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flagst._checks import require_counts
from flagst.metrics._inputs import Matrix, as_matrix, constant_genes
from flagst.metrics.spatial import ssc
from flagst.metrics.structure import gsc


@dataclass(frozen=True)
class Ceiling:
    """Noise ceiling of one structure score on one section.

    Attributes
    ----------
    half
        Score of one half of the counts against the other, mean over splits.
    reliability
        ``2 half / (1 + half)``, the same at full depth: the score of a second measurement of the same spots with the
        same depth and its own count noise. It is also the highest score of a **sample** that carries such noise.
    reliability_sd
        Standard deviation of the reliability over splits; it says nothing about other sections.
    ceiling
        ``sqrt(reliability)``: the score of the structure without noise, which is the expectation of the measured one
        over count noise. It is the highest score of any prediction that does not use the measurement.
    n_splits
        Number of splits.

    Examples
    --------
    >>> flagst.metrics.Ceiling(half=0.6, reliability=0.75, reliability_sd=0.01, ceiling=0.87, n_splits=10).ceiling
    0.87
    """

    half: float
    reliability: float
    reliability_sd: float
    ceiling: float
    n_splits: int


def split_counts(counts: Matrix, seed: int | np.random.Generator = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split counts into two halves: every molecule goes to either half with probability 1/2.

    The halves of a Poisson count are independent Poisson counts with half the rate each.

    Parameters
    ----------
    counts
        Whole numbers >= 0 of any shape, dense or scipy sparse, for example (n_spots, n_genes).
    seed
        Seed of the assignment, or a generator.

    Returns
    -------
    Two dense int64 arrays of the shape of ``counts``, such as (n_spots, n_genes); their sum is ``counts``.

    Raises
    ------
    ValueError
        Negative values, or not whole numbers.

    Source
    ------
    Neufeld, Gao, Popp, Battle & Witten, Biostatistics 2024, 25:270 (count splitting).

    Examples
    --------
    >>> counts = np.array([[4, 0], [7, 100]])
    >>> left, right = flagst.metrics.split_counts(counts)
    >>> bool((left + right == counts).all())
    True
    """
    require_counts(counts, where="counts")
    counts = np.asarray(counts.toarray() if hasattr(counts, "toarray") else counts).astype(np.int64)
    half = np.random.default_rng(seed).binomial(counts, 0.5)
    return half, counts - half


def structure_ceiling(
    counts: Matrix,
    graph: Matrix,
    transform: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    total_counts: np.ndarray | None = None,
    n_splits: int = 10,
    seed: int = 0,
) -> dict[str, Ceiling]:
    """Noise ceiling of GSC and SSC on one section, from its raw counts alone.

    Counts are split in two halves, both are brought to the unit that is scored, and their structures are
    compared. The Spearman-Brown formula then takes this agreement from half to full depth. Consider the measured
    structure (the correlations of all pairs of genes, or the Moran's I of all genes) as its expectation over
    count noise plus noise. Its reliability is the variance of the expectation over the variance of both. A vector
    with equal and independent noise correlates with the measured one by the reliability. The expectation
    itself correlates by its square root, and no prediction without the measurement correlates by more.

    Limits. Only the sampling of molecules counts as noise. What both halves share counts as structure: the choice of
    spots, differences in capture between spots (so the library size under log2), and variation of a spot's counts
    beyond Poisson noise. No prediction from an image knows all of that: the ceiling describes the measurement, not
    the image. The expected structure is also not the structure of the expected expression. Count noise weakens
    correlations, most of all those of shallow genes, so even true rates that are passed to :func:`gsc` as a
    prediction stay below the ceiling. And Spearman-Brown assumes that the expectation at half depth equals that at
    full depth. On simulated sections with known rates (100 to 2,000 counts in 100 genes) both numbers were right to
    0.03 on average.

    Parameters
    ----------
    counts
        (n_spots, n_genes) raw counts of one section, dense or scipy sparse.
    graph
        (n_spots, n_spots) weights, as in :func:`flagst.metrics.morans_i`.
    transform
        Called with the counts (n_spots, n_genes) int64 and total counts (n_spots,) int64 of a half; returns
        expression (n_spots, n_genes) in the unit that is scored.
    total_counts
        (n_spots,) counts over all genes; those of genes not in ``counts`` are split too. None: sums of
        ``counts``.
    n_splits
        Number of splits, at least 1.
    seed
        Seed of all splits.

    Returns
    -------
    ``{"gsc": Ceiling, "ssc": Ceiling}``. Genes constant in one of the halves are left out of that split. A
    negative ``half`` gives a ceiling of 0; NaN with fewer than 3 genes.

    Raises
    ------
    ValueError
        Not raw counts, totals smaller than the counts, ``n_splits`` below 1, fewer than 3 spots, or a graph
        of the wrong shape or without edges.
    TypeError
        ``counts``, or what ``transform`` returns, is not numeric.

    Source
    ------
    Spearman, Brit. J. Psychol. 1910, 3:271; Brown, Brit. J. Psychol. 1910, 3:296. Splitting: see
    :func:`split_counts`.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(20, size=(60, 5))
    >>> line = np.eye(60, k=1) + np.eye(60, k=-1)
    >>> found = flagst.metrics.structure_ceiling(counts, line, lambda half, totals: np.log2(half + 1))
    >>> sorted(found), found["gsc"].n_splits
    (['gsc', 'ssc'], 10)
    """
    counts = as_matrix(counts, name="counts")
    require_counts(counts, where="counts")
    if n_splits < 1:
        raise ValueError(f"n_splits must be at least 1; got {n_splits}.")
    others = _other_counts(counts, total_counts)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"gsc": [], "ssc": []}
    for _ in range(n_splits):
        halves = split_counts(counts, rng)
        totals = [h.sum(axis=1) + o for h, o in zip(halves, split_counts(others, rng), strict=True)]
        left, right = (
            as_matrix(transform(h, t), name="transform's result") for h, t in zip(halves, totals, strict=True)
        )
        kept = ~(constant_genes(left) | constant_genes(right))
        enough = kept.sum() >= 3
        found["gsc"].append(gsc(left[:, kept], right[:, kept]) if enough else float("nan"))
        found["ssc"].append(ssc(left[:, kept], right[:, kept], graph) if enough else float("nan"))
    return {name: _corrected(np.array(values)) for name, values in found.items()}


def _corrected(half: np.ndarray) -> Ceiling:
    """Scores between halves, (n_splits,), at full depth."""
    reliability = 2 * half / (1 + half)
    mean = float(reliability.mean())
    deviation = float(reliability.std(ddof=1)) if len(half) > 1 else float("nan")
    return Ceiling(float(half.mean()), mean, deviation, float(np.sqrt(max(mean, 0.0))), len(half))


def _other_counts(counts: np.ndarray, total_counts: np.ndarray | None) -> np.ndarray:
    """Counts of each spot outside ``counts``, (n_spots,) int64."""
    own = counts.sum(axis=1).astype(np.int64)
    if total_counts is None:
        return np.zeros_like(own)
    totals = np.asarray(total_counts, dtype=np.float64)
    if totals.shape != own.shape:
        raise ValueError(f"total_counts must be ({len(own)},), one per spot; got shape {totals.shape}.")
    if not np.isfinite(totals).all() or (totals < own - 0.5).any():
        raise ValueError("total_counts are not finite or smaller than the sum of the counts of their spot.")
    return np.round(totals).astype(np.int64) - own
