"""What a prediction leaves in the table, and where the table is."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from flagst import __version__
from flagst._checks import require_key
from flagst._keys import LAYERS, PREDICTION_TABLE, SLOT, TABLE, UNS, VAR

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


def check_request(*, structure: float, layer: str) -> None:
    """Raise a ``ValueError`` for a structure out of range or a layer name that files cannot hold."""
    if not 0 <= structure <= 1:
        raise ValueError(f"structure must be between 0 and 1; got {structure}.")
    if "/" in layer:
        raise ValueError(f"layer={layer!r} cannot be written to h5ad or zarr. Choose a name without '/'.")


def record_prediction(
    table: AnnData,
    layers: dict[str, np.ndarray],
    *,
    params: dict,
    train_pcc: np.ndarray | None,
    genes: list[str],
    history: dict[str, list[float]] | None = None,
) -> None:
    """Write layers, the training rank of genes and the parameters into ``table``.

    Parameters
    ----------
    table
        Has exactly ``genes``, in any order.
    layers
        Name to ``(n_spots, n_genes)``, columns in the order of ``genes``.
    params
        Plain values for ``uns["flagst"]["params"]``.
    train_pcc
        ``(n_genes,)``, in the order of ``genes``; ``None`` without one, and then none stays in the table.
    history
        Losses per epoch for ``uns["flagst"]["history"]``.
    """
    order = pd.Index(genes).get_indexer(table.var_names)
    for name, values in layers.items():
        table.layers[name] = np.ascontiguousarray(values[:, order])
    if train_pcc is not None:
        table.var[VAR.train_pcc] = train_pcc[order]
    elif VAR.train_pcc in table.var:
        del table.var[VAR.train_pcc]
    slot = dict(table.uns.get(UNS.flagst, {}))
    slot[SLOT.params] = dict(slot.get(SLOT.params, {})) | params
    slot[SLOT.version] = __version__
    slot.pop(SLOT.history, None)
    if history:
        slot[SLOT.history] = history
    # scores of a layer that has just been replaced would be those of another prediction
    slot[SLOT.metrics] = {name: kept for name, kept in slot.get(SLOT.metrics, {}).items() if name not in layers}
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


def prediction_layers(layer: str) -> dict[str, str]:
    """Names of the layers beside ``layer``: its mean and its standard deviation."""
    if layer == LAYERS.draw:
        return {"mean": LAYERS.mean, "std": LAYERS.std}
    return {"mean": f"{layer}_mean", "std": f"{layer}_std"}
