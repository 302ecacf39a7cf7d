"""Matrices that may be in a file: parts of them, or all of them, in memory. For numpy, scipy, h5py, zarr and dask."""

import logging
from collections.abc import Callable, Iterator

import numpy as np

logger = logging.getLogger(__name__)

#: Rows of counts that are read or checked at once.
ROWS_AT_A_TIME = 4096


def is_stored(matrix) -> bool:
    """Whether a matrix is somewhere else than in memory."""
    return not (isinstance(matrix, np.ndarray) or hasattr(matrix, "toarray"))


def read_rows(matrix) -> Iterator[tuple[slice, object]]:
    """A matrix of counts, 4,096 rows at a time.

    Parameters
    ----------
    matrix
        ``(n_spots, n_genes)``: a numpy array or scipy matrix, or one that is in an h5ad file, in a zarr store or of
        dask. A sparse matrix that is not stored by spots (csr) comes as a whole, and stays sparse.

    Yields
    ------
    Rows and their counts, ``(n_rows, n_genes)``, in memory, numpy or scipy sparse.
    """
    if getattr(matrix, "format", "csr") != "csr":
        if is_stored(matrix):
            logger.warning("Counts are stored by genes (csc) and read as a whole; by spots (csr) they come in parts.")
        yield slice(None), in_memory(matrix)
        return
    for start in range(0, max(matrix.shape[0], 1), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        part = matrix[rows]
        yield rows, part.compute() if hasattr(part, "compute") else part


def row_sums(matrix, check: Callable[[object], None] | None = None) -> np.ndarray:
    """Sums ``(n_spots,)`` float64 over the genes of a matrix, in parts; ``check`` is called with each part."""
    sums = []
    for _, part in read_rows(matrix):
        if check is not None:
            check(part)
        sums.append(np.asarray(part.sum(axis=1), dtype=np.float64).ravel())
    return np.concatenate(sums)


def in_memory(matrix):
    """All of a matrix: numpy or scipy sparse as it is, anything else read as a whole."""
    if not is_stored(matrix):
        return matrix
    for load in ("to_memory", "compute"):
        if hasattr(matrix, load):
            return getattr(matrix, load)()
    return matrix[:]
