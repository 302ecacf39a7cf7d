"""Cells as ranked genes: the tokens of Geneformer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Counts are scaled to this many per cell before they are divided by the median of a gene.
TARGET_SUM = 10_000


@dataclass(frozen=True)
class RankTokeniser:
    """Turns counts into Geneformer's rank-value tokens.

    A cell is its expressed genes in falling order of counts, scaled to 10,000 per cell and divided by the gene's
    median over the pretraining cells: genes that are high for what they usually are come first. Equal values are in
    the order of their tokens, so that the order of genes in the table does not matter.

    Attributes
    ----------
    tokens
        Ensembl identifier to token; ``<cls>`` and ``<eos>`` are put around a cell where they are there (V2).
    medians
        Ensembl identifier to median.
    length
        Most tokens of a cell: 2,048 (V1), 4,096 (V2).

    Source
    ------
    Theodoris et al., Nature 2023.
    """

    tokens: Mapping[str, int]
    medians: Mapping[str, float]
    length: int

    def __post_init__(self):
        if self.length < 3:
            raise ValueError(f"length must be 3 or more; got {self.length}.")

    def columns(self, ensembl: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns with a token and a median, their tokens, and their medians; ``None`` is a gene without identifier."""
        kept = [i for i, name in enumerate(ensembl) if name in self.tokens and self.medians.get(name, 0) > 0]
        tokens = np.array([self.tokens[ensembl[i]] for i in kept], dtype=np.int64)
        medians = np.array([self.medians[ensembl[i]] for i in kept], dtype=np.float64)
        return np.array(kept, dtype=np.int64), tokens, medians

    def __call__(self, counts, ensembl: Sequence[str | None]) -> list[np.ndarray]:
        """Tokens of every cell.

        Parameters
        ----------
        counts
            ``(n_cells, n_genes)`` raw counts of the whole transcriptome, dense or scipy sparse: the total of a cell
            is over all its genes.
        ensembl
            ``(n_genes,)`` Ensembl identifiers without version. Columns with one identifier are summed.

        Returns
        -------
        Per cell int64 tokens, at most ``length``; empty but for the marks for a cell without known genes.

        Raises
        ------
        ValueError
            As many names as columns are needed, and at least one that is known.
        """
        import scipy.sparse as sp

        if counts.shape[1] != len(ensembl):
            raise ValueError(f"counts have {counts.shape[1]} genes, and there are {len(ensembl)} names.")
        columns, tokens, medians = self.columns(ensembl)
        if not len(columns):
            raise ValueError(f"No gene has a token. Names look like {list(ensembl[:3])}.")
        matrix = sp.csr_matrix(counts)
        totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
        known, unique, code = sum_by_token(matrix, columns, tokens)
        of_token = np.empty(len(unique))
        of_token[code] = medians
        start, end = ([self.tokens[mark]] if mark in self.tokens else [] for mark in ("<cls>", "<eos>"))
        room = self.length - len(start) - len(end)
        out = []
        for i in range(known.shape[0]):
            row = slice(known.indptr[i], known.indptr[i + 1])
            found = known.indices[row]  # rising, so that a stable sort leaves ties in the order of tokens
            value = known.data[row] / totals[i] * TARGET_SUM / of_token[found] if len(found) else np.zeros(0)
            ranked = unique[found[np.argsort(-value, kind="stable")]][:room]
            out.append(np.concatenate([start, ranked, end]).astype(np.int64))
        return out


def sum_by_token(matrix, columns: np.ndarray, tokens: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """Counts per token: columns with one token are summed.

    Parameters
    ----------
    matrix
        ``(n_cells, n_genes)`` scipy sparse counts.
    columns, tokens
        ``(n_known,)`` int64, columns that have a token, and it.

    Returns
    -------
    ``(n_cells, n_tokens)`` CSR counts without stored zeros, each row in the order of tokens; ``(n_tokens,)`` int64, the
    tokens, rising; ``(n_known,)`` int64, the position there of each column's token.
    """
    import scipy.sparse as sp

    unique, code = np.unique(tokens, return_inverse=True)
    sums = sp.csr_matrix((np.ones(len(columns)), (columns, code)), shape=(matrix.shape[1], len(unique)))
    counts = sp.csr_matrix(matrix @ sums)
    counts.sort_indices()
    counts.eliminate_zeros()
    return counts, unique, code
