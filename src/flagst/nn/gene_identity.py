"""A learnt vector per gene that follows the vectors of a gene model."""

import torch
from torch import Tensor, nn


class TiedIdentity(nn.Module):
    """Identity vectors of genes as a linear map of their gene-model vectors; genes without one keep their own.

    The map's first weights give the vectors the spread that the free ones have.

    Parameters
    ----------
    vectors
        ``(n_genes, d_gene)`` of length 1.
    mask
        ``(n_genes,)`` bool, genes that have one.
    free
        ``(n_genes, width)`` identity vectors they stand in for.
    """

    def __init__(self, vectors: Tensor, mask: Tensor, free: Tensor):
        super().__init__()
        self.map = nn.Linear(vectors.shape[1], free.shape[1], bias=False)
        nn.init.normal_(self.map.weight, std=float(free.detach().std()))
        self.register_buffer("vectors", vectors)
        self.register_buffer("mask", mask)

    def forward(self, free: Tensor) -> Tensor:
        """``(n_genes, width)`` free vectors -> those to use."""
        return torch.where(self.mask[:, None], self.map(self.vectors), free)


def start_from_vectors(free: nn.Parameter, vectors: Tensor, mask: Tensor) -> None:
    """Give free identity vectors the similarities of gene-model vectors to start from.

    Parameters
    ----------
    free
        ``(n_genes, width)``, changed in place.
    vectors, mask
        As in :class:`TiedIdentity`.
    """
    with torch.no_grad():
        free.copy_(TiedIdentity(vectors.to(free), mask.to(free.device), free)(free))
