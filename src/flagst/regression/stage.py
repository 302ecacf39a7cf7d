"""The regression mean from raw parts: scaling of the target, context features, cross-fitted regression."""

from dataclasses import dataclass

import numpy as np

from flagst.regression.features import NEIGHBOURHOODS, ContextFeatures
from flagst.regression.folds import cross_fitting_folds
from flagst.regression.mean import RegressionMean
from flagst.regression.ridge import RidgeRegression

REGRESSIONS = {"ridge": RidgeRegression, "mixed": RegressionMean}


@dataclass(frozen=True)
class TargetScaler:
    """Mean and standard deviation of every gene over the training spots.

    Attributes
    ----------
    mean, sd
        ``(n_genes,)`` float64, in the unit of the target. Constant genes get ``sd`` 1.

    Examples
    --------
    >>> from flagst.regression import TargetScaler
    >>> scaler = TargetScaler.fit(np.array([[0.0, 5.0], [2.0, 5.0]]))
    >>> scaler.mean, scaler.sd
    (array([1., 5.]), array([1., 1.]))
    """

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def fit(cls, target: np.ndarray) -> "TargetScaler":
        """``target: (n_spots, n_genes)``.

        Examples
        --------
        >>> from flagst.regression import TargetScaler
        >>> scaler = TargetScaler.fit(np.array([[0.0, 5.0], [2.0, 5.0]]))
        >>> scaler.mean
        array([1., 5.])
        """
        sd = target.std(axis=0, dtype=np.float64)
        return cls(mean=target.mean(axis=0, dtype=np.float64), sd=np.where(sd > 1e-8, sd, 1.0))

    def standardise(self, target: np.ndarray) -> np.ndarray:
        """Target ``(n_spots, n_genes)`` to standardised units.

        Examples
        --------
        >>> from flagst.regression import TargetScaler
        >>> scaler = TargetScaler.fit(np.array([[0.0, 5.0], [2.0, 5.0]]))
        >>> scaler.standardise(np.array([[2.0, 5.0]]))
        array([[1., 0.]])
        """
        return (target - self.mean) / self.sd

    def restore(self, standardised: np.ndarray, genes: slice = slice(None)) -> np.ndarray:
        """Standardised ``(n_spots, n_genes)`` of these genes to the target, clipped at 0: no target is negative.

        Examples
        --------
        >>> from flagst.regression import TargetScaler
        >>> scaler = TargetScaler.fit(np.array([[0.0, 5.0], [2.0, 5.0]]))
        >>> scaler.restore(np.array([[1.0, -9.0]]))
        array([[2., 0.]])
        """
        return np.clip(standardised * self.sd[genes] + self.mean[genes], 0, None)


@dataclass(frozen=True)
class RegressionStage:
    """A fitted mean with the scaling and the features it needs.

    Attributes
    ----------
    scaler, context, mean
        Fitted parts; ``mean`` maps context features to standardised targets.

    Examples
    --------
    >>> from flagst.regression import RegressionStage
    >>> import flagst.data.graph
    >>> rng = np.random.default_rng(0)
    >>> image, coords = rng.normal(size=(60, 6)), rng.uniform(size=(60, 2))
    >>> near = flagst.data.graph.knn(coords, 18)[0]
    >>> stage, mean = RegressionStage.fit([image], [near], [coords], [rng.uniform(size=(60, 3))])
    >>> mean.shape
    (60, 3)
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

        Examples
        --------
        >>> from flagst.regression import RegressionStage
        >>> import flagst.data.graph
        >>> rng = np.random.default_rng(0)
        >>> image, coords = rng.normal(size=(60, 6)), rng.uniform(size=(60, 2))
        >>> near = flagst.data.graph.knn(coords, 18)[0]
        >>> stage, mean = RegressionStage.fit([image], [near], [coords], [rng.uniform(size=(60, 3))])
        >>> stage.scaler.mean.shape
        (3,)
        """
        target = np.concatenate(targets)
        scaler = TargetScaler.fit(target)
        context = ContextFeatures.fit(images, neighbours, neighbourhoods=neighbourhoods)
        design = np.concatenate([context.transform(i, n) for i, n in zip(images, neighbours, strict=True)])
        section = np.repeat(np.arange(len(targets)), [len(t) for t in targets])
        folds = cross_fitting_folds(section, np.concatenate(coords))
        mean, cross_fitted = REGRESSIONS[regression].fit(design, scaler.standardise(target), folds)
        return cls(scaler, context, mean), cross_fitted

    def predict(
        self,
        image: np.ndarray,
        neighbours: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        centre: np.ndarray | None = None,
    ) -> np.ndarray:
        """Standardised mean of some spots of a section, ``(n_rows, n_genes)``; as :meth:`ContextFeatures.transform`.

        Examples
        --------
        >>> from flagst.regression import RegressionStage
        >>> import flagst.data.graph
        >>> rng = np.random.default_rng(0)
        >>> image, coords = rng.normal(size=(60, 6)), rng.uniform(size=(60, 2))
        >>> near = flagst.data.graph.knn(coords, 18)[0]
        >>> stage, mean = RegressionStage.fit([image], [near], [coords], [rng.uniform(size=(60, 3))])
        >>> stage.predict(image, near, rows=np.arange(5)).shape
        (5, 3)
        """
        return self.mean.predict(self.context.transform(image, neighbours, rows=rows, centre=centre))
