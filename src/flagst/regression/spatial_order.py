"""Moran's I over nearest neighbours, in numpy alone."""

import numpy as np


def neighbour_moran(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Moran's I of every column, with equal weights to each spot's nearest neighbours.

    :func:`flagst.metrics.morans_i` on :func:`flagst.data.graph.moran_graph`, without a sparse matrix.

    Parameters
    ----------
    values
        ``(n_spots, n_columns)``.
    neighbours
        ``(n_spots, k)`` int.

    Returns
    -------
    ``(n_columns,)``; 0 for constant columns.
    """
    centred = values - values.mean(axis=0)
    variance = (centred**2).sum(axis=0)
    # neighbour by neighbour: all at once would take k times the memory of the values
    around = sum(centred[nearest] for nearest in neighbours.T) / neighbours.shape[1]
    return (centred * around).sum(axis=0) / np.where(variance > 1e-12, variance, np.inf)
