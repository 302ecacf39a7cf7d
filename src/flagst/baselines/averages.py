"""Averages of training spots: of all of them, and of those with similar images."""

from typing import TYPE_CHECKING

import numpy as np

from flagst.baselines._base import Baseline, BaselineSetup
from flagst.data.sections import Section, stack_targets
from flagst.regression import ContextFeatures

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

N_NEAREST = 20
#: Spots whose distances to all training spots are held at once.
BLOCK = 1024


class Mean(Baseline):
    """Mean of every gene over the training spots, the same for every spot.

    Its correlations are 0 by definition. Its squared error is what it costs to know nothing about a spot.
    ``structure`` and ``seed`` are ignored.

    Parameters
    ----------
    adata, target, setup
        Training table with image features ``(n_spots, d_image)``, and the rest as in
        :class:`flagst.baselines.Ridge`.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :class:`flagst.baselines.Ridge`.

    Examples
    --------
    >>> mean = flagst.baselines.Mean(adata, target="log2")
    >>> mean.train()
    >>> values = mean.predict(adata.copy()).layers["flagst"]
    >>> bool((values == values[0]).all())
    True
    """

    def _fit(self, sections: list[Section]) -> None:
        self.mean_ = stack_targets(sections).mean(axis=0, dtype=np.float64)

    def _predict_section(self, section: Section, *, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.tile(self.mean_, (len(section), 1))
        return values, values


class KNN(Baseline):
    """Mean expression of the training spots with the most similar images.

    Distances are those of FLAG's context features: the image features of a spot and of its surroundings, on principal
    components. ``structure`` and ``seed`` are ignored.

    Parameters
    ----------
    adata, target, setup
        Training table with image features ``(n_spots, d_image)``, and the rest as in
        :class:`flagst.baselines.Ridge`.
    n_nearest
        Training spots that are averaged; all of them where there are fewer.

    Raises
    ------
    KeyError, TypeError
        See :class:`flagst.baselines.Ridge`.
    ValueError
        ``n_nearest`` is below 1; otherwise see :class:`flagst.baselines.Ridge`.

    Examples
    --------
    >>> knn = flagst.baselines.KNN(adata, n_nearest=10)
    >>> knn.train()
    >>> knn.predict(adata.copy()).layers["flagst"].shape == adata.shape
    True
    """

    def __init__(
        self,
        adata: "AnnData | SpatialData",
        *,
        target: str = "lognorm",
        n_nearest: int = N_NEAREST,
        setup: BaselineSetup | None = None,
    ):
        super().__init__(adata, target=target, setup=setup)
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
