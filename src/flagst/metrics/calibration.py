"""Do draws and intervals hold what they promise: the place of the measurement, and how often it is inside."""

import numpy as np

from flagst._checks import require_finite
from flagst.metrics._draws import check_draws
from flagst.metrics._inputs import as_matrix, scored_pair


def pit(samples, measured, *, seed: int = 0) -> np.ndarray:
    """Probability integral transform: where the measurement lies among the draws.

    ``(b + u (t + 1)) / (n_draws + 1)`` with ``b`` draws below the measurement, ``t`` equal to it, and ``u``
    uniform in [0, 1): uniform where the measurement is one more draw of the same distribution, also when many
    values are exactly zero. Too narrow draws give a U, too wide ones a hump.

    Parameters
    ----------
    samples, measured
        As in :func:`flagst.metrics.crps`.
    seed
        Of ``u``.

    Returns
    -------
    (n_spots, n_genes) float64 in [0, 1); genes constant in the measurement included.

    Raises
    ------
    ValueError
        As :func:`flagst.metrics.crps`.

    Source
    ------
    Czado, Gneiting & Held, Biometrics 2009, 65:1254: the randomised transform of counts, here of draws.
    """
    samples, measured = check_draws(samples, measured)
    below, equal = np.zeros(measured.shape), np.zeros(measured.shape)
    for draw in samples:
        below += draw < measured
        equal += draw == measured
    return (below + np.random.default_rng(seed).random(measured.shape) * (equal + 1)) / (len(samples) + 1)


def per_gene_coverage(lower, upper, measured) -> np.ndarray:
    """Share of spots whose measurement lies between the bounds, gene by gene.

    Bounds count as inside. Where measurement and bound are often both zero, the share is therefore larger
    than the nominal level even for a perfect forecast; the share of :func:`pit` values in the same central
    interval is not.

    Parameters
    ----------
    lower, upper, measured
        (n_spots, n_genes), same unit, spots and genes in the same order.

    Returns
    -------
    (n_genes,) float64 in [0, 1]; NaN for genes constant in the measurement.

    Raises
    ------
    ValueError
        Shapes differ, NaN or infinite values, fewer than 3 spots, a lower bound above its upper one, or no
        gene varies in ``measured``.
    """
    low, truth, kept = scored_pair(lower, measured)
    high, _, _ = scored_pair(upper, measured)
    if (low > high).any():
        raise ValueError(f"lower is above upper in {int((low > high).sum())} values. Were they swapped?")
    result = np.full(len(kept), np.nan)
    result[kept] = ((truth >= low) & (truth <= high)).mean(axis=0)
    return result


def coverage(lower, upper, measured) -> float:
    """Mean over genes of :func:`per_gene_coverage`: the share pooled over spots and genes.

    Parameters
    ----------
    lower, upper, measured
        As in :func:`per_gene_coverage`.

    Returns
    -------
    Number in [0, 1].

    Raises
    ------
    ValueError
        As :func:`per_gene_coverage`.
    """
    return float(np.nanmean(per_gene_coverage(lower, upper, measured)))


def share_below(quantiles, levels, measured) -> np.ndarray:
    """Share of measurements below each predicted quantile, pooled over spots and genes.

    A zero measured where the quantile is zero lies anywhere in the mass that the prediction puts on zero. The
    randomised transform draws lots for it; here it counts with its probability, the level over that mass, so that
    nothing is left to chance. The coverage of an interval is the difference of two shares: with ties by lot, it is
    nominal for a perfect forecast, unlike :func:`coverage`.

    Parameters
    ----------
    quantiles
        (n_levels, n_spots, n_genes) predicted quantiles, ascending with the level, not negative. The mass on zero is
        the highest level whose quantile is zero: pass many levels, as
        ``model.predict(adata, quantiles=levels)`` writes them.
    levels
        (n_levels,) in (0, 1).
    measured
        (n_spots, n_genes), in the same unit.

    Returns
    -------
    (3, n_levels): strictly below, below with ties at zero by lot, and at or below.

    Raises
    ------
    ValueError
        Shapes differ, levels outside (0, 1), NaN or infinite values.

    Source
    ------
    Ties: Smith, J. Forecast. 1985, 4:283; Czado, Gneiting & Held, Biometrics 2009, 65:1254.
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
        by_lot = np.where((quantile <= 0) & (measured <= 0), level / np.maximum(mass, level), below)
        shares.append([below.mean(), by_lot.mean(), (measured <= quantile).mean()])
    return np.array(shares).T


def binomial_band(level: float, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Range in which the observed share of ``n`` independent trials lies when ``level`` is true.

    Spots of a section are not independent: the coverage of a calibrated gene varies more than this.

    Parameters
    ----------
    level
        True share, in [0, 1].
    n
        Number of trials, for the coverage of a gene the number of spots.
    confidence
        Probability of the range, at least.

    Returns
    -------
    Lowest and highest share, both in [0, 1].

    Raises
    ------
    ValueError
        ``level`` outside [0, 1], ``confidence`` outside (0, 1) or ``n`` below 1.
    """
    from scipy.stats import binom

    if not 0 <= level <= 1 or not 0 < confidence < 1 or n < 1:
        raise ValueError(f"Need level in [0, 1], confidence in (0, 1) and n >= 1; got {level}, {confidence} and {n}.")
    tail = (1 - confidence) / 2
    return float(binom.ppf(tail, n, level) / n), float(binom.ppf(1 - tail, n, level) / n)
