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

    def forward(self, hidden: Tensor, genes: Tensor | slice = slice(None)) -> Tensor:
        """Read-out of some genes, all by default.

        ``(n_spots, width)`` or ``(n_spots, n_genes, width)`` -> ``(n_spots, n_read, d_gene)``.
        """
        if hidden.dim() == 3:
            return self.output(self.hidden(hidden[:, genes]))
        return self.output(self.hidden(hidden)[:, None] * self.query[genes])


def contextual_embedding(expression: Tensor, vectors: Tensor, genes: Tensor | slice = slice(None)) -> Tensor:
    """Give static gene vectors the context of a spot.

    ``c_sg = sum_g' (f_g . f_g') x_sg' f_g'``: the vectors of the genes that ``g`` goes with, each
    weighted by how far it is up or down in the spot. A vector per gene alone could be matched by
    the gene queries, with the image and the state unused; this one cannot.

    Parameters
    ----------
    expression
        ``(n_spots, n_genes)`` standardised.
    vectors
        ``(n_genes, d_gene)`` static vectors.
    genes
        Which genes to give; all by default.

    Returns
    -------
    ``(n_spots, n_given, d_gene)``.
    """
    pairs = (vectors[:, :, None] * vectors[:, None]).flatten(start_dim=1)
    spot = (expression @ pairs / len(vectors)).view(len(expression), *(vectors.shape[1],) * 2)
    return vectors[genes] @ spot


def alignment_loss(readout: Tensor, embedding: Tensor) -> Tensor:
    """``1 - cos``, mean over genes.

    Parameters
    ----------
    readout, embedding
        ``(n_spots, n_genes, d_gene)``, genes that have an embedding only.

    Returns
    -------
    ``(n_spots,)`` loss of each spot: 0 when aligned, 1 when unrelated.

    Source
    ------
    FLAG (arXiv 2605.18055), ``L_align``; the constant 1 is ours, so that the loss is not negative.
    """
    return 1 - F.cosine_similarity(readout, embedding, dim=-1).mean(dim=-1)


#: Genes read out per training step; a fresh random subset each time keeps the cost free of the panel.
MAX_GENES = 64


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
        known = torch.nonzero(self.mask)[:, 0]
        genes = known
        if self.training and len(known) > MAX_GENES:
            genes = known[torch.randperm(len(known), device=known.device)[:MAX_GENES]]
        readout = self.readout(hidden, genes)
        target = contextual_embedding(expression, self.vectors, genes)
        losses = {"align_loss": alignment_loss(readout, target)}
        if controls is not None:
            other = known[torch.randperm(len(known), generator=controls).to(known.device)]
            spots = torch.randperm(len(expression), generator=controls).to(hidden.device)
            vectors = self.vectors.clone()
            vectors[known] = self.vectors[other]
            shuffled = contextual_embedding(expression, vectors, genes)
            losses["align_loss_shuffled_genes"] = alignment_loss(readout, shuffled)
            losses["align_loss_shuffled_spots"] = alignment_loss(readout, target[spots])
        return losses
