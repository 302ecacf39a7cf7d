"""Ridge regression with its penalty chosen on held-out folds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ALPHAS = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4)


@dataclass(frozen=True)
class RidgeRegression:
    """Linear map with an unpenalised intercept.

    Attributes
    ----------
    alpha
        Chosen penalty.
    centre
        ``(d,)`` mean of the training design.
    coef
        ``(d, n_genes)``.
    intercept
        ``(n_genes,)``.

    Examples
    --------
    >>> from flagst.regression import RidgeRegression
    >>> rng = np.random.default_rng(0)
    >>> design = rng.normal(size=(60, 4))
    >>> target = design @ rng.normal(size=(4, 3))
    >>> folds = np.arange(60) % 3
    >>> fitted, cross_fitted = RidgeRegression.fit(design, target, folds)
    >>> np.corrcoef(fitted.predict(design).ravel(), target.ravel())[0, 1].round(1)
    np.float64(1.0)
    """

    alpha: float
    centre: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray

    @classmethod
    def fit(
        cls, design: np.ndarray, target: np.ndarray, folds: np.ndarray, *, alphas: tuple[float, ...] = ALPHAS
    ) -> tuple["RidgeRegression", np.ndarray]:
        """Choose the penalty by squared error on held-out folds, then fit on everything.

        Parameters
        ----------
        design
            ``(n_spots, d)``.
        target
            ``(n_spots, n_genes)`` standardised.
        folds
            ``(n_spots,)`` int; a fold is predicted by a fit on all others.
        alphas
            Penalties to try.

        Returns
        -------
        The fitted regression and the ``(n_spots, n_genes)`` cross-fitted predictions at its penalty.

        Examples
        --------
        >>> from flagst.regression import RidgeRegression
        >>> rng = np.random.default_rng(0)
        >>> design = rng.normal(size=(60, 4))
        >>> target = design @ rng.normal(size=(4, 3))
        >>> folds = np.arange(60) % 3
        >>> fitted, cross_fitted = RidgeRegression.fit(design, target, folds)
        >>> cross_fitted.shape
        (60, 3)
        """
        held_out = np.zeros((len(alphas), *target.shape), dtype=np.float32)
        for fold in np.unique(folds):
            test = folds == fold
            for row, (centre, coef, intercept) in enumerate(_solve(design[~test], target[~test], alphas)):
                held_out[row, test] = (design[test] - centre) @ coef + intercept
        errors = [((prediction - target) ** 2).mean() for prediction in held_out]
        best = int(np.argmin(errors))
        [(centre, coef, intercept)] = _solve(design, target, (alphas[best],))
        return cls(float(alphas[best]), centre, coef, intercept), held_out[best].astype(np.float64)

    def predict(self, design: np.ndarray) -> np.ndarray:
        """``(n_spots, d) -> (n_spots, n_genes)``.

        Examples
        --------
        >>> from flagst.regression import RidgeRegression
        >>> rng = np.random.default_rng(0)
        >>> design = rng.normal(size=(60, 4))
        >>> target = design @ rng.normal(size=(4, 3))
        >>> folds = np.arange(60) % 3
        >>> fitted, _ = RidgeRegression.fit(design, target, folds)
        >>> fitted.predict(design[:2]).shape
        (2, 3)
        """
        return (design - self.centre) @ self.coef + self.intercept


def _solve(design: np.ndarray, target: np.ndarray, alphas: tuple[float, ...]) -> Iterator[tuple]:
    """Solutions for all penalties, one after the other, from one eigendecomposition."""
    centre, intercept = design.mean(axis=0), target.mean(axis=0)
    centred = design - centre
    values, axes = np.linalg.eigh(centred.T @ centred)
    projected = axes.T @ (centred.T @ (target - intercept))
    for alpha in alphas:
        yield centre, axes @ (projected / (np.clip(values, 0, None) + alpha)[:, None]), intercept
