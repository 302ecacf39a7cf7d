"""What a prediction leaves in the table, and where the table is."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from flagst import __version__
from flagst._checks import require_key
from flagst._keys import OBS, PARAM, PREDICTION_TABLE, SLOT, TABLE, UNS, VAR, is_beside, prediction_layers

if TYPE_CHECKING:
    from spatialdata import SpatialData


def is_spatialdata(data) -> bool:
    """Whether ``data`` is a SpatialData, without importing spatialdata."""
    return not isinstance(data, AnnData) and hasattr(data, "tables")


def table_of(data: "AnnData | SpatialData", table_key: str = TABLE) -> AnnData:
    """The table of a SpatialData; an AnnData is its own table.

    Raises
    ------
    KeyError
        No such table.
    TypeError
        Neither an AnnData nor a SpatialData.
    """
    if isinstance(data, AnnData):
        return data
    if not is_spatialdata(data):
        raise TypeError(f"Expected an AnnData or a SpatialData; got {type(data).__name__}.")
    require_key(data.tables, table_key, where="sdata.tables", hint="Name the table with table_key=.")
    return data.tables[table_key]


#: Parameters that are not of one prediction.
_OF_TABLE = (PARAM.section_key, PARAM.counts_layer, PARAM.layer)
#: Fewer posterior samples do not determine the outer 5 %.
MIN_DRAWS = 20


def check_request(
    *,
    structure: float,
    layer: str,
    n_samples: int = 1,
    return_std: bool = False,
    quantiles: tuple[float, ...] = (),
    counts_layer: str | None = None,
) -> None:
    """Raise a ``ValueError`` for a structure or quantiles out of range, too few samples, or a bad layer name.

    ``counts_layer`` is the layer of raw counts, which is not written over.
    """
    if isinstance(structure, str) or not 0 <= structure <= 1:
        raise ValueError(f"structure must be between 0 and 1; got {structure}.")
    if "/" in layer:
        raise ValueError(f"layer={layer!r} cannot be written to h5ad or zarr. Choose a name without '/'.")
    if return_std and n_samples < 2:
        raise ValueError(f"return_std=True needs n_samples of at least 2; got {n_samples}.")
    if not all(0 < quantile < 1 for quantile in quantiles):
        raise ValueError(f"quantiles must lie between 0 and 1, both left out; got {list(quantiles)}.")
    if len(quantiles) and n_samples < MIN_DRAWS:
        raise ValueError(f"quantiles need n_samples of at least {MIN_DRAWS}; got {n_samples}. Pass n_samples=50.")
    if counts_layer is not None and counts_layer in (layer, *prediction_layers(layer, quantiles).values()):
        raise ValueError(
            f"layer={layer!r} would replace the raw counts in layer {counts_layer!r}. Choose another name."
        )


def write_prediction(
    data: "AnnData | SpatialData | None",
    query: AnnData,
    table: AnnData,
    predicted: dict[str, np.ndarray],
    *,
    layer: str,
    params: dict,
    train_pcc: np.ndarray | None,
    genes: list[str],
    history: dict[str, list[float]] | None = None,
    ood: np.ndarray | None = None,
    trained: np.ndarray | None = None,
    quantiles: tuple[float, ...] = (),
    calibration: dict | None = None,
) -> AnnData:
    """What every ``predict`` does last: layers and parameters into ``table``, the table into a SpatialData.

    Parameters
    ----------
    data
        What the user passed to ``predict``.
    query, table
        The table in it, and the one to write to, see :func:`flagst.data.prediction_table.prediction_table`.
    predicted
        ``"draw"`` and the other parts named by :func:`prediction_layers`, ``(n_spots, n_genes)`` each.
    layer
        Name of the layer of the prediction.
    params, train_pcc, genes, history
        As in :func:`record_prediction`; the layer is added to ``params``.
    ood
        ``(n_spots,)`` for ``obs["flagst_ood"]``.
    trained
        ``(n_genes,)`` bool for ``var["flagst_trained"]``, in the order of ``genes``.
    quantiles
        Those in ``predicted``.
    calibration
        Plain values for ``uns["flagst"]["calibration"][layer]``.

    Returns
    -------
    ``table``.
    """
    names = {"draw": layer} | prediction_layers(layer, quantiles)
    layers = {names[part]: values for part, values in predicted.items()}
    if table is not query and is_spatialdata(data):
        keep_predictions(data, table)
    others = _other_predictions(table, layer)
    # standard deviation and quantiles of an earlier prediction do not belong to this one
    for name in [n for n in table.layers if is_beside(n, layer) and n not in layers]:
        del table.layers[name]
    params = params | {PARAM.layer: layer}
    # of the keys: anndata may know X as layer None
    if params.get(PARAM.counts_layer) not in table.layers.keys():
        params |= {PARAM.counts_layer: None}
    # what the columns and the history say may be of those of another kind of model
    keep = any(made.get(PARAM.model) != params.get(PARAM.model) for made in others.values())
    record_prediction(table, layers, params=params, train_pcc=train_pcc, genes=genes, history=history, keep=keep)
    order = pd.Index(genes).get_indexer(table.var_names)
    _put(table.var, VAR.trained, None if trained is None else trained[order], keep=keep)
    _put(table.obs, OBS.ood, ood, keep=keep)
    if calibration is not None:
        slot = table.uns[UNS.flagst]
        slot[SLOT.calibration] = slot.get(SLOT.calibration, {}) | {layer: calibration}
    if table is not query and is_spatialdata(data):
        add_prediction_table(data, table, query)
    return table


def record_setup(adata: AnnData, *, section_key: str, counts_layer: str | None) -> None:
    """Where a table keeps its sections and its raw counts (``None``: X), into ``uns["flagst"]["params"]``."""
    slot = dict(adata.uns.get(UNS.flagst, {}))
    found = {PARAM.section_key: section_key, PARAM.counts_layer: counts_layer}
    slot[SLOT.params] = _without_none(dict(slot.get(SLOT.params, {})) | found)
    adata.uns[UNS.flagst] = slot


def record_prediction(
    table: AnnData,
    layers: dict[str, np.ndarray],
    *,
    params: dict,
    train_pcc: np.ndarray | None,
    genes: list[str],
    history: dict[str, list[float]] | None = None,
    keep: bool = False,
) -> None:
    """Write layers, the training rank of genes and the parameters into ``table``.

    Parameters
    ----------
    table
        Has exactly ``genes``, in any order.
    layers
        Name to ``(n_spots, n_genes)``, columns in the order of ``genes``.
    params
        Plain values for ``uns["flagst"]["params"]``, ``None`` for what is not to stay there; those of the prediction
        also for ``uns["flagst"]["predictions"][layer]``.
    train_pcc
        ``(n_genes,)``, in the order of ``genes``; ``None`` without one.
    history
        Losses per epoch for ``uns["flagst"]["history"]``.
    keep
        Whether training rank and history of another prediction stay where this one has none.
    """
    order = pd.Index(genes).get_indexer(table.var_names)
    for name, values in layers.items():
        table.layers[name] = np.ascontiguousarray(values[:, order])
    _put(table.var, VAR.train_pcc, None if train_pcc is None else train_pcc[order], keep=keep)
    slot = dict(table.uns.get(UNS.flagst, {}))
    slot[SLOT.params] = _without_none(dict(slot.get(SLOT.params, {})) | params)
    if PARAM.layer in params:
        own = {key: value for key, value in params.items() if key not in _OF_TABLE}
        slot[SLOT.predictions] = dict(slot.get(SLOT.predictions, {})) | {params[PARAM.layer]: _without_none(own)}
    slot[SLOT.version] = __version__
    if not keep:
        slot.pop(SLOT.history, None)
    if history:
        slot[SLOT.history] = history
    # what was known of a layer that has just been replaced would be of another prediction
    for name in (SLOT.metrics, SLOT.calibration):
        slot[name] = {key: kept for key, kept in slot.get(name, {}).items() if key not in layers}
    table.uns[UNS.flagst] = slot


def _put(frame: pd.DataFrame, column: str, values: np.ndarray | None, *, keep: bool) -> None:
    """Write a column; without values take it away, or keep what another prediction wrote."""
    if values is not None:
        frame[column] = values
    elif column in frame and not keep:
        del frame[column]


def _without_none(params: dict) -> dict:
    return {key: value for key, value in params.items() if value is not None}


def _other_predictions(table: AnnData, layer: str) -> dict[str, dict]:
    """What is recorded of other layers than ``layer``; those that the table does not have are forgotten."""
    slot = dict(table.uns.get(UNS.flagst, {}))
    there = {name: made for name, made in slot.get(SLOT.predictions, {}).items() if name in table.layers}
    if SLOT.predictions in slot:
        table.uns[UNS.flagst] = slot | {SLOT.predictions: there}
    return {name: made for name, made in there.items() if name != layer}


def keep_predictions(sdata: "SpatialData", table: AnnData) -> None:
    """Take over the predictions of the second table, where it has the same spots and genes, into the one to come."""
    earlier = sdata.tables.get(PREDICTION_TABLE)
    if earlier is None or set(earlier.var_names) != set(table.var_names) or earlier.n_vars != table.n_vars:
        return
    if not earlier.obs_names.equals(table.obs_names):
        return
    slot, old = dict(table.uns.get(UNS.flagst, {})), earlier.uns.get(UNS.flagst, {})
    order = earlier.var_names.get_indexer(table.var_names)
    for name, values in earlier.layers.items():
        if name is not None and name not in table.layers:
            table.layers[name] = values[:, order]
    for column in (VAR.train_pcc, VAR.trained):
        if column in earlier.var:
            table.var[column] = earlier.var[column].reindex(table.var_names)
    if OBS.ood in earlier.obs:
        table.obs[OBS.ood] = earlier.obs[OBS.ood]
    for key in (SLOT.predictions, SLOT.metrics, SLOT.calibration, SLOT.history):
        if key in old:
            slot[key] = dict(old[key])
    table.uns[UNS.flagst] = slot


def add_prediction_table(sdata: "SpatialData", table: AnnData, source: AnnData) -> None:
    """Add predicted genes as a second table on the same shapes."""
    from spatialdata.models import TableModel

    attrs = source.uns.get(TableModel.ATTRS_KEY)
    if attrs is None:
        sdata.tables[PREDICTION_TABLE] = table
        return
    table.uns.pop(TableModel.ATTRS_KEY, None)
    sdata.tables[PREDICTION_TABLE] = TableModel.parse(
        table,
        region=attrs[TableModel.REGION_KEY],
        region_key=attrs[TableModel.REGION_KEY_KEY],
        instance_key=attrs[TableModel.INSTANCE_KEY],
    )
