"""The sampler: one section, window by window. A small section is one window.

Per section it keeps the image features, the neighbours, the context H of each network and one latent state per sample.
Everything of the width of the genes is made for the spots that are asked for.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flagst.data.graph import MORAN_NEIGHBOURS
from flagst.data.sections import Section
from flagst.data.windows import N_EDGES, denoiser_window, encoder_window, pad_columns, partition, spot_pitch
from flagst.diffusion import SOLVERS
from flagst.regression import LatentBasis, section_centre
from flagst.sampling.balanced_noise import balanced, can_balance, leading_scores
from flagst.sampling.fit import MIN_MORAN_SPOTS, Fitted
from flagst.sampling.moran_matching import moran_curve, moran_factors
from flagst.sampling.progress import Bars
from flagst.sampling.spot_noise import shared_noise, spot_noise
from flagst.sampling.spot_samples import SpotSamples, pooled_sd
from flagst.sampling.threads import threads_for

if TYPE_CHECKING:
    from flagst.data.prediction_store import ArrayFolder
    from flagst.module import FlagModule
    from flagst.settings import Settings

#: Spots of a window, and of the largest section that is one window.
WINDOW_SPOTS = 4096
#: A section with more numbers, spots times genes, is not one window either.
MAX_SECTION_VALUES = 2**24
#: Numbers, spots times genes, that are decoded at once; of several samples together, four times as many.
DECODED_VALUES = 2**22
#: Numbers of balanced noise, spots times genes times samples, that are kept for the parts of a section to come.
HELD_VALUES = 2**26
#: Numbers that a denoiser with one token per gene takes at once.
TOKENS = 2**17
#: Spots that are used for Moran's I of a sample, and for the standard deviation over samples, at most.
MORAN_SPOTS, UNIT_SPOTS = 2000, 5000


class SectionSampler:
    """Posterior samples of one section.

    Parameters
    ----------
    section
        Whole section, expression not needed.
    fitted, settings, module
        Parts of a trained model.
    mean
        ``(n_spots, n_genes)`` standardised mean; ``None`` predicts it. In training it is the cross-fitted one.
    moran
        Per spot layout ``(n_genes,)`` Moran's I that samples are matched to; ``None`` takes that of the training
        sections, ``fitted.moran``. Samples of another layout are left unmodified.
    moran_weight
        Weight of that Moran's I, 0 to 1, by the share of spots in distribution: see
        :func:`flagst.sampling.moran_matching.moran_factors`.
    networks
        Networks that take turns in a sample; ``None`` for all.
    window_spots
        Spots whose network evaluation is made at once, besides their halo. A section with more of them is predicted
        in windows. ``None`` for 4,096, and fewer where there are very many genes.
    n_genes
        Genes that are predicted, where these are more than the panel.
    streamed
        Decode a few spots at a time even where the section is small.
    states
        Where latent states are kept, by the seed of the sample: ``(n_spots, d_state)`` float32 each.
    bars
        Shows progress.
    """

    def __init__(
        self,
        section: Section,
        fitted: Fitted,
        settings: "Settings",
        module: "FlagModule",
        *,
        mean: np.ndarray | None = None,
        moran: dict[str, np.ndarray] | None = None,
        moran_weight: float = 1.0,
        networks: tuple[int, ...] | None = None,
        window_spots: int | None = None,
        n_genes: int = 0,
        streamed: bool = False,
        states: "dict[str, np.ndarray] | ArrayFolder | None" = None,
        bars: Bars | None = None,
    ):
        self.section, self.fitted, self.settings, self.module = section, fitted, settings, module
        self.n_genes = len(fitted.stage.scaler.mean)
        self.n_decoded = max(n_genes, self.n_genes)
        self.d_state = settings.d_state(self.n_genes)
        matched = settings.match_moran and settings.edges and len(section) >= MIN_MORAN_SPOTS
        self.moran = (fitted.moran if moran is None else moran).get(section.layout) if matched else None
        self.moran_weight = moran_weight
        self.networks = tuple(range(len(module.networks))) if networks is None else networks
        most = min(WINDOW_SPOTS, MAX_SECTION_VALUES // self.n_decoded) if window_spots is None else window_spots
        self.at_once = len(section) <= most and not streamed
        per_window = WINDOW_SPOTS if settings.denoiser == "latent" else min(WINDOW_SPOTS, 1 + TOKENS // self.n_genes)
        self.window_spots = len(section) if self.at_once else window_spots or per_window
        self.states = {} if states is None else states
        self.bars = bars or Bars(shown=False)
        self.balanced = settings.balance_noise and can_balance(len(section), self.n_genes)
        k = N_EDGES if settings.edges else 0
        self.neighbours, self.distances = section.neighbours[:, :k], section.distances[:, :k]
        self.pitch, self.centre = spot_pitch(self.distances), section_centre(section.image)
        self.everything = np.arange(len(section))
        self._mean = self._leading = self._network_inputs = None
        if mean is not None or self.at_once:
            self._mean = self.mean_of(self.everything) if mean is None else mean
        self._factors, self._units, self._noise = {}, {}, {}

    def context(self) -> np.ndarray:
        """Spatial context H of all networks side by side, ``(n_spots, n_networks * d_context)`` float32."""
        return torch.cat(list(self._inputs()[0].values()), dim=1).cpu().numpy()

    def samples(self, n_samples: int, seed: int | str) -> np.ndarray:
        """Posterior samples of the section, ``(n_samples, n_spots, n_genes)`` float32 in the unit of the target."""
        out = np.empty((n_samples, len(self.section), self.n_genes), np.float32)
        for rows, part in self.parts(n_samples):
            out[:, rows] = part.samples(n_samples, seed)
        return out

    def whole(self) -> "SectionPart":
        """The section as one part."""
        return SectionPart(self, self.everything)

    def parts(self, n_samples: int, rows: np.ndarray | None = None) -> "Iterator[tuple[np.ndarray, SectionPart]]":
        """Places in ``rows`` and samples of the spots that are decoded at once.

        Parameters
        ----------
        n_samples
            Samples that are going to be held together.
        rows
            ``(n_rows,)`` spots that are asked for; ``None`` for all.
        """
        rows = self.everything if rows is None else rows
        step = min(WINDOW_SPOTS, DECODED_VALUES // self.n_decoded, 4 * DECODED_VALUES // (n_samples * self.n_decoded))
        step = len(rows) if self.at_once else max(step, 1)
        for start in range(0, len(rows), step):
            places = np.arange(start, min(start + step, len(rows)))
            yield places, SectionPart(self, rows[places])
        self._noise.clear()

    def mean_of(self, rows: np.ndarray) -> np.ndarray:
        """Standardised mean of some spots, ``(n_rows, n_genes)``."""
        if self._mean is not None:
            return self._mean if rows is self.everything else self._mean[rows]
        graph = self.section.image, self.section.neighbours
        return self.fitted.stage.predict(*graph, rows=None if self.at_once else rows, centre=self.centre)

    def state(self, seed: str, noise: np.ndarray | None = None) -> np.ndarray:
        """Latent state of one sample, ``(n_spots, d_state)`` float32, solved when it is first asked for.

        ``noise`` is what the solver starts from, where it is known already.
        """
        if seed not in self.states:
            if noise is None:
                name, spots = self.section.name, self.section.spot_names
                [noise] = spot_noise(name, spots, seed=seed, widths=(self.d_state,))
            self.states[seed] = self._solve(torch.as_tensor(noise)).numpy() if self.settings.diffusion else noise
        return self.states[seed]

    def decoder_inputs(
        self, seed: str, rows: np.ndarray, *, noise_seed: str | None = None, latent: LatentBasis | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """State, gene noise and shared noise of some spots, as :meth:`LatentBasis.decode` takes them.

        Parameters
        ----------
        seed
            Of the state.
        rows
            ``(n_rows,)`` spots.
        noise_seed
            Of the noise beside the state; ``None`` for that of the state.
        latent
            Basis that will decode them; ``None`` for the fitted one.
        """
        latent = latent or self.fitted.latent
        if not self.balanced:
            return self._drawn(seed, rows, noise_seed or seed, latent, None)
        if rows is self.everything:
            return self._balanced(seed, noise_seed or seed, latent)
        # balanced noise is that of the whole section, kept for the parts to come as far as memory allows
        key = seed, noise_seed or seed
        if key not in self._noise:
            while self._noise and (len(self._noise) + 1) * len(self.section) * self.n_genes > HELD_VALUES:
                self._noise.pop(next(iter(self._noise)))
            self._noise[key] = self._balanced(*key, latent)
        return tuple(part[rows] for part in self._noise[key])

    def moran_factors(
        self, seed: str, residual: np.ndarray | None = None, *, noise_seed: str | None = None
    ) -> np.ndarray | None:
        """Factor of every gene of a sample that matches its Moran's I, ``(n_genes,)``; ``None`` for no matching.

        Parameters
        ----------
        seed, noise_seed
            As in :meth:`decoder_inputs`.
        residual
            Decoded residual of the whole section, where it is there already.
        """
        if self.moran is None:
            return None
        key = seed, noise_seed or seed
        if key not in self._factors:
            parts = self._moran_parts(*key) if residual is None else self._moran_part(residual)
            scaler = self.fitted.stage.scaler
            curve = moran_curve(parts, scaler.restore)
            factors = moran_factors(curve, self.moran, weight=self.moran_weight, abundance=scaler.mean)
            self._factors[key] = factors
        return self._factors[key]

    def interval_unit(self, n_samples: int, seed: int | str) -> np.ndarray:
        """Standard deviation over samples, ``(n_genes,)``, pooled over at most 5,000 spots: see :func:`pooled_sd`."""
        key = n_samples, seed
        if key not in self._units:
            parts = self.parts(n_samples, self.section.sampled(UNIT_SPOTS))
            self._units[key] = pooled_sd(part.samples(n_samples, seed) for _, part in parts)
        return self._units[key]

    def _balanced(self, seed: str, noise_seed: str, latent: LatentBasis) -> tuple[np.ndarray, ...]:
        if self._leading is None:
            self._leading = leading_scores(self.mean_of(self.everything))
        return self._drawn(seed, self.everything, noise_seed, latent, self._leading)

    def _drawn(
        self, seed: str, rows: np.ndarray, noise_seed: str, latent: LatentBasis, leading: np.ndarray | None
    ) -> tuple[np.ndarray, ...]:
        """:meth:`decoder_inputs`; ``leading`` balances the noise of a whole section."""
        names, widths = self.section.spot_names[rows], (self.d_state, self.n_genes)
        start, noise = spot_noise(self.section.name, names, seed=noise_seed, widths=widths)
        around = self.section.around(self.neighbours.shape[1], rows)
        shared = shared_noise(self.section, around, seed=noise_seed, width=self.d_state)
        known = start if rows is self.everything and noise_seed == seed else None
        return balanced(latent, self.state(seed, known)[rows], noise, shared, leading)

    def _moran_part(self, residual: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """The spots that Moran's I of a sample is taken over, of a whole section, for :func:`moran_curve`."""
        near = self.section.nearest(MORAN_NEIGHBOURS[self.section.layout])
        if len(self.section) <= MORAN_SPOTS:
            yield self.mean_of(self.everything), residual, near, None, None
            return
        rows = self.section.sampled(MORAN_SPOTS)
        kept, near, own = _with_neighbours(rows, near[rows])
        yield self.mean_of(kept), residual[kept], near, own, None

    def _moran_parts(self, seed: str, noise_seed: str) -> Iterator[tuple[np.ndarray, ...]]:
        """The same spots some at a time."""
        rows = self.section.sampled(MORAN_SPOTS)
        near = self.section.nearest(MORAN_NEIGHBOURS[self.section.layout])[rows]
        seen = np.zeros(len(self.section), dtype=bool)
        step = max(min(WINDOW_SPOTS, DECODED_VALUES // self.n_genes) // (1 + near.shape[1]), 1)
        for start in range(0, len(rows), step):
            kept, around, own = _with_neighbours(rows[start : start + step], near[start : start + step])
            new = ~seen[kept]
            seen[kept] = True
            part = SectionPart(self, kept)
            yield part.mean, part.decoded(seed, noise_seed), around, own, new

    def _solve(self, noise: Tensor) -> Tensor:
        contexts, windows = self._inputs()
        solver, n_steps = self.settings.solver, self.settings.n_steps
        n_windows = len(windows) * SOLVERS[solver].n_evaluations(n_steps)
        with threads_for(len(self.section)), self.bars.open(n_windows, "denoising", "window") as done:
            return self.module.solve(windows, contexts, noise, solver=solver, n_steps=n_steps, done=done)

    def _inputs(self) -> tuple[dict[int, Tensor], list[dict[str, Tensor]]]:
        """Contexts H of the networks, and the denoiser's windows."""
        if self._network_inputs is None:
            graph = self.neighbours, self.distances
            cores = partition(self.section.coords, self.window_spots)
            hops, white = self.module.encoder_hops, self._white()
            encoded = (encoder_window(white, *graph, core, n_hops=hops, pitch=self.pitch) for core in cores)
            contexts = self.module.encode_image(encoded, len(self.section), self.networks)
            if self.settings.regression is not None:
                with self.bars.open(len(self.section), "context", "spot") as done:
                    for rows, part in self.parts(1):
                        mean = torch.as_tensor(part.mean, dtype=torch.float32)
                        self.module.add_mean(contexts, torch.as_tensor(rows), mean)
                        done(len(rows))
            hops = self.module.denoiser_hops
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


class SectionPart(SpotSamples):
    """Some spots of a section, or all of them.

    Parameters
    ----------
    sampler
        Of their section.
    rows
        ``(n_spots,)`` places in it.
    """

    def __init__(self, sampler: SectionSampler, rows: np.ndarray):
        self.is_whole = np.array_equal(rows, sampler.everything)
        self.sampler, self.rows = sampler, sampler.everything if self.is_whole else rows
        self.section_name, self.spot_names = sampler.section.name, sampler.section.spot_names[rows]
        self.scaler, self.latent = sampler.fitted.stage.scaler, sampler.fitted.latent
        self.mean = sampler.mean_of(self.rows)
        self.n_average = sampler.settings.n_average if self.latent is None else None

    def restore(self, standardised: np.ndarray) -> np.ndarray:
        """As :meth:`SpotSamples.restore`."""
        return self.scaler.restore(standardised)

    def residuals(self, n_samples: int, seed: int | str) -> list[np.ndarray]:
        """As :meth:`SpotSamples.residuals`."""
        seeds = [f"{seed}/{i}" for i in range(n_samples)]
        return [self.sampler.state(s)[self.rows] if self.latent is None else self.residual(s) for s in seeds]

    def residual(self, seed: str, noise_seed: str | None = None) -> np.ndarray:
        """Of one sample, by its own seed, ``(n_spots, n_genes)`` standardised."""
        residual = self.decoded(seed, noise_seed)
        factors = self.sampler.moran_factors(seed, residual if self.is_whole else None, noise_seed=noise_seed)
        return residual if factors is None else residual * factors

    def decoded(self, seed: str, noise_seed: str | None = None) -> np.ndarray:
        """The residual of one sample before its Moran's I is matched."""
        return self.latent.decode(*self.sampler.decoder_inputs(seed, self.rows, noise_seed=noise_seed))

    def resampled(self, n_states: int, n_noises: int, seed: int | str) -> Iterator[np.ndarray]:
        """Posterior samples ``(n_spots, n_genes)`` one by one: each of a few states with several noises beside it.

        The solver's work is in the states. Most of the variance between samples is in the noise.
        """
        for i in range(n_states):
            for j in range(n_noises):
                residual = self.residual(f"{seed}/{i}/0", f"{seed}/{i}/noise/{j}")
                yield self.restore(self.mean + residual).astype(np.float32)

    def interval_unit(self, n_samples: int, seed: int | str) -> np.ndarray | None:
        """As :meth:`SpotSamples.interval_unit`."""
        return None if self.is_whole else self.sampler.interval_unit(n_samples, seed)


def _with_neighbours(rows: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and their neighbours, sorted; where in them the neighbours of each row and the rows themselves are."""
    kept, position = np.unique(np.concatenate([rows, near.ravel()]), return_inverse=True)
    return kept, position[len(rows) :].reshape(near.shape), position[: len(rows)]
