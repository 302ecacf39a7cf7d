"""From a section to draws: mean, noise, solver, decoding."""

from collections.abc import Iterator
from copy import copy

import numpy as np
import torch
from torch import Tensor

from flagst._keys import quantile_part
from flagst.data.graph import MORAN_NEIGHBOURS
from flagst.data.inputs import N_EDGES
from flagst.data.noise import shared_noise, spot_noise
from flagst.data.section import Section
from flagst.model.fitting import MIN_SPOTS, Fitted, network_inputs
from flagst.model.intervals import IntervalCalibration, draw_quantiles
from flagst.model.presets import Settings
from flagst.model.spots import SpotPredictor
from flagst.model.threads import threads_for
from flagst.module import FlagModule
from flagst.regression import can_balance, leading_scores, match_draw_order

#: Spots that the spatial order of a draw is taken over.
ORDER_SPOTS = 2000


class SectionPredictor(SpotPredictor):
    """A section as a whole; the context is encoded once per call of ``draws``.

    Parameters
    ----------
    section
        Whole section, expression not needed.
    fitted, settings, module
        Parts of a trained model.
    mean
        ``(n_spots, n_genes)`` standardised mean; ``None`` predicts it. In training it is the
        cross-fitted one.
    trust
        How far the spatial order of the training sections holds for this one, see
        :func:`flagst.regression.draw_order.match_draw_order`. Another layout leaves draws as they come.
    networks
        Networks that draw, see :meth:`flagst.module.FlagModule.draw`; ``None`` for all.
    """

    def __init__(
        self,
        section: Section,
        fitted: Fitted,
        settings: Settings,
        module: FlagModule,
        *,
        mean: np.ndarray | None = None,
        trust: float = 1.0,
        networks: tuple[int, ...] | None = None,
    ):
        self.section, self.fitted, self.settings, self.module = section, fitted, settings, module
        self.section_name, self.spot_names = section.name, section.spot_names
        self.networks, self.trust = networks, trust
        self.order = order_aimed_at(section, fitted, settings)
        self.mean = fitted.stage.predict(section.image, section.neighbours) if mean is None else mean
        self.inputs = network_inputs(section, fitted, self.mean, settings, module.d_image)
        self.d_state = settings.d_state(self.mean.shape[1])
        self.around = section.around(N_EDGES if settings.edges else 0)
        self._scores: np.ndarray | None = None

    def context(self) -> np.ndarray:
        """Spatial context H of all networks side by side, ``(n_spots, n_networks * d_context)`` float32."""
        contexts = [self.module.context(self.inputs, k).cpu().numpy() for k in range(len(self.module.networks))]
        return np.concatenate(contexts, axis=1)

    def without(self, network: int) -> "SectionPredictor":
        """The same section, drawn by one network alone: the one that was trained without it."""
        other = copy(self)
        other.networks = (network,)
        return other

    def residuals(self, n_draws: int, seed: int | str) -> list[np.ndarray]:
        """Residuals of several draws, each ``(n_spots, n_genes)`` standardised."""
        return [self.residual(*drawn) for drawn in self.states(n_draws, seed)]

    def residual(self, *drawn: np.ndarray) -> np.ndarray:
        """Drawn state and noise to the residual of a draw, ``(n_spots, n_genes)`` standardised."""
        residual = self.fitted.residual.decode(*drawn)
        if self.order is None:
            return residual
        neighbours = self.section.nearest(MORAN_NEIGHBOURS[self.section.layout])
        scaler = self.fitted.stage.scaler
        return match_draw_order(
            self.mean,
            residual,
            scaler.restore,
            neighbours,
            self.order,
            trust=self.trust,
            abundance=scaler.mean,
            rows=self.section.sampled(ORDER_SPOTS) if len(self.section) > ORDER_SPOTS else None,
        )

    def diffused(self, n_draws: int, seed: int | str) -> np.ndarray:
        """States of several draws as the solver gives them."""
        return self._solve(torch.as_tensor(np.stack([z for z, *_ in self._noise(n_draws, seed)]))).numpy()

    def redrawn(self, n_states: int, n_noises: int, seed: int | str) -> Iterator[np.ndarray]:
        """Full draws ``(n_spots, n_genes)`` one by one: each of a few drawn states with several noises beside it.

        The solver's work is in the states, most of the variance between draws in the noise.
        """
        restore = self.fitted.stage.scaler.restore
        for i in range(n_states):
            [[state, *_]] = self.drawn(1, f"{seed}/{i}")
            for _, *noise in self._noise(n_noises, f"{seed}/{i}/noise"):
                [decodable] = self.decodable([[state, *noise]])
                yield restore(self.mean + self.residual(*decodable)).astype(np.float32)

    def states(self, n_draws: int, seed: int | str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Drawn states ``(n_spots, n_latent)``, and the noise that :meth:`ResidualModel.decode` takes."""
        return self.decodable(self.drawn(n_draws, seed))

    def drawn(self, n_draws: int, seed: int | str) -> list[list[np.ndarray]]:
        """Per draw, the state as the solver gives it, ``(n_spots, d_state)``, and both noises as they come.

        The work is here; :meth:`decodable` makes of it what the residual model of now decodes.
        """
        noise = self._noise(n_draws, seed)
        start = np.stack([z for z, *_ in noise])
        states = self._solve(torch.as_tensor(start)).numpy() if self.settings.diffusion else start
        return [[z, *beside] for z, (_, *beside) in zip(states, noise, strict=True)]

    def decodable(self, drawn: list[list[np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What :meth:`ResidualModel.decode` takes, of what :meth:`drawn` gives."""
        return [self.fitted.residual.decodable(*one, self._leading()) for one in drawn]

    def parts(self, n_draws: int, *, n_genes: int = 0) -> Iterator[tuple[np.ndarray, SpotPredictor]]:
        """Rows and predictor of what is predicted at once: everything."""
        yield np.arange(len(self.section)), self

    def _leading(self) -> np.ndarray | None:
        """Scores of the mean that noise is balanced by; ``None`` to leave it as it comes."""
        if self._scores is None and self.settings.balance_noise and can_balance(*self.mean.shape):
            self._scores = leading_scores(self.mean)
        return self._scores

    def _noise(self, n_draws: int, seed: int | str) -> list[list[np.ndarray]]:
        """Starting noise, gene noise and state noise of every draw."""
        widths = self.d_state, self.mean.shape[1]
        out = []
        for own in (f"{seed}/{i}" for i in range(n_draws)):
            shared = shared_noise(self.section, self.around, seed=own, width=self.d_state)
            out.append([*spot_noise(self.section_name, self.spot_names, seed=own, widths=widths), shared])
        return out

    def _solve(self, noise: Tensor) -> Tensor:
        with threads_for(len(self.section)):
            return self.module.draw(
                self.inputs,
                noise,
                solver=self.settings.solver,
                n_steps=self.settings.n_steps,
                networks=self.networks,
            )


def order_aimed_at(section: Section, fitted: Fitted, settings: Settings) -> np.ndarray | None:
    """Spatial order that draws of a section are given, ``(n_genes,)``; ``None`` to leave them as they come."""
    matched = settings.match_order and settings.edges and len(section) >= MIN_SPOTS
    return fitted.order.get(section.layout) if matched else None


def part_layers(
    predictor: SpotPredictor,
    *,
    structure: float,
    seed: int,
    n_samples: int = 1,
    return_std: bool = False,
    quantiles: tuple[float, ...] = (),
    intervals: IntervalCalibration | None = None,
) -> dict[str, np.ndarray]:
    """Prediction and mean of some spots; standard deviation and quantiles over full draws if asked.

    Parameters
    ----------
    predictor
        Of the spots; a :class:`flagst.model.unmeasured.GenePredictor` will do too.
    n_samples
        Full draws behind standard deviation and quantiles.
    intervals
        Calibrates the quantiles; ``None`` leaves them those of the draws.

    Returns
    -------
    ``draw``, ``mean`` and maybe ``std`` and quantiles named by :func:`flagst._keys.quantile_part`, each
    ``(n_spots, n_genes)`` float32.
    """
    out = dict(zip(("draw", "mean"), predictor.predict(structure, seed), strict=True))
    if not return_std and not quantiles:
        return out
    draws = predictor.draws(n_samples, seed)
    if return_std:
        out["std"] = draws.std(axis=0, ddof=1)
    if quantiles:
        if intervals is None:
            found = draw_quantiles(draws, quantiles)
        else:
            found = intervals.move(draws, quantiles, unit=predictor.spread(n_samples, seed))
        out |= {quantile_part(quantile): values for quantile, values in zip(quantiles, found, strict=True)}
    return out


def layer_parts(return_std: bool, quantiles: tuple[float, ...]) -> list[str]:
    """Names of what :func:`part_layers` returns."""
    return ["draw", "mean", *(["std"] if return_std else []), *map(quantile_part, quantiles)]
