"""From the mean and the drawn residual of some spots to predictions of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np

from flagst.model.fitting import Fitted
from flagst.model.presets import Settings


class SpotPredictor(ABC):
    """Predictions of the spots of a section, or of a part of it.

    Attributes
    ----------
    section_name, spot_names
        Their section, and ``(n_spots,)`` str.
    mean
        ``(n_spots, n_genes)`` standardised.
    fitted, settings
        Parts of a trained model.
    """

    section_name: str
    spot_names: np.ndarray
    mean: np.ndarray
    fitted: Fitted
    settings: Settings

    @abstractmethod
    def residuals(self, n_draws: int, seed: int | str) -> list[np.ndarray]:
        """Residuals of several draws, each ``(n_spots, n_genes)`` standardised."""

    @abstractmethod
    def diffused(self, n_draws: int, seed: int | str) -> np.ndarray:
        """What the diffusion gives in several draws, ``(n_draws, n_spots, d_state)`` float32."""

    def spread(self, n_draws: int, seed: int | str) -> np.ndarray | None:
        """Spread of the section's draws, ``(n_genes,)``, when these spots are not all of it, see
        :func:`flagst.model.intervals.spread`."""
        return None

    def predict(self, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Prediction and mean, each ``(n_spots, n_genes)`` float32 in the unit of the target.

        ``clip(m + structure * (d - m))``: one draw ``d`` around the fitted mean ``m``. Without a
        regression mean both are the average of ``n_average`` draws.
        """
        if self.fitted.residual is None:
            average = self.draws(self.settings.n_average, seed).mean(axis=0)
            return average, average
        mean = self.fitted.stage.scaler.restore(self.mean).astype(np.float32)
        return (self.moved(structure, 1, seed)[0] if structure > 0 else mean), mean

    def moved(self, structure: float, n_draws: int, seed: int | str) -> np.ndarray:
        """``m + structure * (d - m)`` for several draws, ``(n_draws, n_spots, n_genes)`` float32."""
        return self._move(structure, self.residuals(n_draws, seed))

    def along(self, structures: Iterable[float], n_draws: int, seed: int | str) -> Iterator[tuple[float, np.ndarray]]:
        """Each structure with its predictions ``(n_draws, n_spots, n_genes)``, of draws that are made once.

        Structure 0 has one prediction, the mean. Without a regression mean there is no dial: one
        prediction, and NaN for its structure.
        """
        if self.fitted.residual is None:
            yield np.nan, self.predict(1.0, seed)[0][None]
            return
        residuals = self.residuals(n_draws, seed)
        for structure in structures:
            yield structure, self._move(structure, residuals if structure > 0 else residuals[:1])

    def draws(self, n_draws: int, seed: int | str) -> np.ndarray:
        """Full draws, ``(n_draws, n_spots, n_genes)`` float32 in the unit of the target."""
        if self.fitted.residual is None:
            return np.clip(self.diffused(n_draws, seed), 0, None)
        return self.moved(1.0, n_draws, seed)

    def _move(self, structure: float, residuals: list[np.ndarray]) -> np.ndarray:
        restore = self.fitted.stage.scaler.restore
        return np.stack([restore(self.mean + structure * r).astype(np.float32) for r in residuals])
