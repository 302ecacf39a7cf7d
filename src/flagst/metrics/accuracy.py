"""Agreement of predicted and measured expression, spot by spot.

Genes that are constant in the measurement are left out of every metric, so that all metrics of a section
describe the same genes. :func:`per_gene_pcc` keeps their place and marks them with NaN.
"""

import numpy as np

from flagst.metrics._inputs import Matrix, scored_pair, standardise


def per_gene_pcc(predicted: Matrix, measured: Matrix) -> np.ndarray:
    """Pearson correlation across spots of every gene.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    (n_genes,) float64 in [-1, 1]; NaN where the measurement is constant, 0 where only the prediction is.

    Raises
    ------
    ValueError
        Shapes differ, NaN or infinite values, fewer than 3 spots, or no gene varies in ``measured``.
    TypeError
        Values are not numeric.

    Examples
    --------
    >>> from flagst.metrics import per_gene_pcc
    >>> measured = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> per_gene_pcc(3 * measured + 1, measured)
    array([ 1., nan])
    """
    predicted, measured, kept = scored_pair(predicted, measured)
    result = np.full(len(kept), np.nan)
    result[kept] = np.clip((standardise(predicted) * standardise(measured)).sum(axis=0), -1.0, 1.0)
    return result


def pcc(predicted: Matrix, measured: Matrix) -> float:
    """Pearson correlation across spots, mean over genes.

    Genes constant in the measurement are left out; genes constant only in the prediction count with 0.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    Number in [-1, 1].

    Raises
    ------
    ValueError, TypeError
        As :func:`per_gene_pcc`.

    Examples
    --------
    >>> measured = np.array([[0.0, 3.0], [1.0, 1.0], [2.0, 2.0]])
    >>> predicted = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    >>> round(flagst.metrics.pcc(predicted, measured), 6)
    0.5
    """
    return float(np.nanmean(per_gene_pcc(predicted, measured)))


def mse(predicted: Matrix, measured: Matrix) -> float:
    """Mean squared error over spots and genes, genes constant in the measurement left out.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    Number >= 0, in squared units of the target.

    Raises
    ------
    ValueError, TypeError
        As :func:`per_gene_pcc`.

    Examples
    --------
    >>> measured = np.array([[0.0], [1.0], [2.0]])
    >>> flagst.metrics.mse(measured + 2, measured)
    4.0
    """
    predicted, measured, _ = scored_pair(predicted, measured)
    return float(np.mean((predicted.astype(np.float64) - measured) ** 2))


def mae(predicted: Matrix, measured: Matrix) -> float:
    """Mean absolute error over spots and genes, genes constant in the measurement left out.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    Number >= 0, in the unit of the target.

    Raises
    ------
    ValueError, TypeError
        As :func:`per_gene_pcc`.

    Examples
    --------
    >>> measured = np.array([[0.0], [1.0], [2.0]])
    >>> flagst.metrics.mae(measured + 2, measured)
    2.0
    """
    predicted, measured, _ = scored_pair(predicted, measured)
    return float(np.mean(np.abs(predicted.astype(np.float64) - measured)))


def ccc(predicted: Matrix, measured: Matrix) -> float:
    """Lin's concordance correlation coefficient per gene, averaged over genes.

    ``2 cov(p, m) / (var(p) + var(m) + (mean(p) - mean(m))^2)`` with population moments over spots. Unlike a
    correlation, it also falls when the mean or the standard deviation is wrong. Genes constant in the
    measurement are left out.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.

    Returns
    -------
    Number in [-1, 1].

    Raises
    ------
    ValueError, TypeError
        As :func:`per_gene_pcc`.

    Source
    ------
    Lin, Biometrics 1989, 45:255.

    Examples
    --------
    >>> measured = np.array([[0.0], [1.0], [2.0]])
    >>> round(flagst.metrics.ccc(measured + 2, measured), 6)
    0.25
    """
    predicted, measured, _ = scored_pair(predicted, measured)
    predicted, measured = predicted.astype(np.float64), measured.astype(np.float64)
    shift = predicted.mean(axis=0) - measured.mean(axis=0)
    covariance = ((predicted - predicted.mean(axis=0)) * (measured - measured.mean(axis=0))).mean(axis=0)
    return float(np.mean(2 * covariance / (predicted.var(axis=0) + measured.var(axis=0) + shift**2)))
