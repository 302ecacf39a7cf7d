"""Alignment: a per-gene read-out of the hidden state, pulled towards gene-model embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flagst.nn.gene_identity import TiedIdentity


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

    Attributes
    ----------
    tied
        Where queries come from when they follow a gene model, see :meth:`tie`.
    """

    def __init__(self, width: int, n_genes: int, d_gene: int, *, d_query: int = 64):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, d_query), nn.SiLU(), nn.Linear(d_query, d_query))
        self.query = nn.Parameter(torch.randn(n_genes, d_query) / d_query**0.5)
        self.output = nn.Linear(d_query, d_gene)
        self.tied: TiedIdentity | None = None

    def tie(self, vectors: Tensor, mask: Tensor) -> None:
        """Make queries a linear map of gene-model vectors, see :class:`flagst.nn.TiedIdentity`."""
        self.tied = TiedIdentity(vectors, mask, self.query)

    def forward(self, hidden: Tensor, genes: Tensor | slice = slice(None)) -> Tensor:
        """Read-out of some genes, all by default.

        ``(n_spots, width)`` or ``(n_spots, n_genes, width)`` -> ``(n_spots, n_read, d_gene)``.
        """
        if hidden.dim() == 3:
            return self.output(self.hidden(hidden[:, genes]))
        query = self.query if self.tied is None else self.tied(self.query)
        return self.output(self.hidden(hidden)[:, None] * query[genes])


def contextual_embedding(expression: Tensor, vectors: Tensor, genes: Tensor | slice = slice(None)) -> Tensor:
    """Give static gene vectors the context of a spot.

    ``c_sg = (1 / n_genes) sum_g' (f_g . f_g') x_sg' f_g'``: the vectors of the genes that ``g`` goes with, each
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


def alignment_loss(readout: Tensor, embedding: Tensor, there: Tensor | None = None) -> Tensor:
    """``1 - cos``, mean over genes.

    Parameters
    ----------
    readout, embedding
        ``(n_spots, n_genes, d_gene)``, genes that have an embedding only.
    there
        ``(n_spots, n_genes)`` bool, where a gene has an embedding in a spot; ``None`` for everywhere. A spot without
        any has no loss.

    Returns
    -------
    ``(n_spots,)`` loss of each spot: 0 when aligned, 1 when unrelated.

    Source
    ------
    FLAG (arXiv 2605.18055), ``L_align``; the constant 1 is ours, so that the loss is not negative.
    """
    cosine = F.cosine_similarity(readout, embedding, dim=-1)
    if there is None:
        return 1 - cosine.mean(dim=-1)
    return ((1 - cosine) * there).sum(dim=-1) / there.sum(dim=-1).clamp(min=1)


def similarity_loss(readout: Tensor, vectors: Tensor) -> Tensor:
    """Squared difference of the genes' cosines in a spot's read-out and among their static vectors.

    Parameters
    ----------
    readout
        ``(n_spots, n_genes, d)``.
    vectors
        ``(n_genes, d_gene)`` of length 1.

    Returns
    -------
    ``(n_spots,)``: 0 when all pairs of genes have the same cosine, 1 for a read-out whose genes are all unlike.
    """
    unit = F.normalize(readout, dim=-1)
    pairs = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    wanted = (vectors @ vectors.T)[pairs]
    found = (unit @ unit.transpose(1, 2))[:, pairs]
    return (found - wanted).square().sum(dim=-1) / wanted.square().sum().clamp(min=1e-12)
