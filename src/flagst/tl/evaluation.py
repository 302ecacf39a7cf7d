"""Score predicted expression against measured expression, section by section."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst import metrics
from flagst._checks import require_key
from flagst._keys import LAYERS, OBSM, PARAM, SLOT, UNS, VAR
from flagst.data.graph import moran_graph
from flagst.data.measured import (
    measured_expression,
    measured_genes,
    recorded_params,
    section_layout,
    section_rows,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger("flagst")

_LEFT_OUT = "genes constant in the measurement left out"
DEFINITIONS = {
    "pcc": f"Pearson correlation across spots, mean over genes; {_LEFT_OUT}, 0 if constant in the prediction",
    "mse": f"mean squared error over spots and genes; {_LEFT_OUT}",
    "mae": f"mean absolute error over spots and genes; {_LEFT_OUT}",
    "ccc": f"Lin's concordance correlation coefficient, mean over genes; {_LEFT_OUT}",
    "gsc": "Pearson correlation between upper triangles of predicted and measured gene-gene correlation",
    "ssc": "Pearson correlation across genes between predicted and measured Moran's I",
    "corr_rmse": "root mean squared difference between predicted and measured gene-gene correlations",
    "moran_rmse": "root mean squared difference across genes between predicted and measured Moran's I",
    "moran_pred": f"mean over genes of Moran's I of the prediction; {_LEFT_OUT}",
    "moran_true": f"mean over genes of Moran's I of the measurement; {_LEFT_OUT}",
}


def evaluate(
    adata: "AnnData",
    layer: str = LAYERS.draw,
    *,
    truth=None,
    target: str | None = None,
    section_key: str | None = None,
    spatial_key: str = OBSM.spatial,
    layout: str | None = None,
    n_top: Sequence[int] = (10, 50),
) -> "pd.DataFrame":
    """Score a prediction per section, then average over sections.

    Genes constant in a section's measurement are left out there and counted; genes constant only in the
    prediction count with correlation and Moran's I zero. Genes that ``var["flagst_measured"]`` marks as not
    measured are left out of everything, unless ``truth`` is given.

    Parameters
    ----------
    adata
        Table with the prediction in a layer and spot positions in ``obsm``.
    layer
        Layer with the prediction, (n_obs, n_vars).
    truth
        Measured expression in the unit of the prediction: a layer, an (n_obs, n_vars) array, or a DataFrame
        matched by name. None: computed from raw counts in ``adata.X`` with the target recorded by
        ``FLAG.predict``.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; overrides the recorded target when ``truth`` is None.
    section_key
        Column of ``adata.obs``; None takes the recorded one, else ``"section"``.
    spatial_key
        Positions in ``adata.obsm``, (n_obs, 2), any unit of length.
    layout
        ``"square"``, ``"hex"`` or ``"other"``, which decides how many neighbours Moran's I uses; None takes
        the recorded layout of every section, ``"other"`` where nothing is recorded.
    n_top
        Gene numbers of the "top genes" rows: ``pcc10`` is the mean PCC of the 10 genes predicted best *on
        this very data*, as usually reported and optimistic; ``pcc10_train`` that of the 10 best genes on
        training data, given only when ``var["flagst_train_pcc"]`` is there. With fewer genes, all of them.

    Returns
    -------
    One row per section and a last row ``"mean"``; one column per metric, then ``n_spots``, ``n_genes``
    (scored) and ``n_genes_constant`` (left out), averaged like the others in the last row; also
    ``n_genes_unmeasured`` where there are such genes.

    Writes
    ------
    ``adata.uns["flagst"]["metrics"][layer]``: ``"mean"``, ``"sections"``, ``"definitions"``, ``"graph"``
    (layout and neighbours of every section), ``"n_genes_constant"``, ``"n_genes_unmeasured"``, ``"truth"``.
    ``adata.var["flagst_pcc"]``, ``["flagst_moran_pred"]``, ``["flagst_moran_true"]``: averages over the
    sections in which the gene varies, NaN when there is none; those of the layer evaluated last.

    Raises
    ------
    KeyError
        Layer, positions, sections, target or total counts are missing.
    ValueError
        No measured expression, a section with fewer than 3 spots or no gene that varies, NaN, or a wrong
        shape.

    Source
    ------
    GSC and SSC: FLAG, arXiv 2605.18055; see :mod:`flagst.metrics` for the definitions.
    """
    if hasattr(adata, "tables"):
        raise TypeError("evaluate scores an AnnData; got a SpatialData. Pass sdata.tables[...].")
    require_key(adata.layers, layer, where="adata.layers", hint="Run FLAG.predict first, or name a layer.")
    require_key(adata.obsm, spatial_key, where="adata.obsm", hint="Moran's I needs spot positions.")
    _check_n_top(n_top)
    measured = measured_expression(adata, truth, target=target)
    known = measured_genes(adata, truth)
    n_unmeasured = int((~known).sum())
    measured, predicted = measured[:, known], adata.layers[layer][:, known]
    coords = np.asarray(adata.obsm[spatial_key])
    train_pcc = adata.var[VAR.train_pcc].to_numpy(float)[known] if VAR.train_pcc in adata.var else None
    scores, genes, graphs = {}, {}, {}
    for section, rows in section_rows(adata, section_key).items():
        used_layout = layout or section_layout(adata, section)
        try:
            graph = moran_graph(coords[rows, :2], used_layout)
            genes[section] = _score_genes(predicted[rows], measured[rows], graph)
            scores[section] = _score_section(predicted[rows], measured[rows], graph, genes[section])
        except ValueError as error:
            raise ValueError(f"Section {section!r}: {error}") from error
        graphs[section] = {PARAM.layout: used_layout, "k": int(graph.indptr[1])}
        scores[section] |= _top_genes(genes[section][VAR.pcc], train_pcc, n_top)
        scores[section] |= _sizes(genes[section][VAR.pcc], len(rows), n_unmeasured)
    table = _as_table(scores)
    record = {
        "mean": table.iloc[-1].to_dict(),
        "sections": {name: table.iloc[row].to_dict() for row, name in enumerate(scores)},
        "definitions": _definitions(table.columns, n_top),
        "graph": graphs,
        "n_genes_constant": {name: score["n_genes_constant"] for name, score in scores.items()},
        "n_genes_unmeasured": n_unmeasured,
        "truth": _origin(adata, truth, target),
    }
    _write(adata, layer, record=record, genes=genes, known=known)
    logger.info("Wrote metrics of layer %r to adata.uns and per-gene scores to adata.var.", layer)
    return table


def _check_n_top(n_top: Sequence[int]) -> None:
    wrong = [n for n in n_top if int(n) != n or n < 1]
    if wrong:
        raise ValueError(f"n_top must be positive whole numbers; got {wrong}.")


def _score_genes(predicted, measured, graph) -> dict[str, np.ndarray]:
    """Per-gene PCC and Moran's I, (n_genes,) each, NaN where the measurement is constant."""
    per_gene = metrics.per_gene_pcc(predicted, measured)
    left_out = np.isnan(per_gene)
    return {
        VAR.pcc: per_gene,
        VAR.moran_pred: np.where(left_out, np.nan, metrics.morans_i(predicted, graph)),
        VAR.moran_true: np.where(left_out, np.nan, metrics.morans_i(measured, graph)),
    }


