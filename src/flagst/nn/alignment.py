"""Alignment: a per-gene read-out of the hidden state, pulled towards gene-model embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GeneReadout(nn.Module):
    """Read a vector per spot and gene out of a hidden state.

    ``r_sg = W(MLP(h_s) * q_g)`` with a learnt query ``q_g`` per gene. A hidden state that already
    has one vector per gene (gene tokens, ``(n_spots, n_genes, width)``) needs no query.

    Parameters
    ----------
    width
        Width of the hidden state.
    n_genes
        Genes that have a query.
    d_gene
        Width of the gene embeddings.
    """

    def __init__(self, width: int, n_genes: int, d_gene: int, *, d_query: int = 64):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, d_query), nn.SiLU(), nn.Linear(d_query, d_query))
        self.query = nn.Parameter(torch.randn(n_genes, d_query) / d_query**0.5)
        self.output = nn.Linear(d_query, d_gene)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(n_spots, width)`` or ``(n_spots, n_genes, width)`` -> ``(n_spots, n_genes, d_gene)``."""
        state = self.hidden(hidden)
        if state.dim() == 2:
            state = state[:, None] * self.query
        return self.output(state)


def contextual_embedding(expression: Tensor, genes: Tensor) -> Tensor:
    """Give static gene vectors the context of a spot.

    ``c_sg = sum_g' (f_g . f_g') x_sg' f_g'``: the vectors of the genes that ``g`` goes with, each
    weighted by how far it is up or down in the spot. A vector per gene alone could be matched by
    the gene queries, with the image and the state unused; this one cannot.

    Parameters
    ----------
    expression
        ``(n_spots, n_genes)`` standardised.
    genes
        ``(n_genes, d_gene)`` static vectors.

    Returns
    -------
    ``(n_spots, n_genes, d_gene)``.
    """
    spot = torch.einsum("sg,gd,ge->sde", expression, genes, genes) / len(genes)
    return torch.einsum("sde,ge->sgd", spot, genes)


def alignment_loss(readout: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:
    """``1 - cos``, mean over the genes that have an embedding.

    Parameters
    ----------
    readout, embedding
        ``(n_spots, n_genes, d_gene)``.
    mask
        ``(n_genes,)`` bool, genes the gene model knows.

    Returns
    -------
    ``(n_spots,)`` loss of each spot: 0 when aligned, 1 when unrelated.

    Source
    ------
    FLAG (arXiv 2605.18055), ``L_align``; the constant 1 is ours, so that the loss is not negative.
    """
    cosine = F.cosine_similarity(readout[:, mask], embedding[:, mask], dim=-1)
    return 1 - cosine.mean(dim=-1)


class AlignmentHead(nn.Module):
    """Read-out, gene embeddings and loss, with two controls that tell what was learnt.

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
    """

    def __init__(self, width: int, vectors: Tensor, mask: Tensor, *, weight: float):
        super().__init__()
        self.weight = weight
        self.readout = GeneReadout(width, *vectors.shape)
        self.register_buffer("vectors", vectors)
        self.register_buffer("mask", mask)

    def forward(
        self, hidden: Tensor, expression: Tensor, *, controls: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Alignment loss of each spot, ``(n_spots,)``, and the controls if asked for.

        ``align_loss_shuffled_genes`` scores the read-out against the embeddings of other genes,
        ``align_loss_shuffled_spots`` against the context of other spots. A head that has learnt
        gene identities and nothing of the tissue does as well on the second as on the loss itself.

        Parameters
        ----------
        hidden
            ``(n_spots, width)``, or one vector per gene.
        expression
            ``(n_spots, n_genes)`` standardised measured expression.
        controls
            Generator of the shuffles; ``None`` for no controls.
        """
        readout = self.readout(hidden)
        target = contextual_embedding(expression, self.vectors)
        losses = {"align_loss": alignment_loss(readout, target, self.mask)}
        if controls is not None:
            genes = torch.randperm(len(self.vectors), generator=controls).to(hidden.device)
            spots = torch.randperm(len(expression), generator=controls).to(hidden.device)
            shuffled = contextual_embedding(expression, self.vectors[genes])
            losses["align_loss_shuffled_genes"] = alignment_loss(readout, shuffled, self.mask)
            losses["align_loss_shuffled_spots"] = alignment_loss(readout, target[spots], self.mask)
        return losses
