"""Gene-token denoiser: a transformer over genes, as in the paper."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flagst.nn.embeddings import NoiseLevelEmbedding
from flagst.nn.latent_denoiser import NeighbourMean, require_block


class GeneBlock(nn.Module):
    """AdaLN-Zero transformer block over the genes of a spot, after a zero-initialised neighbour mix."""

    def __init__(self, width: int, n_heads: int, d_condition: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.neighbours = NeighbourMean()
        self.mix = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.condition = nn.Linear(d_condition, 6 * width)
        for layer in (self.mix, self.condition):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor, condition: Tensor, mix_index: Tensor | None, mix_weight: Tensor | None) -> Tensor:
        if mix_index is not None:
            y = y + self.mix(self.neighbours(y, mix_index, mix_weight))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.condition(condition)[:, None].chunk(6, dim=-1)
        y = y + gate_a * self._attend(self.norm_attention(y) * (1 + scale_a) + shift_a)
        return y + gate_m * self.mlp(self.norm_mlp(y) * (1 + scale_m) + shift_m)

    def _attend(self, y: Tensor) -> Tensor:
        n_spots, n_genes, width = y.shape
        qkv = self.query_key_value(y).view(n_spots, n_genes, 3, self.n_heads, width // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.project(out.transpose(1, 2).reshape(n_spots, n_genes, width))


class GeneDenoiser(nn.Module):
    """Network ``F(x, sigma | context)`` with one token per gene.

    Cost is quadratic in the number of genes. Same interface as
    :class:`flagst.nn.latent_denoiser.LatentDenoiser`, with ``d_state = n_genes``.

    Parameters
    ----------
    n_genes
        Genes, each with a learnt identity embedding added to the embedding of its value.
    d_context
        Width of the context H.
    width, n_blocks, n_heads, dropout
        Size of the transformer; the paper's is 384, 12, 6.
    align_block
        The block (counted from 1) whose output is returned for alignment; the paper's is 8 of 12.

    Raises
    ------
    ValueError
        There is no such block.

    Source
    ------
    FLAG (arXiv 2605.18055), gene denoiser; Peebles & Xie 2023 for AdaLN-Zero.
    """

    def __init__(
        self,
        n_genes: int,
        d_context: int,
        *,
        width: int = 128,
        n_blocks: int = 4,
        n_heads: int = 4,
        dropout: float = 0.1,
        align_block: int = 3,
    ):
        super().__init__()
        self.align_block = require_block(align_block, n_blocks)
        self.noise_level = NoiseLevelEmbedding(d_context)
        self.activation = nn.SiLU()
        self.value = nn.Linear(1, width)
        self.identity = nn.Parameter(torch.randn(n_genes, width) * 0.02)
        self.blocks = nn.ModuleList(GeneBlock(width, n_heads, d_context, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, x: Tensor, sigma: Tensor, context: Tensor, mix_index: Tensor | None, mix_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """``x: (n_spots, n_genes)`` -> raw output ``(n_spots, n_genes)``, hidden ``(n_spots, n_genes, width)``."""
        condition = self.activation(self.noise_level(sigma) + context)
        y, hidden = self.value(x[..., None]) + self.identity, None
        for number, block in enumerate(self.blocks, start=1):
            y = block(y, condition, mix_index, mix_weight)
            if number == self.align_block:
                hidden = y
        return self.output(self.norm(y))[..., 0], hidden
