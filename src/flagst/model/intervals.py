"""Quantiles of the draws, calibrated on tissue that was held out of the diffusion."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flagst.metrics import share_below
from flagst.regression import cross_fitting_folds

if TYPE_CHECKING:
    from flagst.model.fitting import Fitted
    from flagst.model.predicting import SectionPredictor

#: Levels at which the correction is fitted; levels between them are interpolated.
LEVELS = np.array([0.01, 0.025, 0.05, *np.arange(2, 19) / 20, 0.95, 0.975, 0.99])
#: Drawn states behind the calibration, and noises drawn beside each.
N_STATES, N_NOISES = 5, 10
#: A gene's own correction counts as much as the pooled one when it comes from so many spots.
SHRINKAGE_SPOTS = 60
#: Draws kept in memory at once, in numbers; larger sections give every second spot, or every third.
MAX_VALUES = 10**8


@dataclass(frozen=True)
class IntervalCalibration:
    """What turns a quantile of full draws into a calibrated one.

    ``clip(Q_q + shift_g(q) * spread_g)``: the quantile of the draws, moved by a correction per gene and level,
    in units of the gene's spread over draws. The correction is the quantile of the conformity score
    ``(y - Q_q) / spread`` of measured values ``y`` on held-out tissue, with the finite-sample rank of conformal
    prediction, so that a share ``q`` of them lies at or below the moved quantile. A correction that is added can
    leave the range of the draws, which a remapping of levels cannot, and draws are often too narrow. Zero
    measured where the quantile is zero has score zero: at a bound of zero nothing is moved.

    A gene's correction is shrunk towards the one pooled over all genes, with weight
    ``n / (n + 60)`` for ``n`` held-out spots: nine tenths with three HER2ST sections.

    Attributes
    ----------
    levels
        ``(n_levels,)``, ascending, in (0, 1).
    shift
        ``(n_levels, n_genes)`` float32, in units of the spread.
    before, after
        ``(3, n_levels)`` shares of held-out values below the quantile, see :func:`flagst.metrics.share_below`: of the
        draws, and moved by a correction fitted on the *other* sections (with one or two, the other three quarters).
    n_sections, n_blocks, n_spots
        Held-out sections, the blocks they were held out in (with three sections or more, whole ones), and spots.

    Source
    ------
    Conformalised quantile regression with a correction for each side: Romano, Patterson and Candes, NeurIPS 2019,
    section 5 and theorem 2. Theirs is in the unit of the target and needs exchangeable data; spots of one
    section are not exchangeable with those of another, so that nothing is guaranteed for a new section.
    """

    levels: np.ndarray
    shift: np.ndarray
    before: np.ndarray
    after: np.ndarray
    n_sections: int
    n_blocks: int
    n_spots: int

    def move(self, draws: np.ndarray, quantiles: tuple[float, ...], *, unit: np.ndarray | None = None) -> np.ndarray:
        """Calibrated quantiles ``(n_quantiles, n_spots, n_genes)`` of draws ``(n_draws, n_spots, n_genes)``.

        ``unit``, ``(n_genes,)``, is :func:`spread` of the whole section where the draws are those of a part of it.
        """
        unit = spread(draws) if unit is None else unit
        return _moved(draw_quantiles(draws, quantiles), unit, self.levels, self.shift, quantiles)

    def record(self, quantiles: tuple[float, ...]) -> dict:
        """Plain types for ``uns``."""
        outer = {"interval_before": self._inside(self.before, quantiles)}
        outer["interval_after"] = self._inside(self.after, quantiles)
        return (outer if len(quantiles) > 1 else {}) | {
            "calibrated": True,
            "levels": [float(q) for q in quantiles],
            "share_before": np.interp(quantiles, self.levels, self.before[1]).tolist(),
            "share_after": np.interp(quantiles, self.levels, self.after[1]).tolist(),
            "definition": "of held-out values, pooled over genes: share below each quantile, ties at zero by lot, "
            "and share from the lowest quantile to the highest, bounds included",
            "n_sections": self.n_sections,
            "n_blocks": self.n_blocks,
            "n_spots": self.n_spots,
        }

    def _inside(self, shares: np.ndarray, quantiles: tuple[float, ...]) -> float:
        below, at_or_below = (np.interp(quantiles, self.levels, shares[row]) for row in (0, 2))
        return float(at_or_below.max() - below.min())


def require_calibrated(intervals: IntervalCalibration | None, quantiles: tuple[float, ...]) -> None:
    """Raise a ``ValueError`` for quantiles further out than those that were calibrated."""
    if intervals is None:
        return
    low, high = intervals.levels[0], intervals.levels[-1]
    beyond = [quantile for quantile in quantiles if not low <= quantile <= high]
    if beyond:
        raise ValueError(
            f"quantiles are calibrated from {low:g} to {high:g}; got {beyond}. Those of the draws as they are, further "
            "out, can be taken from model.sample(adata, n_samples)."
        )


UNCALIBRATED = (
    "Quantiles are those of the draws, not calibrated: nothing was held out in training. Draws are often too narrow. "
    "Train with cross_fit=True and a regression mean, on sections of at least ten spots."
)


def calibration_record(intervals: IntervalCalibration | None, quantiles: tuple[float, ...]) -> dict:
    """What ``uns`` says about quantiles.

    Warns
    -----
    UserWarning
        They are not calibrated.
    """
    if intervals is not None:
        return intervals.record(quantiles)
    warnings.warn(UNCALIBRATED, UserWarning, stacklevel=3)
    return {"calibrated": False, "levels": [float(q) for q in quantiles]}


def calibrate_intervals(
    parts: "list[tuple[SectionPredictor, np.ndarray]]", fitted: "Fitted"
) -> IntervalCalibration | None:
    """Fit the correction on held-out tissue.

    Parameters
    ----------
    parts
        Predictors with their cross-fitted means, and the rows that their network has not seen.
    fitted
        What the model predicts with.

    Returns
    -------
    The calibration, ``None`` without held-out tissue.
    """
    if not parts:
        return None
    names = list(dict.fromkeys(predictor.section.name for predictor, _ in parts))
    draws, measured, block = [], [], []
    for predictor, rows in parts:
        predictor.fitted = fitted
        drawn, values, kept = _held_out(predictor, rows, MAX_VALUES // len(parts))
        draws.append(drawn)
        measured.append(values)
        # what the correction is checked on: left-out sections, or quarters where there are too few of them
        if len(names) >= 3:
            block.append(np.full(len(kept), names.index(predictor.section.name)))
        else:
            block.append(cross_fitting_folds(np.zeros(len(kept)), predictor.section.coords[kept]))
    curves = np.concatenate([draw_quantiles(d, LEVELS) for d in draws], axis=1)
    units = np.concatenate([spread(d) for d in draws])
    measured, block = np.concatenate(measured), np.concatenate(block)
    checked = np.empty_like(curves)
    for number in np.unique(block):
        test = block == number
        shift = _fit(curves[:, ~test], units[~test], measured[~test])
        checked[:, test] = _moved(curves[:, test], units[test], LEVELS, shift, LEVELS)
    return IntervalCalibration(
        levels=LEVELS,
        shift=_fit(curves, units, measured),
        before=share_below(curves, LEVELS, measured),
        after=share_below(checked, LEVELS, measured),
        n_sections=len(names),
        n_blocks=len(parts),
        n_spots=len(measured),
    )


def draw_quantiles(draws: np.ndarray, quantiles) -> np.ndarray:
    """Quantiles ``(n_quantiles, n_spots, n_genes)`` of draws ``(n_draws, n_spots, n_genes)``.

    The k-th of n draws is the quantile k / (n + 1), so that the number of draws hardly matters.
    """
    return np.quantile(draws, quantiles, axis=0, method="weibull").astype(np.float32)


def spread(draws: np.ndarray) -> np.ndarray:
    """Root mean square over a section's spots of a gene's standard deviation over draws, ``(n_spots, n_genes)``.

    One number per gene, repeated: where all draws are clipped at zero, a spot has no spread of its own.
    """
    return np.broadcast_to(pooled_spread([draws]), draws.shape[1:])


def pooled_spread(parts: Iterable[np.ndarray]) -> np.ndarray:
    """:func:`spread` once per gene, ``(n_genes,)`` float32, of the draws ``(n_draws, n_part, n_genes)`` of parts."""
    total, n_spots = 0.0, 0
    for draws in parts:
        total = total + draws.var(axis=0, ddof=1, dtype=np.float64).sum(axis=0)
        n_spots += draws.shape[1]
    return np.sqrt(total / n_spots).astype(np.float32)


def _held_out(
    predictor: "SectionPredictor", rows: np.ndarray, max_values: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full draws ``(n_draws, n_kept, n_genes)``, the measurement, and which rows were kept."""
    n_genes = predictor.mean.shape[1]
    step = -(-len(rows) * n_genes * N_STATES * N_NOISES // max_values)
    kept = rows[::step]
    # one by one: all draws of a large section would not fit in memory
    draws = np.stack([drawn[kept] for drawn in predictor.redrawn(N_STATES, N_NOISES, "intervals")])
    return draws, predictor.section.target[kept], kept


def _fit(curves: np.ndarray, units: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Correction per level and gene, ``(n_levels, n_genes)`` float32, shrunk towards the pooled one."""
    inverse = np.where(units > 0, 1 / np.where(units > 0, units, 1), 0)  # no spread, nothing to move
    weight = len(measured) / (len(measured) + SHRINKAGE_SPOTS)
    shift = np.empty((len(LEVELS), measured.shape[1]), np.float32)
    for row, (level, curve) in enumerate(zip(LEVELS, curves, strict=True)):
        score = (measured - curve) * inverse
        pooled = _conformal_quantile(score.reshape(-1, 1), level)
        shift[row] = weight * _conformal_quantile(score, level) + (1 - weight) * pooled
    return shift


def _conformal_quantile(score: np.ndarray, level: float) -> np.ndarray:
    """Quantile of every column at rank ``(n + 1) * level``, rounded away from the middle."""
    n = len(score)
    rank = np.ceil((n + 1) * level) if level > 0.5 else np.floor((n + 1) * level)
    row = int(np.clip(rank, 1, n)) - 1
    return np.partition(score, row, axis=0)[row]


def _moved(curves: np.ndarray, units: np.ndarray, levels: np.ndarray, shift: np.ndarray, quantiles) -> np.ndarray:
    """Quantiles of draws with the correction, never negative, never crossing."""
    by_gene = np.stack([np.interp(quantiles, levels, column) for column in shift.T], axis=1)
    moved = np.clip(curves + by_gene[:, None, :] * units, 0, None).astype(np.float32)
    order = np.argsort(quantiles)
    moved[order] = np.sort(moved, axis=0)
    return moved
