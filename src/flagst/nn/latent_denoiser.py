"""Latent denoiser: one state vector per spot, neighbours mixed in every block."""

from torch import Tensor, nn

from flagst.nn.blocks import AdaLNBlock, require_block
from flagst.nn.embeddings import NoiseLevelEmbedding


class LatentDenoiser(nn.Module):
    """Network ``F(x, sigma | context)`` on a few latent components per spot.

    Cost is free of the number of genes. With a mixing graph the spots of a section are denoised
    jointly; without one (``mix_index=None``) each spot is on its own.

    Parameters
    ----------
    d_state
        Number of latent components.
    d_context
        Width of the context H.
    width, n_blocks, dropout
        Width, depth and dropout rate of the residual MLP.
    align_block
        The block (counted from 1) whose output is returned for alignment.

    Raises
    ------
    ValueError
        There is no such block.

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import LatentDenoiser
    >>> denoiser = LatentDenoiser(4, 8, width=32)
    >>> [part.shape for part in denoiser(torch.randn(7, 4), torch.ones(7, 1), torch.randn(7, 8), None, None)]
    [torch.Size([7, 4]), torch.Size([7, 32])]
    """

    def __init__(
        self,
        d_state: int,
        d_context: int,
        *,
        width: int = 256,
        n_blocks: int = 3,
        dropout: float = 0.3,
        align_block: int = 2,
    ):
        super().__init__()
        self.align_block = require_block(align_block, n_blocks)
        self.noise_level = NoiseLevelEmbedding(d_context)
        self.activation = nn.SiLU()
        self.input = nn.Linear(d_state, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width, d_context, dropout) for _ in range(n_blocks))
        self.output = nn.Linear(width, d_state)
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
        """Raw output and the hidden state for alignment.

        Parameters
        ----------
        x
            ``(n_spots, d_state)`` scaled noisy states.
        sigma
            ``(n_spots, 1)`` noise levels.
        context
            ``(n_spots, d_context)``.
        mix_index, mix_weight
            ``(2, n_mix_edges)`` without self-edges and ``(n_mix_edges,)``, or ``None``.

        Returns
        -------
        ``(n_spots, d_state)`` and ``(n_spots, width)``.
        """
        condition = self.activation(self.noise_level(sigma) + context)
        y, hidden = self.input(x), None
        for number, block in enumerate(self.blocks, start=1):
            y = block(y, condition, mix_index, mix_weight)
            if number == self.align_block:
                hidden = y
        return self.output(y), hidden
