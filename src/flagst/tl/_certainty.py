"""Jackknife intervals and permutation tests of one section, as plain numbers for the record."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from flagst import metrics

#: Blocks of a section for the jackknife, and the fewest spots that one may have.
N_BLOCKS, MIN_BLOCK = 20, 5


def jackknife_intervals(predicted, measured, graph, coords: np.ndarray) -> dict[str, dict[str, float]]:
    """Intervals of PCC, GSC and SSC; raises a ``ValueError`` with fewer spots than two blocks need."""
    if len(coords) < 2 * MIN_BLOCK:
        raise ValueError(f"intervals need at least {2 * MIN_BLOCK} spots; got {len(coords)}.")
    n_blocks = min(N_BLOCKS, len(coords) // MIN_BLOCK)
    scores = scores_of_rows(predicted, measured, graph)
    return {name: asdict(metrics.jackknife(score, coords, n_blocks=n_blocks)) for name, score in scores.items()}


def scores_of_rows(predicted, measured, graph) -> dict[str, Callable[[np.ndarray], float]]:
    """PCC, GSC and SSC as functions of the rows of a section that are used; the graph is cut to those rows."""
    return {
        "pcc": lambda rows: metrics.pcc(predicted[rows], measured[rows]),
        "gsc": lambda rows: metrics.gsc(predicted[rows], measured[rows]),
        "ssc": lambda rows: metrics.ssc(predicted[rows], measured[rows], graph[rows][:, rows]),
    }


def permutation_nulls(predicted, measured, graph, *, n_permutations: int, seed: int) -> dict[str, dict[str, float]]:
    """Permutation tests of GSC and SSC, see :func:`flagst.metrics.gsc_permutation_test`."""
    options = {"n_permutations": n_permutations, "seed": seed}
    tests = {
        "gsc": metrics.gsc_permutation_test(predicted, measured, **options),
        "ssc": metrics.ssc_permutation_test(predicted, measured, graph, **options),
    }
    return {name: asdict(test) for name, test in tests.items()}
