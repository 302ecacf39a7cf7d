"""Moran's I over nearest neighbours, in numpy alone."""

import numpy as np

#: Variance below this share of the mean square is rounding.
CONSTANT = 1e-10


def neighbour_moran(values: np.ndarray, neighbours: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Moran's I of every column, with equal weights to each spot's nearest neighbours.

    :func:`flagst.metrics.morans_i` on :func:`flagst.data.graph.moran_graph`, without a sparse matrix.

    Parameters
    ----------
    values
        ``(n_spots, n_columns)``.
    neighbours
        ``(n_rows, k)`` int, positions in ``values``.
    rows
        ``(n_rows,)`` spots that are summed over; ``None`` for all.

    Returns
    -------
    ``(n_columns,)`` float64; 0 for constant columns.
    """
    values = np.asarray(values, dtype=np.float64)
    centred = values - values.mean(axis=0)
    own = centred if rows is None else centred[rows]
    variance = (own**2).sum(axis=0)
    constant = (centred**2).mean(axis=0) <= CONSTANT * np.maximum((values**2).mean(axis=0), CONSTANT)
    # neighbour by neighbour: all at once would take k times the memory of the values
    around = sum(centred[nearest] for nearest in neighbours.T) / neighbours.shape[1]
    return np.where(constant, 0.0, (own * around).sum(axis=0) / np.where(variance > 0, variance, np.inf))
