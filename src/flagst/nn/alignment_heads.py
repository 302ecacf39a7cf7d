"""What the hidden state is aligned to: heads with the loss of every spot, and controls that tell what was learnt.

A head is called with the hidden state of the alignment block, ``(n_spots, width)`` or one vector per gene, the
standardised measured expression ``(n_spots, n_genes)`` and, where the gene model has vectors per spot, those of the
window. It returns named losses, ``(n_spots,)`` each; ``align_loss`` is the one to add to the denoising loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flagst.nn.alignment import GeneReadout, alignment_loss, contextual_embedding

#: Genes read out per step; a random subset keeps the cost free of the panel.
MAX_GENES = 64

LOSS, SHUFFLED_GENES, SHUFFLED_SPOTS = "align_loss", "align_loss_shuffled_genes", "align_loss_shuffled_spots"


def choose_genes(mask: Tensor, *, training: bool) -> Tensor:
    """Genes that are read out now, ``(n_read,)`` int64: all that have a vector, or 64 of them.

    In training a fresh random subset each time, otherwise always the same.

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import choose_genes
    >>> choose_genes(torch.tensor([True, False, True]), training=False)
    tensor([0, 2])
    """
    known = torch.nonzero(mask)[:, 0]
    if len(known) <= MAX_GENES:
        return known
    generator = None if training else torch.Generator().manual_seed(0)
    order = torch.randperm(len(known), generator=generator, device=known.device if training else None)
    return known[order[:MAX_GENES].to(known.device)]


class _GeneHead(nn.Module):
    """Read-out of genes that have a vector."""

    def __init__(self, width: int, shape: tuple[int, int], mask: Tensor, weight: float):
        super().__init__()
        self.weight = weight
        self.readout = GeneReadout(width, *shape)
        self.register_buffer("mask", mask)


class AlignmentHead(_GeneHead):
    """Static gene vectors, put in the context of the spot: see :func:`flagst.nn.contextual_embedding`.

    ``align_loss_shuffled_genes`` scores the read-out against the embeddings of other genes,
    ``align_loss_shuffled_spots`` against the context of other spots. A head that has learnt gene identities and nothing
    of the tissue does as well on the second as on the loss itself.

    Parameters
    ----------
    width
        Width of the hidden state.
    vectors
        ``(n_genes, d_gene)`` gene embeddings.
    mask
        ``(n_genes,)`` bool, genes that have one.
    weight
        Weight of the loss beside the denoising loss.

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import AlignmentHead
    >>> head = AlignmentHead(16, torch.eye(5), torch.ones(5, dtype=torch.bool), weight=0.5)
    >>> head(torch.randn(7, 16), torch.randn(7, 5))["align_loss"].shape
    torch.Size([7])
    """

    def __init__(self, width: int, vectors: Tensor, mask: Tensor, *, weight: float):
        super().__init__(width, tuple(vectors.shape), mask, weight)
        self.register_buffer("vectors", vectors)

    def forward(
        self,
        hidden: Tensor,
        expression: Tensor,
        embedding: Tensor | None = None,
        genes: Tensor | None = None,
        *,
        controls: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses ``(n_spots,)``; the controls with a generator of their shuffles.

        Parameters
        ----------
        hidden, expression
            ``(n_spots, width)`` or ``(n_spots, n_genes, width)``, and ``(n_spots, n_genes)`` standardised.
        embedding, genes
            Not used here: they are for heads with vectors per spot.
        controls
            Generator of the shuffles; ``None`` for no controls.
        """
        known, genes = torch.nonzero(self.mask)[:, 0], choose_genes(self.mask, training=self.training)
        readout = self.readout(hidden, genes)
        target = contextual_embedding(expression, self.vectors, genes)
        losses = {LOSS: alignment_loss(readout, target)}
        if controls is not None:
            other = known[torch.randperm(len(known), generator=controls).to(known.device)]
            spots = torch.randperm(len(expression), generator=controls).to(hidden.device)
            vectors = self.vectors.clone()
            vectors[known] = self.vectors[other]
            losses[SHUFFLED_GENES] = alignment_loss(readout, contextual_embedding(expression, vectors, genes))
            losses[SHUFFLED_SPOTS] = alignment_loss(readout, target[spots])
        return losses


