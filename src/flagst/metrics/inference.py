"""Uncertainty of a score on one section, and the scores that chance alone gives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flagst._checks import require_finite
from flagst.metrics._inputs import Matrix, scored_pair, standardise
from flagst.metrics.spatial import morans_i


@dataclass(frozen=True)
class Interval:
    """A score of one section with its jackknife standard error and interval.

    Attributes
    ----------
    estimate
        Score of all spots.
    standard_error
        Jackknife standard error, in the unit of the score.
    low, high
        Ends of the interval.
    n_blocks
        Number of blocks that were left out, one at a time.

    Examples
    --------
    >>> flagst.metrics.Interval(estimate=0.6, standard_error=0.05, low=0.5, high=0.7, n_blocks=20).low
    0.5
    """

    estimate: float
    standard_error: float
    low: float
    high: float
    n_blocks: int


@dataclass(frozen=True)
class NullTest:
    """A score against the same score after permutation.

    Attributes
    ----------
    observed
        Score without permutation.
    null_mean, null_sd
        Mean and standard deviation of the score over permutations.
    p_value
        One-sided, ``(1 + b) / (1 + n_permutations)`` with ``b`` permuted scores at least as large as the observed one.
    n_permutations
        Number of permutations.

    Examples
    --------
    >>> flagst.metrics.NullTest(0.6, null_mean=0.0, null_sd=0.1, p_value=0.001, n_permutations=999).p_value
    0.001
    """

    observed: float
    null_mean: float
    null_sd: float
    p_value: float
    n_permutations: int


def spatial_blocks(coords: np.ndarray, n_blocks: int) -> np.ndarray:
    """Cut a section into compact blocks with the same number of spots, up to a difference of one.

    The set of spots is halved across its longer side, and so are the halves, until there are ``n_blocks``.
    The result does not depend on the order of the spots.

    Parameters
    ----------
    coords
        (n_spots, 2) of one section, x then y, any unit of length.
    n_blocks
        Number of blocks, 1 to n_spots; not only powers of two.

    Returns
    -------
    (n_spots,) int64 block of every spot, 0 to ``n_blocks - 1``.

    Raises
    ------
    ValueError
        ``coords`` is not (n_spots, 2) or not finite, or more blocks than spots.

    Examples
    --------
    >>> coords = np.array([[0, 0], [1, 0], [10, 0], [11, 0]])
    >>> flagst.metrics.spatial_blocks(coords, 2)
    array([0, 0, 1, 1])
    """
    coords = np.asarray(coords, dtype=np.float64)
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise ValueError(f"coords must be (n_spots, 2), x then y; got shape {coords.shape}.")
    require_finite(coords, where="coords", hint="Leave out spots without a position.")
    if not 1 <= n_blocks <= len(coords):
        raise ValueError(f"n_blocks must be 1 to {len(coords)}, the number of spots; got {n_blocks}.")
    labels = np.empty(len(coords), dtype=np.int64)
    waiting, next_label = [(np.arange(len(coords)), int(n_blocks))], 0
    while waiting:
        rows, n_parts = waiting.pop()
        if n_parts == 1:
            labels[rows], next_label = next_label, next_label + 1
            continue
        along = int(np.ptp(coords[rows, 1]) > np.ptp(coords[rows, 0]))
        # Regular arrays are full of ties: the other coordinate decides, not the order of the spots.
        rows = rows[np.lexsort((coords[rows, 1 - along], coords[rows, along]))]
        cut = round(len(rows) * (n_parts // 2) / n_parts)
        waiting += [(rows[cut:], n_parts - n_parts // 2), (rows[:cut], n_parts // 2)]
    return labels


def jackknife(
    metric: Callable[[np.ndarray], float], coords: np.ndarray, *, n_blocks: int = 20, confidence: float = 0.95
) -> Interval:
    """Standard error and interval of a score, by leaving out one compact block of the tissue at a time.

    Neighbouring spots are alike, so leaving out single spots would make every score look too certain. Blocks that are
    much wider than the range of this similarity avoid that. With blocks of a few spots, read the error as a lower
    bound. The interval is ``estimate +- t * standard_error`` with ``n_blocks - 1`` degrees of freedom, and may exceed
    1. It says how much the score would vary over other tissue like this section. It does not describe the variation
    over sections, patients or seeds.

    Parameters
    ----------
    metric
        Called with the rows to use, (n_kept,) int64 ascending; returns one number. Cut a graph to the rows;
        do not build it anew, which would join spots across the hole.
    coords
        (n_spots, 2) of one section, x then y, any unit of length.
    n_blocks
        Number of blocks, at least 2; see :func:`spatial_blocks`.
    confidence
        Probability of the interval, in (0, 1).

    Returns
    -------
    An :class:`Interval` of plain floats; NaN where the score of a part is NaN.

    Raises
    ------
    ValueError
        Fewer than 2 blocks, more blocks than spots, ``confidence`` outside (0, 1), or bad ``coords``.

    Source
    ------
    Kunsch, Ann. Stat. 1989, 17:1217 (blocks for dependent data); delete-a-group variance as in Shao & Tu, The
    Jackknife and Bootstrap, 1995, equation 2.22.

    Examples
    --------
    >>> from flagst.metrics import gsc, jackknife
    >>> rng = np.random.default_rng(0)
    >>> coords, measured = rng.random((100, 2)), rng.normal(size=(100, 5))
    >>> found = jackknife(lambda rows: gsc(measured[rows] + 1, measured[rows]), coords)
    >>> round(found.estimate, 6), found.n_blocks
    (1.0, 20)

    With a graph: ``jackknife(lambda rows: ssc(predicted[rows], measured[rows], graph[rows][:, rows]), coords)``.
    """
    from scipy.stats import t

    if n_blocks < 2:
        raise ValueError(f"n_blocks must be at least 2; got {n_blocks}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}.")
    blocks = spatial_blocks(coords, n_blocks)
    estimate = float(metric(np.arange(len(blocks))))
    left_out = np.array([float(metric(np.flatnonzero(blocks != block))) for block in range(n_blocks)])
    error = float(np.sqrt((n_blocks - 1) / n_blocks * np.sum((left_out - left_out.mean()) ** 2)))
    reach = float(t.ppf((1 + confidence) / 2, n_blocks - 1)) * error
    return Interval(estimate, error, estimate - reach, estimate + reach, int(n_blocks))


def gsc_permutation_test(predicted: Matrix, measured: Matrix, *, n_permutations: int = 999, seed: int = 0) -> NullTest:
    """Mantel test of the GSC: is it higher than with genes assigned at random?

    Rows and columns of the predicted correlation matrix are permuted together: its values stay, and its genes change
    places. A small p-value says that the prediction distinguishes genes. It does not say that much was
    predicted: knowing which genes have a high expression is enough.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.
    n_permutations
        At least 1; the smallest p-value is ``1 / (1 + n_permutations)``.
    seed
        Seed of the permutations.

    Returns
    -------
    A :class:`NullTest` of plain numbers; ``observed`` is the GSC. NaN with fewer than 3 genes that
    vary, or when the correlations of either matrix are all equal.

    Raises
    ------
    ValueError
        As :func:`flagst.metrics.gsc`, or ``n_permutations`` below 1. Memory is quadratic in genes.
    TypeError
        Values are not numeric.

    Source
    ------
    Mantel, Cancer Res. 1967, 27:209. The p-value counts the observed assignment: Phipson & Smyth, Stat. Appl.
    Genet. Mol. Biol. 2010, 9:39.

    Examples
    --------
    >>> measured = np.random.default_rng(0).normal(size=(50, 8))
    >>> flagst.metrics.gsc_permutation_test(measured, measured, n_permutations=99).p_value
    0.01
    """
    predicted, measured, _ = scored_pair(predicted, measured)
    guess, true = (_centred_correlation(values) for values in (predicted, measured))

    def product(genes: np.ndarray) -> float:
        # the diagonals are 0, and both triangles hold the same numbers
        return float(sum(guess[gene, genes] @ row for gene, row in zip(genes, true, strict=True)))

    return _permutation_test(product, guess, true, n_permutations, seed)


def ssc_permutation_test(
    predicted: Matrix, measured: Matrix, graph: Matrix, *, n_permutations: int = 999, seed: int = 0
) -> NullTest:
    """Permutation test of the SSC: is it higher than with genes assigned at random?

    The genes of the predicted Moran's I are permuted.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.
    graph
        (n_spots, n_spots) weights, as in :func:`flagst.metrics.morans_i`.
    n_permutations
        At least 1; the smallest p-value is ``1 / (1 + n_permutations)``.
    seed
        Seed of the permutations.

    Returns
    -------
    A :class:`NullTest` of plain numbers; ``observed`` is the SSC. NaN with fewer than 3 genes that
    vary, or when the predicted or the measured Moran's I are all equal.

    Raises
    ------
    ValueError
        As :func:`flagst.metrics.ssc`, or ``n_permutations`` below 1.
    TypeError
        Values are not numeric.

    Source
    ------
    As :func:`gsc_permutation_test` for the p-value.

    Examples
    --------
    >>> measured = np.random.default_rng(0).normal(size=(50, 8))
    >>> line = np.eye(50, k=1) + np.eye(50, k=-1)
    >>> flagst.metrics.ssc_permutation_test(measured, measured, line, n_permutations=99).p_value
    0.01
    """
    predicted, measured, _ = scored_pair(predicted, measured)
    guess, true = (standardise(morans_i(values, graph)[:, None])[:, 0] for values in (predicted, measured))

    return _permutation_test(lambda genes: float(guess[genes] @ true), guess, true, n_permutations, seed)


def _permutation_test(
    product: Callable[[np.ndarray], float], guess: np.ndarray, true: np.ndarray, n_permutations: int, seed: int
) -> NullTest:
    """Inner product of ``true`` with ``guess`` and with permuted ``guess``, over the product of their norms.

    ``product`` gives the inner product for a permutation of genes, (n_genes,) int64.
    """
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1; got {n_permutations}.")
    n_genes, norms = len(true), (np.linalg.norm(guess), np.linalg.norm(true))
    # Correlations are at most 1, so a norm at the level of rounding means that all are equal.
    if n_genes < 3 or min(norms) <= 1e-12 * n_genes:
        nothing = float("nan")
        return NullTest(nothing, nothing, nothing, nothing, int(n_permutations))
    rng, scale = np.random.default_rng(seed), norms[0] * norms[1]
    observed = product(np.arange(n_genes)) / scale
    null = np.array([product(rng.permutation(n_genes)) for _ in range(n_permutations)]) / scale
    # a permutation that changes nothing must count as equal, whatever the rounding
    n_as_large = int((null >= observed - 1e-12).sum())
    p_value = (1 + n_as_large) / (1 + n_permutations)
    return NullTest(float(observed), float(null.mean()), float(null.std()), p_value, int(n_permutations))


def _centred_correlation(values: np.ndarray) -> np.ndarray:
    """Gene x gene correlations minus their mean over pairs, (n_genes, n_genes), zero on the diagonal."""
    unit = standardise(values)
    correlation = unit.T @ unit
    n_genes = len(correlation)
    pairs = max(n_genes * (n_genes - 1), 1)
    np.fill_diagonal(correlation, 0.0)
    correlation -= correlation.sum() / pairs
    np.fill_diagonal(correlation, 0.0)
    return correlation
