"""Scores of one section, and the definition of each of them."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst import metrics
from flagst._keys import OBS, VAR
from flagst.data.measured import raw_counts
from flagst.data.stored import row_sums

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger("flagst")

_LEFT_OUT = "genes constant in the measurement left out"
DEFINITIONS = {
    "pcc": f"Pearson correlation across spots, mean over genes; {_LEFT_OUT}, 0 if constant in the prediction",
    "mse": f"mean squared error over spots and genes; {_LEFT_OUT}",
    "mae": f"mean absolute error over spots and genes; {_LEFT_OUT}",
    "ccc": f"Lin's concordance correlation coefficient, mean over genes; {_LEFT_OUT}",
    "gsc": "Pearson correlation between upper triangles of predicted and measured gene-gene correlation",
    "gsc_depth_residual": "GSC of residuals on log measured total counts and its square, same for both",
    "ssc": "Pearson correlation across genes between predicted and measured Moran's I",
    "corr_rmse": "root mean squared difference between predicted and measured gene-gene correlations",
    "moran_rmse": "root mean squared difference across genes between predicted and measured Moran's I",
    "moran_mae": "mean absolute difference across genes between predicted and measured Moran's I",
    "moran_ccc": "Lin's concordance across genes between predicted and measured Moran's I",
    "moran_pred": f"mean over genes of Moran's I of the prediction; {_LEFT_OUT}",
    "moran_true": f"mean over genes of Moran's I of the measurement; {_LEFT_OUT}",
    "pcc_depth_only": "PCC of an oracle that reads this very data: least squares of every measured gene on "
    "log measured total counts and its square; it does not depend on the prediction",
}


def spot_depth(adata: "AnnData", *, from_counts: bool) -> np.ndarray | None:
    """Measured total counts of every spot, (n_spots,) float64; None where they are unknown or not usable.

    Where they are not recorded and ``from_counts``, the sums of the raw counts in the table.
    """
    if OBS.total_counts not in adata.obs:
        if not from_counts:
            return None
        text = "adata.obs has no %r; depth scores use the sum over the %d genes present."
        logger.info(text, OBS.total_counts, adata.n_vars)
        return row_sums(raw_counts(adata)[0]).astype(np.float64)
    depth = adata.obs[OBS.total_counts].to_numpy(dtype=np.float64)
    if not np.isfinite(depth).all() or depth.min() < 0:
        logger.warning("adata.obs[%r] has missing or negative values: no depth scores.", OBS.total_counts)
        return None
    return depth


def score_genes(predicted, measured, graph) -> dict[str, np.ndarray]:
    """Per-gene PCC and Moran's I, (n_genes,) each, NaN where the measurement is constant."""
    per_gene = metrics.per_gene_pcc(predicted, measured)
    left_out = np.isnan(per_gene)
    return {
        VAR.pcc: per_gene,
        VAR.moran_pred: np.where(left_out, np.nan, metrics.morans_i(predicted, graph)),
        VAR.moran_true: np.where(left_out, np.nan, metrics.morans_i(measured, graph)),
    }


def score_section(
    predicted, measured, graph, genes: dict[str, np.ndarray], depth: np.ndarray | None
) -> dict[str, float]:
    """All metrics of one section except those over top genes; ``depth`` (n_spots,), or None where it is unknown."""
    scores = {
        "pcc": metrics.pcc(predicted, measured),
        "mse": metrics.mse(predicted, measured),
        "mae": metrics.mae(predicted, measured),
        "ccc": metrics.ccc(predicted, measured),
        "gsc": metrics.gsc(predicted, measured),
        "ssc": metrics.ssc(predicted, measured, graph),
        "corr_rmse": metrics.correlation_rmse(predicted, measured),
        "moran_rmse": metrics.moran_rmse(predicted, measured, graph),
        "moran_mae": metrics.moran_mae(predicted, measured, graph),
        "moran_ccc": metrics.moran_ccc(predicted, measured, graph),
        "moran_pred": float(np.nanmean(genes[VAR.moran_pred])),
        "moran_true": float(np.nanmean(genes[VAR.moran_true])),
    }
    if depth is not None:
        scores["gsc_depth_residual"] = metrics.gsc_depth_residual(predicted, measured, depth)
        scores["pcc_depth_only"] = metrics.depth_pcc(measured, depth)
    return scores


def top_genes(per_gene: np.ndarray, train_pcc: np.ndarray | None, n_top: Sequence[int]) -> dict[str, float]:
    """Mean PCC of the best genes, ranked on this data, and on training data where that ranking is known."""
    varies = ~np.isnan(per_gene)
    rankings = {"": per_gene[varies]}
    if train_pcc is not None:
        # A gene never scored in training ranks last.
        rankings["_train"] = np.nan_to_num(train_pcc[varies], nan=-np.inf)
    result = {}
    for suffix, ranking in rankings.items():
        order = np.argsort(-ranking, kind="stable")
        for n in n_top:
            result[f"pcc{int(n)}{suffix}"] = float(per_gene[varies][order[: int(n)]].mean())
    return result


def sizes(per_gene: np.ndarray, n_spots: int, n_unmeasured: int) -> dict[str, int]:
    """Numbers of spots and genes behind the scores of a section."""
    n_constant = int(np.isnan(per_gene).sum())
    result = {"n_spots": n_spots, "n_genes": len(per_gene) - n_constant, "n_genes_constant": n_constant}
    return result | ({"n_genes_unmeasured": n_unmeasured} if n_unmeasured else {})


def definitions(columns: Sequence[str], n_top: Sequence[int]) -> dict[str, str]:
    """One sentence per metric that was computed."""
    result = dict(DEFINITIONS)
    for n in map(int, n_top):
        result[f"pcc{n}"] = f"mean PCC of the {n} genes predicted best on this very data (optimistic)"
        result[f"pcc{n}_train"] = f"mean PCC of the {n} genes predicted best on training data"
    return {key: result[key] for key in columns if key in result}
