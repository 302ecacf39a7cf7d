"""From the mean and sampled residuals of some spots to predictions of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np


class SpotSamples(ABC):
    """Predictions of some spots of a section.

    Attributes
    ----------
    mean
        ``(n_spots, n_genes)`` standardised mean.
    n_average
        Without a residual around the mean: samples of the target that are averaged into a prediction; else ``None``.
    """

    mean: np.ndarray
    n_average: int | None = None

    @abstractmethod
    def restore(self, standardised: np.ndarray) -> np.ndarray:
        """Standardised values ``(n_spots, n_genes)`` to the unit of the target."""

    @abstractmethod
    def residuals(self, n_samples: int, seed: int | str) -> list[np.ndarray]:
        """Sampled residuals, each ``(n_spots, n_genes)`` standardised; states where there is no residual."""

    def interval_unit(self, n_samples: int, seed: int | str) -> np.ndarray | None:
        """``(n_genes,)`` of the whole section when these spots are not all of it, see :func:`pooled_sd`."""
        return None

    def predict(self, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Prediction and mean, each ``(n_spots, n_genes)`` float32 in the unit of the target.

        The prediction is ``clip(m + structure * (d - m))``, with one posterior sample ``d`` and the mean ``m``. Without
        a regression mean both are the average of ``n_average`` samples.
        """
        if self.n_average is not None:
            average = self.samples(self.n_average, seed).mean(axis=0)
            return average, average
        mean = self.restore(self.mean).astype(np.float32)
        return (self._moved(structure, self.residuals(1, seed))[0] if structure > 0 else mean), mean

    def along(self, structures: Iterable[float], n_samples: int, seed: int | str) -> Iterator[tuple[float, np.ndarray]]:
        """Each structure with its predictions ``(n_samples, n_spots, n_genes)``, of residuals that are sampled once.

        Structure 0 has one prediction, the mean. Without a regression mean there is one prediction, and NaN for its
        structure.
        """
        if self.n_average is not None:
            yield np.nan, self.predict(1.0, seed)[0][None]
            return
        residuals = self.residuals(n_samples, seed)
        for structure in structures:
            yield structure, self._moved(structure, residuals if structure > 0 else residuals[:1])

    def samples(self, n_samples: int, seed: int | str) -> np.ndarray:
        """Posterior samples, ``(n_samples, n_spots, n_genes)`` float32 in the unit of the target."""
        residuals = self.residuals(n_samples, seed)
        return self._moved(1.0, residuals) if self.n_average is None else np.clip(np.stack(residuals), 0, None)

    def _moved(self, structure: float, residuals: list[np.ndarray]) -> np.ndarray:
        return np.stack([self.restore(self.mean + structure * r).astype(np.float32) for r in residuals])


def sample_quantiles(samples: np.ndarray, quantiles) -> np.ndarray:
    """Quantiles ``(n_quantiles, n_spots, n_genes)`` float32 of samples ``(n_samples, n_spots, n_genes)``.

    The k-th of n samples is the quantile k / (n + 1), so that the number of samples hardly matters.
    """
    return np.quantile(samples, quantiles, axis=0, method="weibull").astype(np.float32)


def pooled_sd(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Root mean square over spots of each gene's standard deviation over samples, ``(n_genes,)`` float32.

    One number per gene: where all samples are clipped at zero, a spot has no standard deviation of its own.

    Parameters
    ----------
    parts
        Samples ``(n_samples, n_part, n_genes)`` of parts of a section.
    """
    total, n_spots = 0.0, 0
    for samples in parts:
        total = total + samples.var(axis=0, ddof=1, dtype=np.float64).sum(axis=0)
        n_spots += samples.shape[1]
    return np.sqrt(total / n_spots).astype(np.float32)
