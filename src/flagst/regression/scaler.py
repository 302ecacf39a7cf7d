"""Standardisation of the target, gene by gene."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TargetScaler:
    """Mean and standard deviation of every gene over the training spots.

    Attributes
    ----------
    mean, sd
        ``(n_genes,)`` float64, in the unit of the target. Constant genes get ``sd`` 1.
    """

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def fit(cls, target: np.ndarray) -> "TargetScaler":
        """``target: (n_spots, n_genes)``."""
        sd = target.std(axis=0, dtype=np.float64)
        return cls(mean=target.mean(axis=0, dtype=np.float64), sd=np.where(sd > 1e-8, sd, 1.0))

    def standardise(self, target: np.ndarray) -> np.ndarray:
        """Target to standardised units."""
        return (target - self.mean) / self.sd

    def restore(self, standardised: np.ndarray, genes: slice = slice(None)) -> np.ndarray:
        """Standardised units of these genes to target, clipped at 0 as every target of flagst is non-negative."""
        return np.clip(standardised * self.sd[genes] + self.mean[genes], 0, None)
