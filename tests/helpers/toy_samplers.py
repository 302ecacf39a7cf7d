"""Stand-ins for the sampler of a section, whose samples and measurements are known."""

from types import SimpleNamespace

import numpy as np

from flagst.data.graph import knn, moran_graph
from flagst.data.sections import Section
from flagst.regression import LatentBasis
from flagst.sampling.fit import Fitted
from flagst.sampling.held_out import HeldOutTissue

N_SIDE, N_LATENT, NOISE, SMOOTHNESS = 14, 3, 0.6, 6.0


class SmoothSampler:
    """Samples states that are as smooth as the true ones, times a gain.

    A share ``rough`` of the variance of the true states is independent between spots.
    """

    def __init__(self, n_genes=24, seed=0, residual_size=0.8, rough=0.0, truth=None):
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(np.arange(N_SIDE), np.arange(N_SIDE)), -1).reshape(-1, 2) * 100.0
        self.neighbours, distances = knn(grid, 4)
        self.graph, self.everything, self.n_genes = moran_graph(grid, "square"), np.arange(len(grid)), n_genes
        components = np.linalg.qr(rng.normal(size=(n_genes, min(N_LATENT, n_genes))))[0].T
        sd = np.linspace(2.0, 1.0, len(components))
        # genes differ in their noise, and so in their Moran's I
        noise_sd = NOISE * np.linspace(0.5, 1.5, n_genes)
        scale = np.full(n_genes, residual_size)
        self.truth = truth or LatentBasis(scale, components, sd, noise_sd, shared_sd=np.zeros(len(sd)))
        tissue = self.fields(1, rng)
        self.mean = 0.5 * tissue @ rng.normal(size=(1, n_genes))
        state, *noise = self.sample(rng)
        measured = self.mean + self.truth.decode(
            np.sqrt(1 - rough) * state + np.sqrt(rough) * rng.normal(size=state.shape), *noise
        )
        names, image = np.array([f"spot{i}" for i in self.everything]), np.zeros((len(grid), 1), np.float32)
        self.section = Section(str(seed), names, grid, image, self.neighbours, distances, measured, layout="square")
        scaler = SimpleNamespace(restore=lambda values, genes=None: values)
        self.fitted = Fitted(SimpleNamespace(scaler=scaler), self.truth, np.zeros(n_genes), {})
        self.gain = 1.0

    def fields(self, n, rng):
        """Smooth fields of unit variance, ``(n_spots, n)``."""
        white = rng.normal(size=(self.graph.shape[0], n))
        smooth = white + SMOOTHNESS * (self.graph @ white)
        return (smooth - smooth.mean(axis=0)) / smooth.std(axis=0)

    def sample(self, rng, gain=1.0):
        """A state and the two noises beside it."""
        n_latent = len(self.truth.sd)
        state, gene_noise = gain * self.fields(n_latent, rng), rng.normal(size=self.mean.shape)
        return state, gene_noise, self.shared(n_latent, rng)

    def shared(self, n, rng):
        """Noise that neighbours share, ``(n_spots, n)``."""
        around = np.column_stack([self.everything, self.neighbours])
        return rng.normal(size=(len(self.mean), n))[around].sum(axis=1) / np.sqrt(around.shape[1])

    def decoder_inputs(self, seed, rows, *, noise_seed=None, latent=None):
        """As :meth:`flagst.sampling.sampler.SectionSampler.decoder_inputs`; nothing is balanced."""
        of_all, number = map(int, seed.split("/"))
        rng = np.random.default_rng([of_all, 1])
        samples = [self.sample(rng, self.gain) for _ in range(number + 1)]
        return tuple(values[rows] for values in samples[-1])

    def mean_of(self, rows):
        """Mean of some spots."""
        return self.mean[rows]


def held_out(*parts):
    """Held-out tissue of samplers and their rows; clean states have variance 1 over the rows of each."""
    clean = {}
    for sampler, rows in parts:
        states = sampler.fields(N_LATENT, np.random.default_rng(9))
        states[rows] = (states[rows] - states[rows].mean(axis=0)) / states[rows].std(axis=0)
        clean[sampler.section.name] = states
    return HeldOutTissue(list(parts), clean)


def held_out_rows(sampler, rows=None):
    """Held-out tissue of one sampler; ``rows=None`` for the whole section."""
    return held_out((sampler, sampler.everything if rows is None else rows))


def slopes(sampler):
    """The smoothest states there are: columns that rise over the section, of variance 1."""
    column, row = (sampler.section.coords / 100.0).T
    found = np.stack([column, row, column + row], axis=1)
    return (found - found.mean(axis=0)) / found.std(axis=0)


def known_tissue():
    """A sampler that samples the truth, its held-out tissue, and the true basis."""
    sampler = SmoothSampler()
    return SimpleNamespace(sampler=sampler, tissue=held_out_rows(sampler), truth=sampler.truth)
