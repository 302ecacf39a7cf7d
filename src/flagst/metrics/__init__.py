"""Accuracy, gene structure, spatial structure and uncertainty of a prediction: plain numpy functions.

Most take ``(predicted, measured)``, arrays of shape ``(n_spots, n_genes)`` of **one section** in the same
unit. Average over sections yourself, or use :func:`flagst.tl.evaluate`. The spatial ones take the spot graph
as third argument. Those of posterior samples take ``(samples, measured)``, with samples of shape
``(n_samples, n_spots, n_genes)``.
"""

from flagst.metrics.accuracy import ccc, mae, mse, pcc, per_gene_pcc
from flagst.metrics.calibration import binomial_band, coverage, per_gene_coverage, pit, share_below
from flagst.metrics.ceiling import Ceiling, split_counts, structure_ceiling
from flagst.metrics.depth import depth_pcc, gsc_depth_residual
from flagst.metrics.inference import (
    Interval,
    NullTest,
    gsc_permutation_test,
    jackknife,
    spatial_blocks,
    ssc_permutation_test,
)
from flagst.metrics.probabilistic import (
    crps,
    energy_score,
    per_gene_crps,
    spatial_variogram_score,
    variogram_score,
)
from flagst.metrics.spatial import moran_ccc, moran_mae, moran_rmse, morans_i, replicate_ssc, ssc
from flagst.metrics.structure import correlation_rmse, gene_correlation, gsc, replicate_gsc

__all__ = [
    "Ceiling",
    "Interval",
    "NullTest",
    "binomial_band",
    "ccc",
    "correlation_rmse",
    "coverage",
    "crps",
    "depth_pcc",
    "energy_score",
    "gene_correlation",
    "gsc",
    "gsc_depth_residual",
    "gsc_permutation_test",
    "jackknife",
    "mae",
    "moran_ccc",
    "moran_mae",
    "moran_rmse",
    "morans_i",
    "mse",
    "pcc",
    "per_gene_coverage",
    "per_gene_crps",
    "per_gene_pcc",
    "pit",
    "replicate_gsc",
    "replicate_ssc",
    "share_below",
    "spatial_blocks",
    "spatial_variogram_score",
    "split_counts",
    "ssc",
    "ssc_permutation_test",
    "structure_ceiling",
    "variogram_score",
]
