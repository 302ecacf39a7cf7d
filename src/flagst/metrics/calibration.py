"""Calibration of posterior samples and of intervals: PIT values and coverage."""

from collections.abc import Sequence

import numpy as np

from flagst._checks import require_finite
from flagst.metrics._draws import check_draws
from flagst.metrics._inputs import Matrix, as_matrix, scored_pair


def pit(samples: np.ndarray, measured: Matrix, *, seed: int = 0) -> np.ndarray:
    """Probability integral transform: the rank of the measurement among the samples, from 0 to 1.

    ``(b + u (t + 1)) / (n_samples + 1)`` with ``b`` samples below the measurement, ``t`` samples equal to it, and ``u``
    uniform in [0, 1). The values are uniform where the measurement follows the distribution of the samples, also when
    many values are exactly zero. Overconfident samples give a U-shaped histogram, too wide ones a hump in the middle.

    Parameters
    ----------
    samples
        (n_samples, n_spots, n_genes), numeric, in the unit of ``measured``; as ``FLAG.sample`` returns them.
    measured
        (n_spots, n_genes), numeric, dense or scipy sparse; spots and genes in the same order.
    seed
        Seed of ``u``.

    Returns
    -------
    (n_spots, n_genes) float64 in [0, 1); genes constant in the measurement included.

    Raises
    ------
    ValueError, TypeError
        As :func:`flagst.metrics.crps`.

    Source
    ------
    Czado, Gneiting & Held, Biometrics 2009, 65:1254: the randomised transform of counts, here of samples.

    Examples
    --------
    >>> measured = np.array([[0.0], [1.0], [2.0]])
    >>> samples = np.stack([measured - 1, measured - 2, measured + 1])
    >>> values = flagst.metrics.pit(samples, measured)
    >>> bool(((values >= 0.5) & (values < 0.75)).all())  # two of three samples are below
    True
    """
    samples, measured = check_draws(samples, measured)
    below, equal = np.zeros(measured.shape), np.zeros(measured.shape)
    for sample in samples:
        below += sample < measured
        equal += sample == measured
    return (below + np.random.default_rng(seed).random(measured.shape) * (equal + 1)) / (len(samples) + 1)


def per_gene_coverage(lower: Matrix, upper: Matrix, measured: Matrix) -> np.ndarray:
    """Share of spots whose measurement lies between the bounds, gene by gene.

    The bounds count as inside. Where measurement and bound are often both zero, the share is therefore larger
    than the nominal level, even for a perfect forecast. The share of :func:`pit` values in the same central
    interval has no such excess.

    Parameters
    ----------
    lower, upper, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    (n_genes,) float64 in [0, 1]; NaN for genes constant in the measurement.

    Raises
    ------
    ValueError
        Shapes differ, NaN or infinite values, fewer than 3 spots, a lower bound above its upper one, or no
        gene varies in ``measured``.
    TypeError
        Values are not numeric.

    Examples
    --------
    >>> measured = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 5.0], [3.0, 9.0]])
    >>> flagst.metrics.per_gene_coverage(np.zeros((4, 2)), np.full((4, 2), 3.0), measured)
    array([1. , 0.5])
    """
    low, truth, kept = scored_pair(lower, measured)
    high, _, _ = scored_pair(upper, measured)
    if (low > high).any():
        raise ValueError(f"lower is above upper in {int((low > high).sum())} values. Were they swapped?")
    result = np.full(len(kept), np.nan)
    result[kept] = ((truth >= low) & (truth <= high)).mean(axis=0)
    return result


def coverage(lower: Matrix, upper: Matrix, measured: Matrix) -> float:
    """Share of measurements between the bounds, pooled over spots and genes.

    The mean over genes of :func:`per_gene_coverage`.

    Parameters
    ----------
    lower, upper, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    Number in [0, 1].

    Raises
    ------
    ValueError, TypeError
        As :func:`per_gene_coverage`.

    Examples
    --------
    >>> measured = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 5.0], [3.0, 9.0]])
    >>> flagst.metrics.coverage(np.zeros((4, 2)), np.full((4, 2), 3.0), measured)
    0.75
    """
    return float(np.nanmean(per_gene_coverage(lower, upper, measured)))


