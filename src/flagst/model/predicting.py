"""From a section to draws: mean, noise, solver, decoding."""

import numpy as np
import torch
from torch import Tensor

from flagst.data.section import Section
from flagst.model.fitting import Fitted, network_inputs
from flagst.data.noise import spot_noise
from flagst.model.presets import Settings
from flagst.model.threads import threads_for
from flagst.module import FlagModule


class SectionPredictor:
    """Everything a prediction of one section needs; the context is encoded once per call of ``draws``.

    Parameters
    ----------
    section
        Whole section, expression not needed.
    fitted, settings, module
        Parts of a trained model.
    mean
        ``(n_spots, n_genes)`` standardised mean; ``None`` predicts it. In training it is the
        cross-fitted one.
    """

    def __init__(
        self,
        section: Section,
        fitted: Fitted,
        settings: Settings,
        module: FlagModule,
        *,
        mean: np.ndarray | None = None,
    ):
        self.section, self.fitted, self.settings, self.module = section, fitted, settings, module
        self.mean = fitted.stage.predict(section.image, section.neighbours) if mean is None else mean
        self.inputs = network_inputs(section, fitted, self.mean, settings, module.d_image)
        self.d_state = settings.n_latent if settings.denoiser == "latent" else self.mean.shape[1]

    def context(self) -> np.ndarray:
        """Spatial context H, ``(n_spots, d_context)`` float32."""
        return self.module.context(self.inputs).cpu().numpy()

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

    def moved(self, structure: float, n_draws: int, seed: int) -> np.ndarray:
        """``m + structure * (d - m)`` for several draws, ``(n_draws, n_spots, n_genes)`` float32."""
        restore = self.fitted.stage.scaler.restore
        residuals = (self.fitted.residual.decode(*drawn) for drawn in self.states(n_draws, seed))
        return np.stack([restore(self.mean + structure * r).astype(np.float32) for r in residuals])

    def draws(self, n_draws: int, seed: int) -> np.ndarray:
        """Full draws, ``(n_draws, n_spots, n_genes)`` float32 in the unit of the target."""
        if self.fitted.residual is None:
            noise = torch.as_tensor(np.stack([z for z, _ in self._noise(n_draws, seed)]))
            return np.clip(self._solve(noise).numpy(), 0, None)
        return self.moved(1.0, n_draws, seed)

    def states(self, n_draws: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Drawn states ``(n_spots, n_latent)`` with the gene noise ``(n_spots, n_genes)`` beside them."""
        noise = self._noise(n_draws, seed)
        start = np.stack([z for z, _ in noise])
        states = self._solve(torch.as_tensor(start)).numpy() if self.settings.diffusion else start
        n_latent = len(self.fitted.residual.sd)
        return [(state[:, :n_latent], e) for state, (_, e) in zip(states, noise, strict=True)]

    def _noise(self, n_draws: int, seed: int) -> list[list[np.ndarray]]:
        """Starting noise and gene noise of every draw."""
        widths = (self.d_state, self.mean.shape[1])
        names = self.section.spot_names
        return [spot_noise(self.section.name, names, seed=f"{seed}/{i}", widths=widths) for i in range(n_draws)]

    def _solve(self, noise: Tensor) -> Tensor:
        with threads_for(len(self.section)):
            return self.module.draw(self.inputs, noise, solver=self.settings.solver, n_steps=self.settings.n_steps)


def predict_layers(
    predictors: list[tuple[np.ndarray, SectionPredictor]], *, structure: float, seed: int, n_std: int
) -> dict[str, np.ndarray]:
    """Prediction, mean and, over ``n_std`` full draws (0: none), standard deviation of all sections.

    Parameters
    ----------
    predictors
        Rows and predictor of every section.

    Returns
    -------
    ``draw``, ``mean`` and maybe ``std``, each ``(n_spots, n_genes)`` float32.
    """
    shape = sum(len(rows) for rows, _ in predictors), predictors[0][1].mean.shape[1]
    out = {name: np.empty(shape, np.float32) for name in (("draw", "mean", "std") if n_std else ("draw", "mean"))}
    for rows, predictor in predictors:
        out["draw"][rows], out["mean"][rows] = predictor.predict(structure, seed)
        if n_std:
            out["std"][rows] = predictor.draws(n_std, seed).std(axis=0, ddof=1)
    return out
