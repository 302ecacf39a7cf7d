"""Gene-token denoiser: a transformer over genes, as in the paper."""

import torch
from torch import Tensor, nn

from flagst.nn.blocks import GeneBlock, require_block
from flagst.nn.embeddings import NoiseLevelEmbedding


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

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import GeneDenoiser
    >>> denoiser = GeneDenoiser(20, 8, width=16, n_heads=2)
    >>> [part.shape for part in denoiser(torch.randn(7, 20), torch.ones(7, 1), torch.randn(7, 8), None, None)]
    [torch.Size([7, 20]), torch.Size([7, 20, 16])]
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

    @property
    def n_hops(self) -> int:
        """Edges that one evaluation reaches: every block mixes the neighbours once."""
        return len(self.blocks)

    @property
    def d_hidden(self) -> int:
        """Width of the hidden state that is aligned."""
        return self.output.in_features

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
