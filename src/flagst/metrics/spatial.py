"""Spatial autocorrelation: Moran's I, and its agreement between prediction and measurement."""

import numpy as np

from flagst.metrics._inputs import (
    Matrix,
    as_matrix,
    constant_genes,
    pearson,
    replicate_pair,
    require_graph,
    scored_pair,
    standardise,
)
from flagst.metrics.accuracy import ccc

#: Genes handled at once: neighbour averages of a wide table need not all be in memory.
BLOCK = 1024


def morans_i(values: Matrix, graph: Matrix) -> np.ndarray:
    """Moran's I of every gene on a spot graph.

    ``I = n / sum(w) * sum_ij w_ij z_i z_j / sum_i z_i^2``, with ``z`` the expression minus its mean over
    spots. Equal to ``scanpy.metrics.morans_i`` on the same graph, except that constant genes give 0 here and
    NaN there.

    Parameters
    ----------
    values
        (n_spots, n_genes), numeric, dense or scipy sparse, any unit.
    graph
        (n_spots, n_spots) weights, scipy sparse or dense; row ``i`` holds the neighbours of spot ``i``. See
        :func:`flagst.data.graph.moran_graph`.

    Returns
    -------
    (n_genes,) float64; positive where neighbours are alike, near ``-1 / (n_spots - 1)`` without spatial
    autocorrelation.

    Raises
    ------
    ValueError
        Graph of the wrong shape, without edges or with non-finite weights; NaN in ``values``; fewer than 3
        spots.
    TypeError
        Values are not numeric.

    Source
    ------
    Moran, Biometrika 1950, 37:17.

    Examples
    --------
    >>> from flagst.metrics import morans_i
    >>> line = np.eye(4, k=1) + np.eye(4, k=-1)
    >>> morans_i(np.array([[0.0], [0.0], [1.0], [1.0]]), line).round(3)
    array([0.333])
    """
    values = as_matrix(values, name="values")
    n_spots = values.shape[0]
    total = _total_weight(graph, n_spots)
    result = np.empty(values.shape[1])
    for start in range(0, values.shape[1], BLOCK):
        unit = standardise(values[:, start : start + BLOCK])
        result[start : start + BLOCK] = n_spots / total * np.sum(unit * np.asarray(graph @ unit), axis=0)
    return result


def ssc(predicted: Matrix, measured: Matrix, graph: Matrix) -> float:
    """Spatial structural correlation: does the prediction have the measured Moran's I of every gene?

    Pearson correlation, across genes, between predicted and measured Moran's I. Genes constant in the
    measurement are left out; genes constant only in the prediction count with a Moran's I of zero.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.
    graph
        (n_spots, n_spots) weights, scipy sparse or dense, as in :func:`morans_i`.

    Returns
    -------
    Number in [-1, 1]; 0 when the predicted Moran's I are all equal, NaN with fewer than 3 genes that vary or when the
    measured Moran's I are all equal.

    Raises
    ------
    ValueError
        As :func:`morans_i`, or when the two shapes differ or no gene varies in ``measured``.
    TypeError
        Values are not numeric.

    Source
    ------
    FLAG, arXiv 2605.18055 (SSC). The paper does not say which graph it uses, so its numbers are not
    comparable digit for digit.

    Examples
    --------
    >>> line = np.eye(5, k=1) + np.eye(5, k=-1)
    >>> measured = np.random.default_rng(0).normal(size=(5, 3))
    >>> round(flagst.metrics.ssc(2 * measured + 1, measured, line), 6)
    1.0
    """
    return pearson(*_moran_pair(predicted, measured, graph))


def moran_rmse(predicted: Matrix, measured: Matrix, graph: Matrix) -> float:
    """Root mean squared difference, across genes, between predicted and measured Moran's I.

    Unlike :func:`ssc`, it rises when all maps are too smooth or all are too noisy. Constant genes are treated as in
    :func:`ssc`.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.
    graph
        (n_spots, n_spots) weights, scipy sparse or dense, as in :func:`morans_i`.

    Returns
    -------
    Number >= 0.

    Raises
    ------
    ValueError, TypeError
        As :func:`ssc`.

    Examples
    --------
    >>> line = np.eye(5, k=1) + np.eye(5, k=-1)
    >>> measured = np.random.default_rng(0).normal(size=(5, 3))
    >>> round(flagst.metrics.moran_rmse(2 * measured + 1, measured, line), 6)
    0.0
    """
    guess, true = _moran_pair(predicted, measured, graph)
    return float(np.sqrt(np.mean((guess - true) ** 2)))


