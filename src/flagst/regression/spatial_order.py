"""Moran's I over nearest neighbours, in numpy alone."""

import numpy as np

#: Variance below this share of the mean square is rounding.
CONSTANT = 1e-10
#: Of fewer genes no line is fitted.
MIN_GENES = 20


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
    around = _neighbour_mean(centred, neighbours)
    return np.where(constant, 0.0, (own * around).sum(axis=0) / np.where(variance > 0, variance, np.inf))


class MoranSums:
    """:func:`neighbour_moran` of a section that is too large to hold, summed up part by part."""

    def __init__(self):
        self.n_spots = self.n_rows = 0
        self.sums = 0.0

    def add(self, values: np.ndarray, neighbours: np.ndarray, rows: np.ndarray, new: np.ndarray) -> None:
        """Add some spots.

        Parameters
        ----------
        values
            ``(n_part, n_columns)``: spots that are summed over, and their neighbours.
        neighbours, rows
            ``(n_rows, k)`` and ``(n_rows,)`` positions in ``values``; no spot is summed over in two parts.
        new
            ``(n_part,)`` bool, spots that were in no part before: each counts once in the mean.
        """
        values = np.asarray(values, dtype=np.float64)
        own, around = values[rows], _neighbour_mean(values, neighbours)
        fresh = values[new]
        self.n_spots, self.n_rows = self.n_spots + len(fresh), self.n_rows + len(own)
        found = [fresh, fresh**2, own, own**2, around, own * around]
        self.sums = self.sums + np.stack([part.sum(axis=0) for part in found])

    def result(self) -> np.ndarray:
        """``(n_columns,)`` float64; 0 for constant columns."""
        total, total_squared, own, own_squared, around, product = self.sums
        mean, square = total / self.n_spots, total_squared / self.n_spots
        constant = square - mean**2 <= CONSTANT * np.maximum(square, CONSTANT)
        variance = own_squared - 2 * mean * own + self.n_rows * mean**2
        shared = product - mean * (own + around) + self.n_rows * mean**2
        return np.where(constant, 0.0, shared / np.where(variance > 0, variance, np.inf))


def order_by_abundance(order: np.ndarray, abundance: np.ndarray) -> np.ndarray | None:
    """The spatial order that a gene's abundance lets one expect: a line fitted to all genes.

    Counts of abundant genes have less noise in them, so that these look more ordered in whatever tissue.

    Parameters
    ----------
    order
        ``(n_genes,)`` Moran's I in the training sections; NaN where it is not known.
    abundance
        ``(n_genes,)`` mean of what was measured there.

    Returns
    -------
    ``(n_genes,)``; ``None`` when the order of fewer than 20 genes is known, or it does not rise with abundance.
    """
    known = np.isfinite(order)
    if known.sum() < MIN_GENES:
        return None
    centre = abundance[known].mean()
    centred = abundance - centre
    covariance, variance = centred[known] @ order[known], centred[known] @ centred[known]
    if not (covariance > 0 and variance > CONSTANT * known.sum() * max(centre**2, CONSTANT)):
        return None
    return order[known].mean() + covariance / variance * centred


def _neighbour_mean(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Neighbour by neighbour: all at once would take k times the memory of the values."""
    nearest, *further = neighbours.T
    total = values[nearest]
    for near in further:
        total += values[near]
    total /= neighbours.shape[1]
    return total
