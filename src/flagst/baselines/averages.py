"""Averages of training spots: of all of them, and of those with similar tissue."""

import numpy as np

from flagst.baselines._base import Baseline
from flagst.data.sections import Section, stack_targets
from flagst.regression import ContextFeatures

N_NEAREST = 20
BLOCK = 1024


class Mean(Baseline):
    """Mean of every gene over the training spots, the same for every spot.

    ``structure`` and ``seed`` are ignored. Its correlations are 0 by definition; what it shows is the
    squared error that knowing nothing about a spot costs.

    Parameters
    ----------
    adata, target
        See :class:`flagst.baselines.Ridge`.
    """

    def _fit(self, sections: list[Section]) -> None:
        self.mean_ = stack_targets(sections).mean(axis=0, dtype=np.float64)

    def _predict_section(self, section: Section, *, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.tile(self.mean_, (len(section), 1))
        return values, values


class KNN(Baseline):
    """Mean expression of the training spots that look most alike.

    Alike means near in FLAG's context features: a spot's image features and those of its surroundings, on
    principal components. ``structure`` and ``seed`` are ignored.

    Parameters
    ----------
    adata, target
        See :class:`flagst.baselines.Ridge`.
    n_nearest
        Training spots averaged; with fewer training spots, all of them.

    Raises
    ------
    ValueError
        ``n_nearest`` is below 1.
    """

    def __init__(self, adata, *, target: str = "lognorm", n_nearest: int = N_NEAREST):
        super().__init__(adata, target=target)
        if n_nearest < 1:
            raise ValueError(f"n_nearest must be at least 1; got {n_nearest}.")
        self.n_nearest = n_nearest

    def _fit(self, sections: list[Section]) -> None:
        self.context_ = ContextFeatures.fit([s.image for s in sections], [s.neighbours for s in sections])
        self.design_ = np.concatenate([self.context_.transform(s.image, s.neighbours) for s in sections])
        self.values_ = stack_targets(sections)

    def _predict_section(self, section: Section, *, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        design = self.context_.transform(section.image, section.neighbours)
        blocks = [design[start : start + BLOCK] for start in range(0, len(design), BLOCK)]
        nearest = np.concatenate([self._nearest(block) for block in blocks])
        total = np.zeros((len(section), self.values_.shape[1]))
        # neighbour by neighbour, as (n_spots, n_nearest, n_genes) would not fit for many genes
        for column in nearest.T:
            total += self.values_[column]
        values = total / nearest.shape[1]
        return values, values

    def _nearest(self, design: np.ndarray) -> np.ndarray:
        """``(n_spots, n_nearest)`` rows of the nearest training spots."""
        squared = (self.design_**2).sum(axis=1) - 2 * design @ self.design_.T
        return np.argsort(squared, axis=1, kind="stable")[:, : self.n_nearest]