class ContextualHead(_GeneHead):
    """Vectors per spot and gene out of a gene model, such as the hidden states of Geneformer.

    Most of such a vector is the gene and not the spot, and could be matched without looking at the tissue: each gene's
    mean over the training spots is taken off.

    Parameters
    ----------
    width
        Width of the hidden state.
    centre
        ``(n_genes, d_gene)`` mean of every gene's vectors over the training spots.
    mask
        ``(n_genes,)`` bool, genes that have a vector in some spot.
    weight
        Weight of the loss beside the denoising loss.

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import ContextualHead
    >>> head = ContextualHead(16, torch.zeros(5, 3), torch.ones(5, dtype=torch.bool), weight=0.5)
    >>> vectors, genes = torch.randn(7, 2, 3), torch.tensor([0, 4])
    >>> head(torch.randn(7, 16), torch.randn(7, 5), vectors, genes)["align_loss"].shape
    torch.Size([7])
    """

    def __init__(self, width: int, centre: Tensor, mask: Tensor, *, weight: float):
        super().__init__(width, tuple(centre.shape), mask, weight)
        self.register_buffer("centre", centre)

    def forward(
        self,
        hidden: Tensor,
        expression: Tensor,
        embedding: Tensor,
        genes: Tensor,
        *,
        controls: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses of each spot; ``embedding (n_spots, n_read, d_gene)`` of ``genes (n_read,)``, zero where unknown."""
        readout, raw = self.readout(hidden, genes), embedding.to(hidden)
        there = raw.any(dim=-1)
        target = torch.where(there[..., None], raw - self.centre[genes], 0)
        losses = {LOSS: alignment_loss(readout, target, there)}
        if controls is not None:
            other = torch.randperm(len(genes), generator=controls).to(genes.device)
            spots = torch.randperm(len(target), generator=controls).to(hidden.device)
            losses[SHUFFLED_GENES] = alignment_loss(readout, target[:, other], there[:, other])
            losses[SHUFFLED_SPOTS] = alignment_loss(readout, target[spots], there[spots])
        return losses


class CellHead(nn.Module):
    """One vector per spot out of a gene model, less its mean over the training spots.

    Parameters
    ----------
    width
        Width of the hidden state; gene tokens are averaged.
    centre
        ``(d_cell,)`` mean over the training spots.
    weight
        Weight of the loss beside the denoising loss.
    d_hidden
        Width of the read-out's hidden layer.

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import CellHead
    >>> head = CellHead(16, torch.zeros(3), weight=0.5)
    >>> head(torch.randn(7, 16), torch.randn(7, 5), torch.randn(7, 3))["align_loss"].shape
    torch.Size([7])
    """

    def __init__(self, width: int, centre: Tensor, *, weight: float, d_hidden: int = 64):
        super().__init__()
        self.weight = weight
        self.readout = nn.Sequential(nn.Linear(width, d_hidden), nn.SiLU(), nn.Linear(d_hidden, len(centre)))
        self.register_buffer("centre", centre)

    def forward(
        self,
        hidden: Tensor,
        expression: Tensor,
        embedding: Tensor,
        genes: Tensor | None = None,
        *,
        controls: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses of each spot; ``embedding (n_spots, d_cell)``, zero for a spot without a vector."""
        readout = self.readout(hidden if hidden.dim() == 2 else hidden.mean(dim=1))
        raw = embedding.to(hidden)
        there = raw.any(dim=-1)
        target = torch.where(there[:, None], raw - self.centre, 0)

        def loss(target: Tensor, there: Tensor) -> Tensor:
            return torch.where(there, 1 - F.cosine_similarity(readout, target, dim=-1), 0)

        losses = {LOSS: loss(target, there)}
        if controls is not None:
            spots = torch.randperm(len(target), generator=controls).to(hidden.device)
            losses[SHUFFLED_SPOTS] = loss(target[spots], there[spots])
        return losses
