"""Whether the tissue of a spot is out of distribution: far from that of the training images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flagst.data.sections import Section
from flagst.regression import cross_fitting_folds, principal_axes

if TYPE_CHECKING:
    from flagst.sampling.sampler import SectionSampler

N_COMPONENTS = 30
#: Share of left-out training spots that are nearer than the unit of the score.
USUAL = 0.95
#: Spots whose features are scaled at a time.
SPOTS_AT_ONCE = 8192
#: Smallest mean squared distance from the plane, per feature: less is rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class OutOfDistribution:
    """Distance of image features from those of the training spots.

    Features are centred and scaled by the *training* spots, and not per section as for the mean and the network: that
    would hide what is unusual about a whole slide. The squared distance is the mean of two parts, each divided by its
    mean over the training spots. The first is within the plane of the leading principal components, scaled by their
    variances (Hotelling's T2): it finds extreme values. The second is off the plane (the squared prediction error): it
    finds combinations of features that no training spot has.

    The unit is the 95th percentile of the distance over training spots whose section (or block, with one or two
    sections) was left out of the fit. Above 1, a spot is further away than 95 % of the spots of a left-out training
    section.

    Attributes
    ----------
    centre, scale
        ``(d_image,)`` mean and standard deviation of the training features; 1 for constant ones.
    axes, sd
        ``(n_components, d_image)`` orthonormal axes, and the standard deviation ``(n_components,)`` along them.
    remainder
        Mean squared distance of the training spots from the plane, at least 1e-6 per feature. Infinite where the plane
        has as many dimensions as there are features, or as the training spots can have.
    usual
        Distance that is the unit of :meth:`score`.

    Source
    ------
    T2 and squared prediction error of principal components: Jackson and Mudholkar, Technometrics 1979. Their mean,
    and the unit from left-out sections, are ours.
    """

    centre: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    sd: np.ndarray
    remainder: float
    usual: float = 1.0

    @classmethod
    def fit(cls, sections: list[Section]) -> "OutOfDistribution":
        """Fit on training sections; the unit comes from leaving each of them out."""
        image = np.concatenate([s.image for s in sections]).astype(np.float64)
        names = np.repeat(np.arange(len(sections)), [len(s) for s in sections])
        folds = cross_fitting_folds(names, np.concatenate([s.coords for s in sections]))
        left_out = np.empty(len(image))
        for fold in np.unique(folds):
            test = folds == fold
            left_out[test] = cls._of(image[~test], 1.0).score(image[test])
        return cls._of(image, float(np.quantile(left_out, USUAL)))

    @classmethod
    def _of(cls, image: np.ndarray, usual: float) -> "OutOfDistribution":
        scale = image.std(axis=0)
        scale = np.where(scale > 1e-8, scale, 1.0)
        centre = image.mean(axis=0)
        unit = (image - centre) / scale
        axes, sd = principal_axes(unit, N_COMPONENTS)
        remainder = max(float((unit**2).sum(axis=1).mean() - (sd**2).sum()), ROUNDING * len(scale))
        nothing_off = len(sd) >= min(len(scale), len(image) - 1)
        return cls(centre, scale, axes, sd, np.inf if nothing_off else remainder, usual)

    def score(self, image: np.ndarray) -> np.ndarray:
        """``(n_spots,)`` float64, 0 or more, from features ``(n_spots, d_image)``."""
        starts = range(0, max(len(image), 1), SPOTS_AT_ONCE)
        return np.concatenate([self._score(image[start : start + SPOTS_AT_ONCE]) for start in starts])

    def _score(self, image: np.ndarray) -> np.ndarray:
        unit = (image - self.centre) / self.scale
        along = unit @ self.axes.T
        squared = ((along / self.sd) ** 2).sum(axis=1) / max(len(self.sd), 1)
        if np.isfinite(self.remainder):
            off = (unit**2).sum(axis=1) - (along**2).sum(axis=1)
            squared = (squared + np.clip(off, 0, None) / self.remainder) / 2
        return np.sqrt(squared) / max(self.usual, 1e-12)


def query_scores(ood: OutOfDistribution, samplers: "list[tuple[np.ndarray, SectionSampler]]") -> np.ndarray:
    """Score of every spot of a query, ``(n_spots,)``, from rows and sampler of its sections."""
    out = np.empty(sum(len(rows) for rows, _ in samplers))
    for rows, sampler in samplers:
        out[rows] = ood.score(sampler.section.image)
    return out
