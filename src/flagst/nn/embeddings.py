"""Embeddings of the noise level."""

import math

import torch
from torch import Tensor, nn


class NoiseLevelEmbedding(nn.Module):
    """Fourier features of ``log(sigma) / 4`` through a small MLP: ``(n_spots, 1) -> (n_spots, d_model)``.

    Frequencies are spaced from 1 to 64 cycles-per-unit radians, so that noise levels a tenth of a
    decade apart already differ: a flat embedding would leave the network blind to the noise level.
    """

    def __init__(self, d_model: int, n_frequencies: int = 16):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(64), n_frequencies)))
        self.mlp = nn.Sequential(nn.Linear(2 * n_frequencies, d_model), nn.SiLU(), nn.Linear(d_model, d_model))

    def forward(self, sigma: Tensor) -> Tensor:
        phase = sigma.log() / 4 * self.frequencies
        return self.mlp(torch.cat([phase.sin(), phase.cos()], dim=-1))
