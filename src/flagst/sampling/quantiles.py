"""Quantiles of posterior samples, calibrated on tissue that was held out of the denoiser's training."""

import warnings
from dataclasses import dataclass

import numpy as np

from flagst.metrics import share_below
from flagst.regression import cross_fitting_folds
from flagst.regression.folds import MIN_SECTIONS
from flagst.sampling.sampler import SectionSampler
from flagst.sampling.spot_samples import pooled_sd, sample_quantiles

#: Levels at which the correction is fitted; levels between them are interpolated.
LEVELS = np.array([0.01, 0.025, 0.05, *np.arange(2, 19) / 20, 0.95, 0.975, 0.99])
#: Sampled states behind the calibration, and noises sampled beside each.
N_STATES, N_NOISES = 5, 10
#: A gene's own correction counts as much as the pooled one when it comes from so many spots.
SHRINKAGE_SPOTS = 60
#: Numbers of samples kept in memory at once; larger sections give every second spot, or every third.
MAX_SAMPLE_VALUES = 10**8


@dataclass(frozen=True)
class IntervalCalibration:
    """What turns a quantile of posterior samples into a calibrated one.

    ``clip(Q_q + shift_g(q) * unit_g)``: the quantile ``Q_q`` of the samples is moved by a correction for each gene and
    level. The unit is the gene's standard deviation over samples. The correction is a quantile of the conformity score
    ``(y - Q_q) / unit`` of measured values ``y`` on held-out tissue, at the finite-sample rank of conformal prediction.
    So a share ``q`` of them lies at or below the moved quantile. An added correction can leave the range of the
    samples; a remapping of levels cannot. Samples are often overconfident. A zero measured where the quantile
    is zero has score zero: at a bound of zero nothing is moved.

    A gene's correction is shrunk towards the one pooled over all genes, with weight ``n / (n + 60)`` for ``n`` held-out
    spots: nine tenths with three HER2ST sections.

    Attributes
    ----------
    levels
        ``(n_levels,)``, ascending, in (0, 1).
    shift
        ``(n_levels, n_genes)`` float32, in units of the standard deviation over samples.
    before, after
        ``(3, n_levels)`` shares of held-out values below the quantile, see :func:`flagst.metrics.share_below`: of the
        samples, and moved by a correction fitted on the *other* sections (with one or two, the other three quarters).
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

    def move(self, samples: np.ndarray, quantiles: tuple[float, ...], *, unit: np.ndarray | None = None) -> np.ndarray:
        """Calibrated quantiles of posterior samples.

        Parameters
        ----------
        samples
            ``(n_samples, n_spots, n_genes)`` in the unit of the target.
        quantiles
            Levels in (0, 1).
        unit
            ``(n_genes,)`` from :func:`pooled_sd` of the whole section, where the samples are those of a part of it.

        Returns
        -------
        ``(n_quantiles, n_spots, n_genes)`` float32, 0 or more, not crossing.
        """
        unit = pooled_sd([samples]) if unit is None else unit
        return _moved(sample_quantiles(samples, quantiles), unit, self.levels, self.shift, quantiles)

    def record(self, quantiles: tuple[float, ...]) -> dict:
        """Plain types for ``uns``."""
        outer = {"interval_before": self._inside(self.before, quantiles)}
        outer["interval_after"] = self._inside(self.after, quantiles)
        return (outer if len(quantiles) > 1 else {}) | {
            "calibrated": True,
            "levels": [float(q) for q in quantiles],
            "share_before": np.interp(quantiles, self.levels, self.before[1]).tolist(),
            "share_after": np.interp(quantiles, self.levels, self.after[1]).tolist(),
            "definition": "of held-out values, pooled over genes: share below each quantile, ties at zero in "
            "expectation, and share from the lowest quantile to the highest, bounds included",
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
            f"quantiles are calibrated from {low:g} to {high:g}; got {beyond}. Unmodified "
            "quantiles, further out, can be taken from model.sample(adata, n_samples)."
        )


UNCALIBRATED = (
    "Quantiles are those of the samples, not calibrated: nothing was held out in training. Samples are often "
    "overconfident. "
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


def calibrate_intervals(parts: list[tuple[SectionSampler, np.ndarray]]) -> IntervalCalibration | None:
    """Fit the correction on held-out tissue.

    Parameters
    ----------
    parts
        From :func:`flagst.sampling.held_out.held_out_samplers`.

    Returns
    -------
    The calibration, ``None`` without held-out tissue.
    """
    if not parts:
        return None
    names = list(dict.fromkeys(sampler.section.name for sampler, _ in parts))
    samples, measured, block = [], [], []
    for sampler, rows in parts:
        step = -(-len(rows) * sampler.n_genes * N_STATES * N_NOISES // (MAX_SAMPLE_VALUES // len(parts)))
        kept = rows[::step]
        # one by one: all samples of a large section would not fit in memory
        one_by_one = sampler.whole().resampled(N_STATES, N_NOISES, "intervals")
        samples.append(np.stack([sample[kept] for sample in one_by_one]))
        measured.append(sampler.section.target[kept])
        # what the correction is checked on: left-out sections, or quarters where there are too few of them
        if len(names) >= MIN_SECTIONS:
            block.append(np.full(len(kept), names.index(sampler.section.name)))
        else:
            block.append(cross_fitting_folds(np.zeros(len(kept)), sampler.section.coords[kept]))
    curves = np.concatenate([sample_quantiles(part, LEVELS) for part in samples], axis=1)
    units = np.concatenate([np.broadcast_to(pooled_sd([part]), part.shape[1:]) for part in samples])
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


def _fit(curves: np.ndarray, units: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Correction per level and gene, ``(n_levels, n_genes)`` float32, shrunk towards the pooled one."""
    inverse = np.where(units > 0, 1 / np.where(units > 0, units, 1), 0)  # equal samples: nothing to move
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
    """Quantiles of samples with the correction, never negative, never crossing."""
    by_gene = np.stack([np.interp(quantiles, levels, column) for column in shift.T], axis=1)
    moved = np.clip(curves + by_gene[:, None, :] * units, 0, None).astype(np.float32)
    order = np.argsort(quantiles)
    moved[order] = np.sort(moved, axis=0)
    return moved