def share_below(quantiles: np.ndarray, levels: Sequence[float] | np.ndarray, measured: Matrix) -> np.ndarray:
    """Share of measurements below each predicted quantile, pooled over spots and genes.

    Where the quantile and the measurement are both zero, the measurement lies anywhere in the probability that the
    prediction gives to zero. :func:`pit` breaks such ties at random. This function counts each tie with its
    probability, the level divided by that mass, so that the result is not random. The coverage of an interval is the
    difference of two shares. With ties counted by probability, it is nominal for a perfect forecast, unlike
    :func:`coverage`.

    Parameters
    ----------
    quantiles
        (n_levels, n_spots, n_genes), numeric, >= 0, ascending with the level. The mass on zero is
        the highest level whose quantile is zero: pass many levels, as
        ``model.predict(adata, quantiles=levels)`` writes them.
    levels
        (n_levels,) in (0, 1).
    measured
        (n_spots, n_genes), numeric, dense or scipy sparse, in the same unit.

    Returns
    -------
    (3, n_levels) float64 in [0, 1]: strictly below; below, with ties at zero counted by probability; at or below.

    Raises
    ------
    ValueError
        Shapes differ, levels outside (0, 1), NaN or infinite values.
    TypeError
        Values are not numeric.

    Source
    ------
    Ties: Smith, J. Forecast. 1985, 4:283; Czado, Gneiting & Held, Biometrics 2009, 65:1254.

    Examples
    --------
    >>> measured = np.array([[0.0], [0.0], [3.0], [4.0]])
    >>> quantiles = np.array([np.zeros((4, 1)), np.zeros((4, 1))])
    >>> flagst.metrics.share_below(quantiles, [0.25, 0.5], measured)
    array([[0.  , 0.  ],
           [0.25, 0.5 ],
           [0.5 , 0.5 ]])
    """
    quantiles, levels = np.asarray(quantiles), np.asarray(levels, dtype=np.float64)
    measured = as_matrix(measured, name="measured")
    if quantiles.shape != (levels.size, *measured.shape):
        raise ValueError(
            f"quantiles must be (n_levels, n_spots, n_genes) = {(levels.size, *measured.shape)}; got {quantiles.shape}."
        )
    require_finite(quantiles, where="quantiles", hint="Leave those spots out.")
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"levels must be numbers between 0 and 1, one per quantile; got {levels}.")
    mass = np.zeros(measured.shape)
    for level, quantile in zip(levels, quantiles, strict=True):
        mass = np.where(quantile <= 0, np.maximum(mass, level), mass)
    shares = []
    for level, quantile in zip(levels, quantiles, strict=True):
        below = measured < quantile
        below_or_tied = np.where((quantile <= 0) & (measured <= 0), level / np.maximum(mass, level), below)
        shares.append([below.mean(), below_or_tied.mean(), (measured <= quantile).mean()])
    return np.array(shares).T


def binomial_band(level: float, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Range in which the observed share of ``n`` independent trials lies when ``level`` is the true share.

    Spots of a section are not independent: the coverage of a calibrated gene varies more than this.

    Parameters
    ----------
    level
        True share, in [0, 1].
    n
        Number of trials; for the coverage of a gene, the number of spots.
    confidence
        Smallest probability of the range, in (0, 1).

    Returns
    -------
    Lowest and highest share, both in [0, 1].

    Raises
    ------
    ValueError
        ``level`` outside [0, 1], ``confidence`` outside (0, 1) or ``n`` below 1.

    Examples
    --------
    >>> flagst.metrics.binomial_band(0.9, 100)
    (0.84, 0.95)
    """
    from scipy.stats import binom

    if not 0 <= level <= 1 or not 0 < confidence < 1 or n < 1:
        raise ValueError(f"Need level in [0, 1], confidence in (0, 1) and n >= 1; got {level}, {confidence} and {n}.")
    tail = (1 - confidence) / 2
    return float(binom.ppf(tail, n, level) / n), float(binom.ppf(1 - tail, n, level) / n)
