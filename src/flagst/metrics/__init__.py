"""Accuracy, gene structure and spatial structure of a prediction: plain numpy functions.

All take ``(predicted, measured)``, arrays of shape ``(n_spots, n_genes)`` of **one section** in the same
unit; average over sections yourself or use :func:`flagst.tl.evaluate`. The spatial ones take the spot graph
third.
"""

from flagst.metrics.accuracy import ccc, mae, mse, pcc, per_gene_pcc
from flagst.metrics.spatial import moran_rmse, morans_i, ssc
from flagst.metrics.structure import correlation_rmse, gene_correlation, gsc

__all__ = [
    "ccc",
    "correlation_rmse",
    "gene_correlation",
    "gsc",
    "mae",
    "moran_rmse",
    "morans_i",
    "mse",
    "pcc",
    "per_gene_pcc",
    "ssc",
]
