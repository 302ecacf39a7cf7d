"""Cells as ranked genes: the tokens of Geneformer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Counts are scaled to this total per cell before they are divided by the median of a gene.
TARGET_SUM = 10_000


@dataclass(frozen=True)
class RankTokeniser:
    """Turns counts ``(n_spots, n_genes)`` into the rank-value tokens of Geneformer, at most ``(length,)`` per spot.

    A cell becomes its expressed genes, in falling order of their counts, scaled to 10,000 per cell and divided by the
    median of the gene over the pretraining cells. A gene that is high for its own standards therefore comes first.
    Equal values are in the order of their tokens, so that the order of genes in the table does not matter.

    Attributes
    ----------
    tokens
        Ensembl identifier to token. If ``<cls>`` and ``<eos>`` are among them (V2), they enclose each cell.
    medians
        Ensembl identifier to median.
    length
        Largest number of tokens of a cell, 3 or more: 2,048 (V1), 4,096 (V2).

    Raises
    ------
    ValueError
        ``length`` is below 3.

    Source
    ------
    Theodoris et al., Nature 2023.

    Examples
    --------
    >>> tokeniser = flagst.gfm.RankTokeniser({"ENSG1": 5, "ENSG2": 6}, {"ENSG1": 1.0, "ENSG2": 3.0}, length=2048)
    >>> tokeniser(np.array([[2, 3], [0, 1]]), ["ENSG1", "ENSG2"])
    [array([5, 6]), array([6])]
    """

    tokens: Mapping[str, int]
    medians: Mapping[str, float]
    length: int

    def __post_init__(self):
        if self.length < 3:
            raise ValueError(f"length must be 3 or more; got {self.length}.")

    def columns(self, ensembl: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the columns that have a token and a median.

        Parameters
        ----------
        ensembl
            ``n_genes`` Ensembl identifiers without version; ``None`` for a gene without identifier.

        Returns
        -------
        columns
            ``(n_known,)`` int64.
        tokens
            ``(n_known,)`` int64.
        medians
            ``(n_known,)`` float64.

        Examples
        --------
        >>> tokeniser = flagst.gfm.RankTokeniser({"ENSG1": 5, "ENSG2": 6}, {"ENSG1": 1.0, "ENSG2": 3.0}, length=2048)
        >>> tokeniser.columns([None, "ENSG2"])
        (array([1]), array([6]), array([3.]))
        """
        kept = [i for i, name in enumerate(ensembl) if name in self.tokens and self.medians.get(name, 0) > 0]
        tokens = np.array([self.tokens[ensembl[i]] for i in kept], dtype=np.int64)
        medians = np.array([self.medians[ensembl[i]] for i in kept], dtype=np.float64)
        return np.array(kept, dtype=np.int64), tokens, medians

    def __call__(self, counts, ensembl: Sequence[str | None]) -> list[np.ndarray]:
        """Return the tokens of each cell.

        Parameters
        ----------
        counts
            ``(n_cells, n_genes)`` raw counts of the whole transcriptome, dense or scipy sparse. The total of a cell is
            over all its genes.
        ensembl
            ``n_genes`` Ensembl identifiers without version; ``None`` for a gene without identifier. Columns with the
            same identifier are summed.

        Returns
        -------
        Per cell ``(n_tokens,)`` int64, at most ``length`` tokens. A cell without known genes has ``<cls>`` and
        ``<eos>`` only, if these exist.

        Raises
        ------
        ValueError
            The number of identifiers differs from the number of columns, or none of them has a token.

        Examples
        --------
        >>> tokeniser = flagst.gfm.RankTokeniser({"ENSG1": 5, "ENSG2": 6}, {"ENSG1": 1.0, "ENSG2": 3.0}, length=2048)
        >>> tokeniser(np.array([[2, 7]]), ["ENSG1", "ENSG2"])
        [array([6, 5])]
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
            found = known.indices[row]  # rising, so that a stable sort keeps ties in the order of tokens
            value = known.data[row] / totals[i] * TARGET_SUM / of_token[found] if len(found) else np.zeros(0)
            ranked = unique[found[np.argsort(-value, kind="stable")]][:room]
            out.append(np.concatenate([start, ranked, end]).astype(np.int64))
        return out


def sum_by_token(matrix, columns: np.ndarray, tokens: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """Sum the counts of columns with the same token.

    ``matrix`` is (n_cells, n_genes) scipy sparse counts; ``columns`` and ``tokens`` are (n_known,) int64: the columns
    that have a token, and the tokens.

    Returns (n_cells, n_tokens) CSR counts without stored zeros, each row in the order of tokens; (n_tokens,) int64
    rising tokens; and (n_known,) int64, the position of each column among these tokens.
    """
    import scipy.sparse as sp

    unique, code = np.unique(tokens, return_inverse=True)
    sums = sp.csr_matrix((np.ones(len(columns)), (columns, code)), shape=(matrix.shape[1], len(unique)))
    counts = sp.csr_matrix(matrix @ sums)
    counts.sort_indices()
    counts.eliminate_zeros()
    return counts, unique, code
