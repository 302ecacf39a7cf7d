"""Moran's I over nearest neighbours, of a whole section or summed up part by part. Numpy only."""

import numpy as np

#: Variance below this share of the mean square is rounding.
CONSTANT = 1e-10
#: No line is fitted to fewer genes.
MIN_GENES = 20


class MoranSums:
    """Moran's I of every column, with equal weights to the nearest neighbours of a spot, from sums over parts.

    The result is that of :func:`flagst.metrics.morans_i` on :func:`flagst.data.graph.moran_graph`, without a sparse
    matrix and without all values in memory.

    Parameters
    ----------
    centre
        ``(n_columns,)`` values near the mean, which are subtracted before summing: sums of large numbers lose digits.
        ``None`` takes the mean of the first part.

    Examples
    --------
    >>> from flagst.regression import MoranSums
    >>> sums = MoranSums()
    >>> sums.add(np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[1], [0], [3], [2]]))
    >>> sums.result()
    array([1.])
    """

    def __init__(self, centre: np.ndarray | None = None):
        self.centre, self.n_spots, self.n_rows, self.sums = centre, 0, 0, 0.0

    def add(
        self,
        values: np.ndarray,
        neighbours: np.ndarray,
        rows: np.ndarray | None = None,
        new: np.ndarray | None = None,
    ) -> None:
        """Add some spots.

        Parameters
        ----------
        values
            ``(n_part, n_columns)``: the spots that are summed over, and their neighbours.
        neighbours, rows
            ``(n_rows, k)`` and ``(n_rows,)`` int, positions in ``values``; ``rows=None`` for all spots. No spot is
            summed over in two parts.
        new
            ``(n_part,)`` bool, spots that were in no part before: each counts once in the mean. ``None`` for all.

        Examples
        --------
        >>> from flagst.regression import MoranSums
        >>> sums = MoranSums()
        >>> sums.add(np.array([[0.0], [1.0]]), np.array([[1], [0]]))
        >>> sums.n_spots
        2
        """
        values = np.asarray(values, dtype=np.float64)
        if self.centre is None:
            self.centre = values.mean(axis=0)
        values = values - self.centre
        own = values if rows is None else values[rows]
        around = _neighbour_mean(values, neighbours)
        counted = values if new is None else values[new]
        self.n_spots, self.n_rows = self.n_spots + len(counted), self.n_rows + len(own)
        of_counted = counted.sum(axis=0), _dot(counted, counted)
        of_own = of_counted if own is counted else (own.sum(axis=0), _dot(own, own))
        self.sums = self.sums + np.stack([*of_counted, *of_own, around.sum(axis=0), _dot(own, around)])

    def result(self) -> np.ndarray:
        """Moran's I, ``(n_columns,)`` float64; 0 for constant columns.

        Examples
        --------
        >>> from flagst.regression import MoranSums
        >>> sums = MoranSums()
        >>> sums.add(np.array([[0.0], [1.0]]), np.array([[1], [0]]))
        >>> sums.result()
        array([-1.])
        """
        total, total_squared, own_total, own_squared, around, product = self.sums
        mean = total / self.n_spots
        total_variance = total_squared / self.n_spots - mean**2
        constant = total_variance <= CONSTANT * np.maximum(total_variance + (mean + self.centre) ** 2, CONSTANT)
        variance = own_squared - 2 * mean * own_total + self.n_rows * mean**2
        shared = product - mean * (own_total + around) + self.n_rows * mean**2
        return np.where(constant, 0.0, shared / np.where(variance > 0, variance, np.inf))


def neighbour_moran(values: np.ndarray, neighbours: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Moran's I of every column of one section.

    Parameters
    ----------
    values
        ``(n_spots, n_columns)``.
    neighbours, rows
        As in :meth:`MoranSums.add`.

    Returns
    -------
    ``(n_columns,)`` float64; 0 for constant columns.

    Examples
    --------
    >>> from flagst.regression import neighbour_moran
    >>> neighbour_moran(np.array([[0.0], [1.0], [0.0], [1.0]]), np.array([[1], [0], [3], [2]]))
    array([-1.])
    """
    sums = MoranSums(np.mean(values, axis=0, dtype=np.float64))
    sums.add(values, neighbours, rows)
    return sums.result()


def moran_by_abundance(moran: np.ndarray, abundance: np.ndarray) -> np.ndarray | None:
    """The Moran's I to be expected of genes from their abundance: a line fitted to all genes.

    Counts of abundant genes have less noise in them, so that these genes have a higher Moran's I in any tissue.

    Parameters
    ----------
    moran
        ``(n_genes,)`` Moran's I in the training sections; NaN where it is not known.
    abundance
        ``(n_genes,)`` mean of what was measured there.

    Returns
    -------
    ``(n_genes,)``; ``None`` when Moran's I is known of fewer than 20 genes, or does not rise with abundance.
    """
    known = np.isfinite(moran)
    if known.sum() < MIN_GENES:
        return None
    centre = abundance[known].mean()
    centred = abundance - centre
    covariance, variance = centred[known] @ moran[known], centred[known] @ centred[known]
    if not (covariance > 0 and variance > CONSTANT * known.sum() * max(centre**2, CONSTANT)):
        return None
    return moran[known].mean() + covariance / variance * centred


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum over spots of the product, column by column."""
    return np.einsum("ij,ij->j", a, b)


def _neighbour_mean(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Neighbour by neighbour: all at once would take k times the memory of the values."""
    nearest, *further = neighbours.T
    total = values[nearest]
    for near in further:
        total += values[near]
    total /= neighbours.shape[1]
    return total
