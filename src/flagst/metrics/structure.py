"""Gene-gene correlation: agreement between prediction and measurement."""

from collections.abc import Iterator

import numpy as np

from flagst.metrics._inputs import Matrix, as_matrix, replicate_pair, scored_pair, standardise

#: Rows of the correlation matrix held at once: memory stays linear in genes, 15,000 genes fit.
BLOCK = 512


def gene_correlation(values: Matrix) -> np.ndarray:
    """Pearson correlation across spots between all pairs of genes.

    Parameters
    ----------
    values
        (n_spots, n_genes), numeric, dense or scipy sparse, any unit.

    Returns
    -------
    (n_genes, n_genes) float64 in [-1, 1]; rows and columns of constant genes are 0 with 1 on the diagonal.

    Raises
    ------
    ValueError
        NaN or infinite values, not two-dimensional, or fewer than 3 spots.
    TypeError
        Values are not numeric.

    Examples
    --------
    >>> values = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0], [2.0, -1.0, 5.0]])
    >>> flagst.metrics.gene_correlation(values).round(6)
    array([[ 1., -1.,  0.],
           [-1.,  1.,  0.],
           [ 0.,  0.,  1.]])
    """
    unit = standardise(as_matrix(values, name="values"))
    correlation = np.clip(unit.T @ unit, -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def gsc(predicted: Matrix, measured: Matrix) -> float:
    """Gene structural correlation: does the prediction have the measured gene-gene correlations?

    Pearson correlation between the upper triangles (without diagonal) of the predicted and the measured gene
    x gene correlation matrices. Genes constant in the measurement are left out; genes constant only in the
    prediction count with correlation zero. Memory is linear in the number of genes.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    Number in [-1, 1]; 0 when the predicted correlations are all equal, NaN with fewer than 3 genes that vary or when
    the measured correlations are all equal.

    Raises
    ------
    ValueError
        Shapes differ, NaN or infinite values, fewer than 3 spots, or no gene varies in ``measured``.
    TypeError
        Values are not numeric.

    Source
    ------
    FLAG, arXiv 2605.18055 (GSC). The paper does not say what happens to constant genes.

    Examples
    --------
    >>> from flagst.metrics import gsc
    >>> measured = np.random.default_rng(0).normal(size=(50, 4))
    >>> round(gsc(2 * measured + 1, measured), 6)
    1.0
    """
    predicted, measured, _ = scored_pair(predicted, measured)
    return _triangle_correlation(standardise(predicted), standardise(measured))


def replicate_gsc(replicate: Matrix, measured: Matrix) -> float:
    """GSC of one measured section against another: a reference value from a neighbouring section.

    As :func:`gsc`, between sections that have different spots. It is a reference value and no upper bound: sections
    differ in tissue as well as in noise, and a prediction from the section's own image may score higher.

    Parameters
    ----------
    replicate
        (n_spots_replicate, n_genes), numeric, dense or scipy sparse: another section.
    measured
        (n_spots, n_genes), the section that predictions are scored on; same unit, genes in the same order.

    Returns
    -------
    Number in [-1, 1]. Genes constant in ``measured`` are left out, genes constant only in ``replicate`` count
    with correlation zero; NaN with fewer than 3 genes that vary.

    Raises
    ------
    ValueError
        Different numbers of genes, NaN or infinite values, fewer than 3 spots, or no gene varies in
        ``measured``.
    TypeError
        Values are not numeric.

    Examples
    --------
    >>> measured = np.random.default_rng(0).normal(size=(50, 4))
    >>> round(flagst.metrics.replicate_gsc(np.tile(measured, (2, 1)), measured), 6)
    1.0
    """
    replicate, measured = replicate_pair(replicate, measured)
    return _triangle_correlation(standardise(replicate), standardise(measured))


def _triangle_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson correlation between the upper triangles of ``left.T @ left`` and ``right.T @ right``.

    Both standardised, with the same genes; the numbers of spots may differ.
    """
    n_genes = left.shape[1]
    if n_genes < 3:
        return float("nan")
    mean_left, mean_right = _mean_off_diagonal(left), _mean_off_diagonal(right)
    cross = square_left = square_right = 0.0
    for pairs_left, pairs_right in _upper_triangles(left, right):
        a, b = pairs_left - mean_left, pairs_right - mean_right
        cross, square_left, square_right = cross + a @ b, square_left + a @ a, square_right + b @ b
    # Correlations are at most 1, so a variation at the level of rounding means that all are equal.
    rounding = 1e-24 * n_genes**2
    if square_right <= rounding:
        return float("nan")
    if square_left <= rounding:
        return 0.0
    return float(np.clip(cross / np.sqrt(square_left * square_right), -1.0, 1.0))


def correlation_rmse(predicted: Matrix, measured: Matrix) -> float:
    """Root mean squared difference between predicted and measured gene-gene correlations.

    Taken over the upper triangles (without diagonal). Unlike :func:`gsc`, it rises when all correlations are too
    strong or all are too weak. Constant genes are treated as in :func:`gsc`.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    Number in [0, 2]; NaN with fewer than 2 genes that vary.

    Raises
    ------
    ValueError, TypeError
        As :func:`gsc`.

    Examples
    --------
    >>> measured = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> round(flagst.metrics.correlation_rmse(measured * [1, -1], measured), 6)
    2.0
    """
    predicted, measured, _ = scored_pair(predicted, measured)
    n_genes = predicted.shape[1]
    if n_genes < 2:
        return float("nan")
    pairs = _upper_triangles(standardise(predicted), standardise(measured))
    total = sum(float(((left - right) ** 2).sum()) for left, right in pairs)
    return float(np.sqrt(total / (n_genes * (n_genes - 1) / 2)))


def _mean_off_diagonal(unit: np.ndarray) -> float:
    """Mean of the off-diagonal of ``unit.T @ unit`` without forming it; ``unit``: (n_spots, n_genes)."""
    n_genes = unit.shape[1]
    return float((np.sum(unit.sum(axis=1) ** 2) - np.sum(unit**2)) / (n_genes * (n_genes - 1)))


def _upper_triangles(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Upper triangles of ``left.T @ left`` and ``right.T @ right``, block of rows by block of rows."""
    n_genes = left.shape[1]
    for start in range(0, n_genes, BLOCK):
        rows = slice(start, min(start + BLOCK, n_genes))
        # Columns before the block lie below the diagonal.
        upper = np.triu_indices(rows.stop - start, k=1, m=n_genes - start)
        yield tuple((unit[:, rows].T @ unit[:, start:])[upper] for unit in (left, right))
