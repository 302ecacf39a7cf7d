"""Everything before the diffusion: scaling, context features, regression mean, cross-fitting."""

from dataclasses import dataclass

import numpy as np

from flagst.regression.context import NEIGHBOURHOODS, ContextFeatures
from flagst.regression.folds import cross_fitting_folds
from flagst.regression.mean import RegressionMean
from flagst.regression.ridge import RidgeRegression
from flagst.regression.scaler import TargetScaler

REGRESSIONS = {"ridge": RidgeRegression, "mixed": RegressionMean}


@dataclass(frozen=True)
class RegressionStage:
    """A fitted mean with the scaling and the features it needs.

    Attributes
    ----------
    scaler, context, mean
        Fitted parts; ``mean`` maps context features to standardised targets.
    """

    scaler: TargetScaler
    context: ContextFeatures
    mean: RidgeRegression | RegressionMean

    @classmethod
    def fit(
        cls,
        images: list[np.ndarray],
        neighbours: list[np.ndarray],
        coords: list[np.ndarray],
        targets: list[np.ndarray],
        *,
        regression: str = "mixed",
        neighbourhoods: tuple[int, ...] = NEIGHBOURHOODS,
    ) -> tuple["RegressionStage", np.ndarray]:
        """Fit on training sections, one list entry each.

        Parameters
        ----------
        images
            ``(n_spots, d_image)``.
        neighbours
            ``(n_spots, k)``, nearest first.
        coords
            ``(n_spots, 2)``, for spatial blocks when there are fewer than three sections.
        targets
            ``(n_spots, n_genes)``.
        regression
            ``"ridge"``, or ``"mixed"`` for ridge with kernel ridge.
        neighbourhoods
            See :class:`ContextFeatures`.

        Returns
        -------
        The stage and the cross-fitted standardised means, ``(n_spots, n_genes)`` over all sections
        in order: every spot predicted by a fit that has not seen its fold.
        """
        target = np.concatenate(targets)
        scaler = TargetScaler.fit(target)
        context = ContextFeatures.fit(images, neighbours, neighbourhoods=neighbourhoods)
        design = np.concatenate([context.transform(i, n) for i, n in zip(images, neighbours, strict=True)])
        section = np.repeat(np.arange(len(targets)), [len(t) for t in targets])
        folds = cross_fitting_folds(section, np.concatenate(coords))
        mean, cross_fitted = REGRESSIONS[regression].fit(design, scaler.standardise(target), folds)
        return cls(scaler, context, mean), cross_fitted

    def predict(self, image: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        """Standardised mean of one whole section, ``(n_spots, n_genes)``."""
        return self.mean.predict(self.context.transform(image, neighbours))

    def predict_rows(
        self, image: np.ndarray, neighbours: np.ndarray, rows: np.ndarray, centre: np.ndarray
    ) -> np.ndarray:
        """Those rows of :meth:`predict`, see :meth:`ContextFeatures.transform_rows`."""
        return self.mean.predict(self.context.transform_rows(image, neighbours, rows, centre))