def moran_mae(predicted: Matrix, measured: Matrix, graph: Matrix) -> float:
    """Mean absolute difference, across genes, between predicted and measured Moran's I.

    As :func:`moran_rmse`, but a few genes with a large difference weigh less.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.
    graph
        (n_spots, n_spots) weights, scipy sparse or dense, as in :func:`morans_i`.

    Returns
    -------
    Number >= 0.

    Raises
    ------
    ValueError, TypeError
        As :func:`ssc`.

    Examples
    --------
    >>> line = np.eye(5, k=1) + np.eye(5, k=-1)
    >>> measured = np.random.default_rng(0).normal(size=(5, 3))
    >>> round(flagst.metrics.moran_mae(2 * measured + 1, measured, line), 6)
    0.0
    """
    guess, true = _moran_pair(predicted, measured, graph)
    return float(np.mean(np.abs(guess - true)))


def moran_ccc(predicted: Matrix, measured: Matrix, graph: Matrix) -> float:
    """Lin's concordance, across genes, between predicted and measured Moran's I.

    ``2 cov / (var_p + var_m + (mean_p - mean_m)^2)`` with population moments over genes. Unlike :func:`ssc`, it also
    falls when all maps are too smooth or all are too noisy. It is never larger than the absolute SSC.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.
    graph
        (n_spots, n_spots) weights, scipy sparse or dense, as in :func:`morans_i`.

    Returns
    -------
    Number in [-1, 1]; NaN with fewer than 3 genes that vary, or when the measured Moran's I are all equal.

    Raises
    ------
    ValueError, TypeError
        As :func:`ssc`.

    Source
    ------
    Lin, Biometrics 1989, 45:255.

    Examples
    --------
    >>> line = np.eye(5, k=1) + np.eye(5, k=-1)
    >>> measured = np.random.default_rng(0).normal(size=(5, 3))
    >>> round(flagst.metrics.moran_ccc(2 * measured + 1, measured, line), 6)
    1.0
    """
    guess, true = _moran_pair(predicted, measured, graph)
    if len(true) < 3 or constant_genes(true[:, None])[0]:
        return float("nan")
    return ccc(guess[:, None], true[:, None])


def replicate_ssc(replicate: Matrix, measured: Matrix, replicate_graph: Matrix, graph: Matrix) -> float:
    """SSC of one measured section against another: a reference value from a neighbouring section.

    Pearson correlation, across genes, between the Moran's I of two sections, each on its own graph. It is a
    reference value and no upper bound, as :func:`replicate_gsc` is.

    Parameters
    ----------
    replicate
        (n_spots_replicate, n_genes), numeric, dense or scipy sparse: another section.
    measured
        (n_spots, n_genes), the section that predictions are scored on; same unit, genes in the same order.
    replicate_graph, graph
        (n_spots_replicate, n_spots_replicate) and (n_spots, n_spots) weights, as in :func:`morans_i`.

    Returns
    -------
    Number in [-1, 1]. Genes constant in ``measured`` are left out, genes constant only in ``replicate`` count
    with a Moran's I of zero; NaN with fewer than 3 genes that vary.

    Raises
    ------
    ValueError, TypeError
        As :func:`replicate_gsc` and :func:`morans_i`.

    Examples
    --------
    >>> line = np.eye(5, k=1) + np.eye(5, k=-1)
    >>> measured = np.random.default_rng(0).normal(size=(5, 3))
    >>> round(flagst.metrics.replicate_ssc(3 * measured, measured, line, line), 6)
    1.0
    """
    replicate, measured = replicate_pair(replicate, measured)
    return pearson(morans_i(replicate, replicate_graph), morans_i(measured, graph))


def _moran_pair(predicted: Matrix, measured: Matrix, graph: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and measured Moran's I of the genes that vary in the measurement, (n_genes,) each."""
    predicted, measured, _ = scored_pair(predicted, measured)
    return morans_i(predicted, graph), morans_i(measured, graph)


def _total_weight(graph: Matrix, n_spots: int) -> float:
    """Sum of all weights; raises unless ``graph`` is a usable (n_spots, n_spots) graph."""
    require_graph(graph, n_spots)
    total = float(graph.sum())
    if not np.isfinite(total):
        raise ValueError("graph has NaN or infinite weights.")
    if total == 0:
        raise ValueError("graph has no edges (its weights sum to 0); Moran's I needs neighbours.")
    return total
