"""FLAG's regression mean: ridge, improved by kernel ridge where held-out folds say so."""

from dataclasses import dataclass

import numpy as np

from flagst.regression.ridge import RidgeRegression

KERNEL_ALPHAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
#: Exponents of the kernel at the median squared distance of the training spots.
WIDTHS = (0.3, 1.0, 3.0)
WEIGHTS = (0.0, 0.25, 0.5, 0.75)
MAX_LANDMARKS = 1000


@dataclass(frozen=True)
class KernelFeatures:
    """Nystroem features of a Gaussian kernel; exact while there are at most 1,000 training spots.

    Attributes
    ----------
    landmarks
        ``(n_landmarks, d)``.
    projection
        ``(n_landmarks, n_landmarks)`` inverse square root of their kernel matrix.
    precision
        Kernel is ``exp(-precision * squared distance)``.
    usual_gap
        95th percentile over the landmarks of the kernel variance that all others leave unexplained.

    Examples
    --------
    >>> from flagst.regression import KernelFeatures
    >>> design = np.random.default_rng(0).normal(size=(50, 3))
    >>> kernel = KernelFeatures.fit(design)
    >>> kernel.transform(design).shape
    (50, 50)
    """

    landmarks: np.ndarray
    projection: np.ndarray
    precision: float
    usual_gap: float

    @classmethod
    def fit(cls, design: np.ndarray, *, width: float = 1.0) -> "KernelFeatures":
        """``width`` is the exponent at the median squared distance of the training spots.

        Examples
        --------
        >>> from flagst.regression import KernelFeatures
        >>> design = np.random.default_rng(0).normal(size=(50, 3))
        >>> kernel = KernelFeatures.fit(design)
        >>> kernel.landmarks.shape
        (50, 3)
        """
        rng = np.random.default_rng(0)
        keep = np.sort(rng.permutation(len(design))[:MAX_LANDMARKS])
        landmarks = design[keep]
        squared = _squared_distances(landmarks, landmarks)
        precision = width / max(float(np.median(squared)), 1e-12)
        values, axes = np.linalg.eigh(np.exp(-precision * squared))
        inverse_root = np.where(values > 1e-8 * values.max(), 1 / np.sqrt(np.clip(values, 1e-300, None)), 0)
        projection = (axes * inverse_root) @ axes.T
        # leave-one-out variance of a Gaussian process: 1 over the diagonal of the inverse kernel matrix
        gap = 1 / np.maximum((projection**2).sum(axis=1), 1.0)
        return cls(landmarks, projection, precision, float(np.quantile(gap, 0.95)))

    def transform(self, design: np.ndarray) -> np.ndarray:
        """``(n_spots, d) -> (n_spots, n_landmarks)``.

        Examples
        --------
        >>> from flagst.regression import KernelFeatures
        >>> design = np.random.default_rng(0).normal(size=(50, 3))
        >>> kernel = KernelFeatures.fit(design)
        >>> kernel.transform(design[:4]).shape
        (4, 50)
        """
        return np.exp(-self.precision * _squared_distances(design, self.landmarks)) @ self.projection

    def weight(self, features: np.ndarray) -> np.ndarray:
        """Weight of kernel ridge at a spot, ``(n_spots, 1)`` from 0 to 1.

        With ``g`` the part of a spot's kernel variance that the landmarks do not explain: ``(1 - g) / g``, divided by
        the same ratio at ``usual_gap``, and at most 1. A spot that is as near to the landmarks as they are to each
        other has weight 1. A spot that no landmark reaches has weight 0: there a Gaussian kernel falls back to the
        mean, and ridge still extrapolates.

        Examples
        --------
        >>> from flagst.regression import KernelFeatures
        >>> design = np.random.default_rng(0).normal(size=(50, 3))
        >>> kernel = KernelFeatures.fit(design)
        >>> kernel.weight(kernel.transform(np.full((1, 3), 1e3)))
        array([[0.]])
        """
        explained = np.clip((features**2).sum(axis=1, keepdims=True), 0, 1)
        ours, usual = explained * self.usual_gap, (1 - explained) * (1 - self.usual_gap)
        return ours / np.maximum(np.maximum(ours, usual), 1e-300)


@dataclass(frozen=True)
class RegressionMean:
    """Convex mix of ridge and kernel ridge on the same context features.

    Penalties, the width of the kernel and the weight of its part are chosen on held-out folds. The
    weight may be zero. It falls where a spot is far from the training spots (:meth:`KernelFeatures.weight`), so that on
    out-of-distribution tissue the mean is that of ridge.

    Attributes
    ----------
    ridge, kernel_ridge
        The two regressions.
    kernel
        Features of the second one.
    weight
        Share of the second one, in [0, 0.75].

    Examples
    --------
    >>> from flagst.regression import RegressionMean
    >>> rng = np.random.default_rng(0)
    >>> design = rng.normal(size=(60, 4))
    >>> target = design @ rng.normal(size=(4, 3))
    >>> folds = np.arange(60) % 3
    >>> fitted, cross_fitted = RegressionMean.fit(design, target, folds)
    >>> np.corrcoef(fitted.predict(design).ravel(), target.ravel())[0, 1].round(1)
    np.float64(1.0)
    """

    ridge: RidgeRegression
    kernel_ridge: RidgeRegression
    kernel: KernelFeatures
    weight: float

    @classmethod
    def fit(cls, design: np.ndarray, target: np.ndarray, folds: np.ndarray) -> tuple["RegressionMean", np.ndarray]:
        """Arguments and return value as in :meth:`RidgeRegression.fit`.

        Examples
        --------
        >>> from flagst.regression import RegressionMean
        >>> rng = np.random.default_rng(0)
        >>> design = rng.normal(size=(60, 4))
        >>> target = design @ rng.normal(size=(4, 3))
        >>> folds = np.arange(60) % 3
        >>> fitted, cross_fitted = RegressionMean.fit(design, target, folds)
        >>> cross_fitted.shape
        (60, 3)
        """
        ridge, linear = RidgeRegression.fit(design, target, folds)
        lowest, chosen = np.inf, None
        for width in WIDTHS:
            kernel = KernelFeatures.fit(design, width=width)
            features = kernel.transform(design)
            kernel_ridge, smooth = RidgeRegression.fit(features, target, folds, alphas=KERNEL_ALPHAS)
            for weight in WEIGHTS:
                mixed = linear + weight * (smooth - linear)
                error = ((mixed - target) ** 2).mean()
                if error < lowest:
                    lowest, chosen = error, (kernel_ridge, kernel, weight, mixed)
        kernel_ridge, kernel, weight, mixed = chosen
        return cls(ridge, kernel_ridge, kernel, weight), mixed

    def predict(self, design: np.ndarray) -> np.ndarray:
        """``(n_spots, d) -> (n_spots, n_genes)``, standardised units.

        Examples
        --------
        >>> from flagst.regression import RegressionMean
        >>> rng = np.random.default_rng(0)
        >>> design = rng.normal(size=(60, 4))
        >>> target = design @ rng.normal(size=(4, 3))
        >>> folds = np.arange(60) % 3
        >>> fitted, _ = RegressionMean.fit(design, target, folds)
        >>> fitted.predict(design[:2]).shape
        (2, 3)
        """
        linear = self.ridge.predict(design)
        if self.weight == 0:
            return linear
        features = self.kernel.transform(design)
        smooth = self.kernel_ridge.predict(features)
        return linear + self.weight * self.kernel.weight(features) * (smooth - linear)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.clip(squared, 0, None)
