"""A section that is too large to be predicted at once: its state as a whole, everything else window by window."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from flagst.data.graph import MORAN_NEIGHBOURS
from flagst.data.inputs import N_EDGES, denoiser_window, encoder_window, partition, spot_pitch
from flagst.data.noise import shared_noise, spot_noise
from flagst.data.section import Section
from flagst.data.store import ArrayFolder
from flagst.model.fitting import Fitted, pad_columns
from flagst.model.intervals import pooled_spread
from flagst.model.predicting import ORDER_SPOTS, order_aimed_at
from flagst.model.presets import Settings
from flagst.model.progress import Bars
from flagst.model.spots import SpotPredictor
from flagst.model.threads import threads_for
from flagst.module import FlagModule
from flagst.module.windowed import (
    add_mean_context,
    count_evaluations,
    denoiser_hops,
    draw_in_windows,
    encode_windows,
    encoder_hops,
)
from flagst.regression import can_balance, leading_scores, order_curve, order_factors, section_centre

#: Spots of a window, and of the largest section that is predicted at once.
WINDOW_SPOTS = 4096
#: A section with more numbers, spots times genes, is not predicted at once either.
MAX_VALUES = 2**24
#: Numbers, spots times genes, that are decoded at once; of several draws together, four times as many.
DECODED_VALUES = 2**22
#: Numbers of balanced noise, spots times genes times draws, that are kept for the parts of a section to come.
HELD_VALUES = 2**26
#: Numbers that a denoiser with one token per gene takes at once.
TOKENS = 2**17
#: Spots that statistics over draws are taken from, and that ``structure="auto"`` looks at.
SAMPLED_SPOTS = 5000


def is_large(section: Section, n_genes: int, window_spots: int | None = None) -> bool:
    """Whether a section is predicted in windows; ``window_spots`` as the user gave it."""
    most = min(WINDOW_SPOTS, MAX_VALUES // n_genes) if window_spots is None else window_spots
    return len(section) > most


def check_windows(window_spots: int | None) -> int | None:
    """Raise a ``ValueError`` for windows without spots."""
    if window_spots is not None and window_spots < 1:
        raise ValueError(f"window_spots must be at least 1; got {window_spots}. Leave it out for {WINDOW_SPOTS}.")
    return window_spots


class SlidePredictor:
    """A section whose predictions are made window by window, in memory that is free of the number of genes.

    Kept for the whole section, per spot: image features, neighbours, the context H of each network, and one state per
    draw; of sections small enough for balanced noise that too, 256 MB at most. The same numbers as from
    :class:`flagst.model.predicting.SectionPredictor`, up to rounding; statistics of a whole section (scales of the
    spatial order, spread over draws) are those of some of its spots.

    Parameters
    ----------
    section
        Whole section, expression not needed.
    fitted, settings, module
        Parts of a trained model.
    trust
        As in :class:`flagst.model.predicting.SectionPredictor`.
    window_spots
        Spots whose network evaluation is made at once, besides their halo; ``None`` for 4,096.
    states
        Where drawn states are kept, by the seed of the draw: ``(n_spots, d_state)`` float32 each.
    bars
        Shows progress.
    """

    def __init__(
        self,
        section: Section,
        fitted: Fitted,
        settings: Settings,
        module: FlagModule,
        *,
        trust: float = 1.0,
        window_spots: int | None = None,
        states: dict[str, np.ndarray] | ArrayFolder | None = None,
        bars: Bars | None = None,
    ):
        self.section, self.fitted, self.settings, self.module, self.trust = section, fitted, settings, module, trust
        self.order = order_aimed_at(section, fitted, settings)
        self.n_genes = len(fitted.stage.scaler.mean)
        latent = settings.denoiser == "latent"
        self.d_state = settings.d_state(self.n_genes)
        self.window_spots = window_spots or (WINDOW_SPOTS if latent else min(WINDOW_SPOTS, 1 + TOKENS // self.n_genes))
        self.states = {} if states is None else states
        self.bars = bars or Bars(shown=False)
        self.centre = section_centre(section.image)
        self.balanced = settings.balance_noise and can_balance(len(section), self.n_genes)
        k = N_EDGES if settings.edges else 0
        self.neighbours, self.distances = section.neighbours[:, :k], section.distances[:, :k]
        self.pitch = spot_pitch(self.distances)
        self._scales, self._spread, self._whole, self._scores, self._network_inputs = {}, {}, {}, None, None

    def context(self) -> np.ndarray:
        """As :meth:`SectionPredictor.context`."""
        return torch.cat(list(self._inputs()[0].values()), dim=1).cpu().numpy()

    def draws(self, n_draws: int, seed: int | str) -> np.ndarray:
        """As :meth:`SectionPredictor.draws`."""
        out = np.empty((n_draws, len(self.section), self.n_genes), np.float32)
        for rows, part in self.parts(n_draws):
            out[:, rows] = part.draws(n_draws, seed)
        return out

    def parts(
        self, n_draws: int, rows: np.ndarray | None = None, *, n_genes: int = 0
    ) -> "Iterator[tuple[np.ndarray, SlidePart]]":
        """Places in ``rows`` and predictor of what is decoded at once.

        Parameters
        ----------
        n_draws
            Full draws that are going to be held together.
        rows
            ``(n_rows,)`` spots that are asked for; ``None`` for all.
        n_genes
            Genes to predict, where these are more than the panel.
        """
        rows, width = np.arange(len(self.section)) if rows is None else rows, max(n_genes, self.n_genes)
        step = max(min(WINDOW_SPOTS, DECODED_VALUES // width, 4 * DECODED_VALUES // (n_draws * width)), 1)
        for start in range(0, len(rows), step):
            places = np.arange(start, min(start + step, len(rows)))
            yield places, SlidePart(self, rows[places])
        self._whole.clear()

    def state(self, seed: str) -> np.ndarray:
        """What the diffusion gives in one draw, ``(n_spots, d_state)`` float32; solved when first asked for."""
        if seed not in self.states:
            noise = spot_noise(self.section.name, self.section.spot_names, seed=seed, widths=(self.d_state,))[0]
            self.states[seed] = self._solve(torch.as_tensor(noise)).numpy()
        return self.states[seed]

    def drawn(self, seed: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """State and noises of some spots in one draw, as :meth:`ResidualModel.decode` takes them.

        Balanced noise is made for the whole section, which is small then, and kept for the parts to come: of the latest
        draws, where all of them would take more than 256 MB.
        """
        if not self.balanced:
            return self._drawn(seed, rows)
        if seed not in self._whole:
            everything = np.arange(len(self.section))
            if self._scores is None:
                self._scores = leading_scores(self.mean_of(everything))
            while self._whole and (len(self._whole) + 1) * len(everything) * self.n_genes > HELD_VALUES:
                self._whole.pop(next(iter(self._whole)))
            self._whole[seed] = self._drawn(seed, everything, self._scores)
        return tuple(part[rows] for part in self._whole[seed])

    def _drawn(self, seed: str, rows: np.ndarray, leading: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """:meth:`drawn` without what is kept; ``leading`` balances the noise of a whole section."""
        widths, names = (self.d_state, self.n_genes), self.section.spot_names[rows]
        start, noise = spot_noise(self.section.name, names, seed=seed, widths=widths)
        around = self.section.around(self.neighbours.shape[1], rows)
        shared = shared_noise(self.section, around, seed=seed, width=self.d_state)
        state = self.state(seed)[rows] if self.settings.diffusion else start
        return self.fitted.residual.decodable(state, noise, shared, leading)

    def scales(self, seed: str) -> np.ndarray | None:
        """Factor of every gene of a draw that gives it its spatial order, ``(n_genes,)``; ``None`` for none."""
        if self.order is None:
            return None
        if seed not in self._scales:
            scaler = self.fitted.stage.scaler
            curve = order_curve(self._ordered(seed), scaler.restore)
            self._scales[seed] = order_factors(curve, self.order, trust=self.trust, abundance=scaler.mean)
        return self._scales[seed]

    def spread(self, n_draws: int, seed: int | str) -> np.ndarray:
        """Spread over draws, ``(n_genes,)``, see :func:`flagst.model.intervals.spread`; of 5,000 spots at most."""
        key = n_draws, seed
        if key not in self._spread:
            parts = self.parts(n_draws, self.section.sampled(SAMPLED_SPOTS))
            self._spread[key] = pooled_spread(part.draws(n_draws, seed) for _, part in parts)
        return self._spread[key]

    def _looked_at(self, n_spots: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of some spots, and their neighbours for Moran's I."""
        rows = self.section.sampled(n_spots)
        return rows, self.section.nearest(MORAN_NEIGHBOURS[self.section.layout])[rows]

    def _ordered(self, seed: str) -> Iterator[tuple[np.ndarray, ...]]:
        """Parts of the spots that Moran's I of a draw is taken over, for :func:`order_curve`."""
        looked_at, near = self._looked_at(ORDER_SPOTS)
        seen = np.zeros(len(self.section), dtype=bool)
        step = max(min(WINDOW_SPOTS, DECODED_VALUES // self.n_genes) // (1 + near.shape[1]), 1)
        for start in range(0, len(looked_at), step):
            own, around = looked_at[start : start + step], near[start : start + step]
            kept, position = np.unique(np.concatenate([own, around.ravel()]), return_inverse=True)
            part, new = SlidePart(self, kept), ~seen[kept]
            seen[kept] = True
            yield part.mean, part.decoded(seed), position[len(own) :].reshape(around.shape), position[: len(own)], new

    def mean_of(self, rows: np.ndarray) -> np.ndarray:
        """Standardised mean of some spots, ``(n_rows, n_genes)``."""
        return self.fitted.stage.predict_rows(self.section.image, self.section.neighbours, rows, self.centre)

    def _solve(self, noise: Tensor) -> Tensor:
        contexts, windows = self._inputs()
        solver = {"solver": self.settings.solver, "n_steps": self.settings.n_steps}
        n_windows = len(windows) * count_evaluations(**solver)
        with threads_for(len(self.section)), self.bars.open(n_windows, "denoising", "window") as done:
            return draw_in_windows(self.module, windows, contexts, noise, **solver, done=done)

    def _inputs(self) -> tuple[dict[int, Tensor], list[dict[str, Tensor]]]:
        """Contexts H of all networks, and the denoiser's windows."""
        if self._network_inputs is None:
            graph = self.neighbours, self.distances
            cores = partition(self.section.coords, self.window_spots)
            hops, white = encoder_hops(self.module), self._white()
            encoded = (encoder_window(white, *graph, core, n_hops=hops, pitch=self.pitch) for core in cores)
            networks = range(len(self.module.networks))
            contexts = encode_windows(self.module, encoded, len(self.section), networks)
            if self.settings.regression is not None:
                with self.bars.open(len(self.section), "context", "spot") as done:
                    for rows, part in self.parts(1):
                        mean = torch.as_tensor(part.mean, dtype=torch.float32)
                        add_mean_context(self.module, contexts, torch.as_tensor(rows), mean)
                        done(len(rows))
            hops = denoiser_hops(self.module)
            windows = [denoiser_window(*graph, core, n_hops=hops, pitch=self.pitch) for core in cores]
            self._network_inputs = contexts, windows
        return self._network_inputs

    def _white(self) -> np.ndarray:
        """Whitened image features ``(n_spots, d_image)`` float32."""
        image, out = self.section.image, np.empty((len(self.section), self.module.d_image), np.float32)
        for start in range(0, len(out), self.window_spots):
            rows = slice(start, start + self.window_spots)
            out[rows] = pad_columns(self.fitted.stage.context.whiten(image[rows], self.centre), out.shape[1])
        return out


class SlidePart(SpotPredictor):
    """Some spots of a slide.

    Parameters
    ----------
    slide
        Their section.
    rows
        ``(n_spots,)`` places in it.
    """

    def __init__(self, slide: SlidePredictor, rows: np.ndarray):
        self.slide, self.rows, self.fitted, self.settings = slide, rows, slide.fitted, slide.settings
        self.section_name, self.spot_names = slide.section.name, slide.section.spot_names[rows]
        self.mean = slide.mean_of(rows)

    def residuals(self, n_draws: int, seed: int | str) -> list[np.ndarray]:
        """As :meth:`SectionPredictor.residuals`."""
        return [self.residual(f"{seed}/{i}") for i in range(n_draws)]

    def residual(self, seed: str) -> np.ndarray:
        """Of one draw, by its own seed, ``(n_spots, n_genes)`` standardised."""
        scales, residual = self.slide.scales(seed), self.decoded(seed)
        return residual if scales is None else residual * scales

    def decoded(self, seed: str) -> np.ndarray:
        """The residual of one draw before its genes get their spatial order."""
        return self.fitted.residual.decode(*self.slide.drawn(seed, self.rows))

    def diffused(self, n_draws: int, seed: int | str) -> np.ndarray:
        """As :meth:`SectionPredictor.diffused`."""
        return np.stack([self.slide.state(f"{seed}/{i}")[self.rows] for i in range(n_draws)])

    def spread(self, n_draws: int, seed: int | str) -> np.ndarray:
        """Of the whole slide."""
        return self.slide.spread(n_draws, seed)
