"""FLAG's regression mean: ridge, improved by kernel ridge where held-out folds say so."""

from dataclasses import dataclass

import numpy as np

from flagst.regression.ridge import RidgeRegression

KERNEL_ALPHAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
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
    """

    landmarks: np.ndarray
    projection: np.ndarray
    precision: float

    @classmethod
    def fit(cls, design: np.ndarray, *, width: float = 0.3) -> "KernelFeatures":
        """``width`` is the exponent at the median squared distance of the training spots."""
        rng = np.random.default_rng(0)
        keep = np.sort(rng.permutation(len(design))[:MAX_LANDMARKS])
        landmarks = design[keep]
        squared = _squared_distances(landmarks, landmarks)
        precision = width / max(float(np.median(squared)), 1e-12)
        values, axes = np.linalg.eigh(np.exp(-precision * squared))
        inverse_root = np.where(values > 1e-8 * values.max(), 1 / np.sqrt(np.clip(values, 1e-300, None)), 0)
        return cls(landmarks, (axes * inverse_root) @ axes.T, precision)

    def transform(self, design: np.ndarray) -> np.ndarray:
        """``(n_spots, d) -> (n_spots, n_landmarks)``."""
        return np.exp(-self.precision * _squared_distances(design, self.landmarks)) @ self.projection


@dataclass(frozen=True)
class RegressionMean:
    """Convex mix of ridge and kernel ridge on the same context features.

    The weight of the kernel part is chosen on held-out folds and may be zero, so that the mean
    trails ridge only by chance.

    Attributes
    ----------
    ridge, kernel_ridge
        The two regressions.
    kernel
        Features of the second one.
    weight
        Share of the second one, in [0, 0.75].
    """

    ridge: RidgeRegression
    kernel_ridge: RidgeRegression
    kernel: KernelFeatures
    weight: float

    @classmethod
    def fit(
        cls, design: np.ndarray, target: np.ndarray, folds: np.ndarray
    ) -> tuple["RegressionMean", np.ndarray]:
        """Arguments and return value as in :meth:`RidgeRegression.fit`."""
        ridge, linear = RidgeRegression.fit(design, target, folds)
        kernel = KernelFeatures.fit(design)
        kernel_ridge, smooth = RidgeRegression.fit(kernel.transform(design), target, folds, alphas=KERNEL_ALPHAS)
        errors = [((linear + w * (smooth - linear) - target) ** 2).mean() for w in WEIGHTS]
        weight = WEIGHTS[int(np.argmin(errors))]
        return cls(ridge, kernel_ridge, kernel, weight), linear + weight * (smooth - linear)

    def predict(self, design: np.ndarray) -> np.ndarray:
        """``(n_spots, d) -> (n_spots, n_genes)``, standardised units."""
        linear = self.ridge.predict(design)
        if self.weight == 0:
            return linear
        smooth = self.kernel_ridge.predict(self.kernel.transform(design))
        return linear + self.weight * (smooth - linear)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.clip(squared, 0, None)