def _score_section(predicted, measured, graph, genes: dict[str, np.ndarray]) -> dict[str, float]:
    """All metrics of one section except those over top genes."""
    return {
        "pcc": metrics.pcc(predicted, measured),
        "mse": metrics.mse(predicted, measured),
        "mae": metrics.mae(predicted, measured),
        "ccc": metrics.ccc(predicted, measured),
        "gsc": metrics.gsc(predicted, measured),
        "ssc": metrics.ssc(predicted, measured, graph),
        "corr_rmse": metrics.correlation_rmse(predicted, measured),
        "moran_rmse": metrics.moran_rmse(predicted, measured, graph),
        "moran_pred": float(np.nanmean(genes[VAR.moran_pred])),
        "moran_true": float(np.nanmean(genes[VAR.moran_true])),
    }


def _top_genes(per_gene: np.ndarray, train_pcc: np.ndarray | None, n_top: Sequence[int]) -> dict[str, float]:
    """Mean PCC of the best genes: ranked on this data, and on training data where that ranking is known."""
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


def _sizes(per_gene: np.ndarray, n_spots: int, n_unmeasured: int) -> dict[str, int]:
    n_constant = int(np.isnan(per_gene).sum())
    sizes = {"n_spots": n_spots, "n_genes": len(per_gene) - n_constant, "n_genes_constant": n_constant}
    return sizes | ({"n_genes_unmeasured": n_unmeasured} if n_unmeasured else {})


def _as_table(scores: dict[str, dict[str, float]]) -> "pd.DataFrame":
    """Sections in rows, metrics in columns, the average last."""
    import pandas as pd

    table = pd.DataFrame.from_dict(scores, orient="index").astype(float)
    average = table.mean(skipna=False).to_frame("mean").T
    return pd.concat([table, average]).rename_axis("section")


def _origin(adata: "AnnData", truth, target: str | None) -> str:
    """Where the measured expression came from, in words."""
    if truth is None:
        return f"X as {target or recorded_params(adata)[PARAM.target]}"
    return f"layer {truth}" if isinstance(truth, str) else "array"


def _definitions(columns: Sequence[str], n_top: Sequence[int]) -> dict[str, str]:
    """One sentence per metric that was computed."""
    result = dict(DEFINITIONS)
    for n in map(int, n_top):
        result[f"pcc{n}"] = f"mean PCC of the {n} genes predicted best on this very data (optimistic)"
        result[f"pcc{n}_train"] = f"mean PCC of the {n} genes predicted best on training data"
    return {key: result[key] for key in columns if key in result}


def _write(
    adata: "AnnData",
    layer: str,
    *,
    record: dict,
    genes: dict[str, dict[str, np.ndarray]],
    known: np.ndarray,
) -> None:
    """Store the record in ``uns`` and per-gene averages in ``var``; nothing before this changed ``adata``.

    ``genes`` has one value per ``known`` gene; the others get NaN.
    """
    # New dicts all the way down, so that a view or a copy never shares the record with its parent.
    slot = dict(adata.uns.get(UNS.flagst, {}))
    slot[SLOT.metrics] = {**slot.get(SLOT.metrics, {}), layer: record}
    adata.uns[UNS.flagst] = slot
    for column in (VAR.pcc, VAR.moran_pred, VAR.moran_true):
        values = np.stack([scores[column] for scores in genes.values()])
        n_sections = (~np.isnan(values)).sum(axis=0)
        totals = np.where(n_sections > 0, np.nansum(values, axis=0), np.nan)
        column_values = np.full(adata.n_vars, np.nan)
        column_values[known] = totals / np.maximum(n_sections, 1)
        adata.var[column] = column_values
