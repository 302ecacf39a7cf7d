"""Nearest neighbours of spots, and the graph on which Moran's I is measured.

One call, one section: sections never share an edge.
"""

import numpy as np
import scipy.sparse as sp

from flagst._checks import require_finite, require_one_of

#: Spot layout -> neighbours used for Moran's I.
MORAN_NEIGHBOURS = {"square": 4, "hex": 6, "irregular": 6, "other": 6}
#: Spots whose neighbours are ranked at a time, which takes a few kilobytes each.
SPOTS_AT_ONCE = 50_000


def knn(coords: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest other spots of every spot of one section.

    Equal distances, which regular arrays are full of, are broken by the neighbour's offset in x, then y: the
    result does not depend on the order of the spots.

    Parameters
    ----------
    coords
        (n_spots, 2), x then y, any unit of length.
    k
        Number of neighbours; clipped to ``n_spots - 1``.

    Returns
    -------
    indices
        (n_spots, k) int64, rows of ``coords``, nearest first, never the spot itself.
    distances
        (n_spots, k) float64, in the unit of ``coords``.

    Raises
    ------
    ValueError
        ``coords`` is not (n_spots, 2) or not finite, or ``k`` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from flagst.data.graph import knn
    >>> knn(np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]), 1)[0].ravel()
    array([1, 0, 1])
    """
    from scipy.spatial import cKDTree

    coords = _check_coords(coords)
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}.")
    n_spots = len(coords)
    k = min(int(k), n_spots - 1)
    if k < 1:
        return np.empty((n_spots, 0), dtype=np.int64), np.empty((n_spots, 0))
    # More candidates than asked for, so that all spots tied at the last distance take part in the tie-break.
    n_candidates = min(n_spots, 2 * k + 9)
    tree = cKDTree(coords)
    scale = np.median(tree.query(coords, k=2)[0][:, 1]) or 1.0
    nearest, apart = np.empty((n_spots, k), dtype=np.int64), np.empty((n_spots, k))
    for start in range(0, n_spots, SPOTS_AT_ONCE):
        rows = np.arange(start, min(start + SPOTS_AT_ONCE, n_spots))
        distances, indices = tree.query(coords[rows], k=n_candidates)
        offsets = coords[indices] - coords[rows, None]
        rank = np.round(distances / scale, 9)
        rank[indices == rows[:, None]] = np.inf
        dx, dy = np.round(offsets / scale, 9).transpose(2, 0, 1)
        order = np.lexsort((indices, dy, dx, rank))[:, :k]
        nearest[rows], apart[rows] = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
    return nearest, apart


def moran_graph(coords: np.ndarray, layout: str) -> sp.csr_matrix:
    """Graph for Moran's I: binary weights to the nearest spots, every row divided by its sum.

    Parameters
    ----------
    coords
        (n_spots, 2) of one section, x then y, any unit of length.
    layout
        ``"square"``: 4 nearest neighbours; ``"hex"``, ``"irregular"`` and ``"other"``: 6.

    Returns
    -------
    (n_spots, n_spots) float64 csr, rows sum to 1. Not symmetric: border spots reach further in.

    Raises
    ------
    ValueError
        Unknown layout, fewer than two spots, or bad ``coords``.
    """
    require_one_of(layout, MORAN_NEIGHBOURS, name="layout")
    indices, _ = knn(coords, MORAN_NEIGHBOURS[layout])
    n_spots, k = indices.shape
    if k == 0:
        raise ValueError(f"Moran's graph needs at least 2 spots in a section; got {n_spots}.")
    weights = np.full(n_spots * k, 1.0 / k)
    row_starts = np.arange(0, n_spots * k + 1, k)
    graph = sp.csr_matrix((weights, indices.ravel(), row_starts), shape=(n_spots, n_spots))
    graph.sort_indices()
    return graph


def _check_coords(coords) -> np.ndarray:
    """Coordinates as float64 ``(n_spots, 2)``."""
    coords = np.asarray(coords, dtype=np.float64)
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise ValueError(f"coords must be (n_spots, 2), x then y; got shape {coords.shape}.")
    require_finite(coords, where="coords", hint="Leave out spots without a position.")
    return coords
