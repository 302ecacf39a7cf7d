"""Folds for cross-fitting: whole sections, or spatial blocks when sections are too few."""

import numpy as np

#: From so many sections on, a fold is a whole section.
MIN_SECTIONS = 3
MAX_FOLDS = 8
#: Networks of a model trained on three sections or more, and on fewer: one per block.
N_NETWORKS, N_BLOCKS = 3, 4


def cross_fitting_folds(section: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """Assign every spot to a fold that is held out as a whole.

    With three or more sections a fold is a whole section (several sections share a fold beyond
    eight). With one or two, each section is cut into four compact blocks of equal size along its
    principal axes: a whole section would be half of the data, or all of it.

    Parameters
    ----------
    section
        ``(n_spots,)`` section of each spot.
    coords
        ``(n_spots, 2)`` positions, any unit.

    Returns
    -------
    ``(n_spots,)`` int, fold of each spot, counted from 0.

    Examples
    --------
    >>> from flagst.regression import cross_fitting_folds
    >>> cross_fitting_folds(np.array(["A", "A", "B", "C"]), np.zeros((4, 2)))
    array([0, 0, 1, 2])
    """
    names, code = np.unique(section, return_inverse=True)
    if len(names) >= MIN_SECTIONS:
        return code % MAX_FOLDS
    fold = np.empty(len(section), dtype=int)
    for number in range(len(names)):
        rows = np.flatnonzero(code == number)
        fold[rows] = 4 * number + _quadrants(coords[rows])
    return fold


def count_networks(n_sections: int, *, cross_fit: bool) -> int:
    """Networks of a model: one per fold, or a single one without cross-fitting.

    Examples
    --------
    >>> from flagst.regression import count_networks
    >>> [count_networks(n, cross_fit=True) for n in (1, 2, 3, 10)]
    [4, 4, 3, 3]
    """
    if not cross_fit:
        return 1
    return N_NETWORKS if n_sections >= MIN_SECTIONS else N_BLOCKS


def network_folds(coords: list[np.ndarray]) -> list[np.ndarray]:
    """Fold of every spot, ``(n_spots,)`` int per section; the network of that number never sees it.

    Whole sections in three folds; with one or two sections, the four blocks of each.

    Parameters
    ----------
    coords
        Per section ``(n_spots, 2)``, any unit.

    Examples
    --------
    >>> from flagst.regression import network_folds
    >>> [fold.tolist() for fold in network_folds([np.zeros((2, 2))] * 4)]
    [[0, 0], [1, 1], [2, 2], [0, 0]]
    """
    if len(coords) >= MIN_SECTIONS:
        return [np.full(len(xy), number % N_NETWORKS) for number, xy in enumerate(coords)]
    return [cross_fitting_folds(np.zeros(len(xy)), xy) for xy in coords]


def _quadrants(coords: np.ndarray) -> np.ndarray:
    """Split points in half along their first axis, then each half along the second."""
    centred = coords - coords.mean(axis=0)
    centred = centred / (np.abs(centred).max() or 1.0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    # regular arrays are full of ties: ranks keep the halves equal, the other axis keeps them compact
    first, second = np.round(centred @ axes.T, 6).T
    half = _upper_half(first, second)
    quadrant = 2 * half
    for side in (0, 1):
        rows = np.flatnonzero(half == side)
        quadrant[rows] += _upper_half(second[rows], first[rows])
    return quadrant


def _upper_half(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """1 for the larger half of ``values``, 0 for the others."""
    half = np.zeros(len(values), dtype=int)
    half[np.lexsort((ties, values))[(len(values) + 1) // 2 :]] = 1
    return half
