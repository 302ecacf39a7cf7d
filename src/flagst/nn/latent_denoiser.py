"""Latent denoiser: one state vector per spot, neighbours mixed in every block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from flagst.nn.embeddings import NoiseLevelEmbedding

#: Devices on which neighbours are summed without a copy of the states per edge: thirty times faster on a CPU.
SUMMED_IN_PLACE = ("cpu", "cuda")


class NeighbourMean(MessagePassing):
    """Weighted mean of the neighbours' states; weights of a spot's edges sum to one."""

    def __init__(self):
        super().__init__(aggr="add", node_dim=0)

    def forward(self, y: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        """``y: (n_spots, ...)``, ``edge_index: (2, n_edges)`` source then target, ``edge_weight: (n_edges,)``."""
        if y.device.type not in SUMMED_IN_PLACE:
            return self.propagate(edge_index, y=y, edge_weight=edge_weight, size=(len(y), len(y)))
        (source, target), edge_weight = edge_index, edge_weight.to(y.dtype)
        if (target[1:] < target[:-1]).any():
            order = torch.argsort(target, stable=True)
            source, target, edge_weight = source[order], target[order], edge_weight[order]
        ends = torch.bincount(target, minlength=len(y)).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        out = F.embedding_bag(source, y.flatten(1), starts, mode="sum", per_sample_weights=edge_weight)
        return out.view(y.shape)

    def message(self, y_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.view(-1, *(1,) * (y_j.dim() - 1)) * y_j


class AdaLNBlock(nn.Module):
    """Residual MLP block with AdaLN-Zero conditioning, after a zero-initialised neighbour mix."""

    def __init__(self, width: int, d_condition: int, dropout: float):
        super().__init__()
        self.neighbours = NeighbourMean()
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.condition = nn.Linear(d_condition, 3 * width)
        for layer in (self.mix, self.condition):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor, condition: Tensor, mix_index: Tensor | None, mix_weight: Tensor | None) -> Tensor:
        if mix_index is not None:
            y = y + self.mix(self.neighbours(y, mix_index, mix_weight))
        scale, shift, gate = self.condition(condition).chunk(3, dim=-1)
        return y + gate * self.mlp(self.norm(y) * (1 + scale) + shift)


def require_block(align_block: int, n_blocks: int) -> int:
    """The block to align, or a ``ValueError`` when there is no such block."""
    if not 1 <= align_block <= n_blocks:
        raise ValueError(f"align_block must be a block of the denoiser, 1 to {n_blocks}; got {align_block}.")
    return align_block


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
