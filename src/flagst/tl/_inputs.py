"""Predicted and measured expression of the genes that have a measurement."""

from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_key
from flagst.data.measured import measured_expression, measured_genes

if TYPE_CHECKING:
    from anndata import AnnData


def prediction_and_truth(
    adata: "AnnData", layer: str, truth, *, target: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and measured expression, (n_spots, n_known) each, and which genes are known, (n_genes,) bool.

    ``truth`` and ``target`` as in :func:`flagst.tl.evaluate`.
    """
    require_key(adata.layers, layer, where="adata.layers", hint="Run FLAG.predict first, or name a layer.")
    known = measured_genes(adata, truth)
    predicted = adata.layers[layer][:, known]
    predicted = predicted.toarray() if hasattr(predicted, "toarray") else np.asarray(predicted)
    return predicted, measured_expression(adata, truth, target=target, layer=layer)[:, known], known
