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

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import GeneReadout
    >>> GeneReadout(16, n_genes=5, d_gene=3)(torch.randn(7, 16)).shape
    torch.Size([7, 5, 3])
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

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import contextual_embedding
    >>> contextual_embedding(torch.randn(7, 5), torch.eye(5)).shape
    torch.Size([7, 5, 5])
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

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import alignment_loss
    >>> vectors = torch.ones(2, 3, 4)
    >>> alignment_loss(vectors, vectors).abs() < 1e-6
    tensor([True, True])
    """
    cosine = F.cosine_similarity(readout, embedding, dim=-1)
    if there is None:
        return 1 - cosine.mean(dim=-1)
    return ((1 - cosine) * there).sum(dim=-1) / there.sum(dim=-1).clamp(min=1)
