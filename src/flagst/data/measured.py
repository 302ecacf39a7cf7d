"""What a table says about its sections: their spots, their layout, and their measured expression."""

from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_counts, require_key, require_one_of
from flagst._keys import OBS, PARAM, SLOT, UNS, VAR, is_beside, prediction_layers
from flagst.data.graph import MORAN_NEIGHBOURS
from flagst.data.stored import in_memory
from flagst.data.targets import to_target

if TYPE_CHECKING:
    from anndata import AnnData

    from flagst.data.sections import Section

#: Name of the only section of a table that has no section column.
ONLY_SECTION = "all"


def recorded_params(adata: "AnnData", layer: str | None = None) -> dict:
    """``adata.uns["flagst"]["params"]``, or an empty dict; with what is recorded of a layer that was predicted.

    Parameters
    ----------
    adata
        Table.
    layer
        The prediction that is meant, or the mean, standard deviation or quantile beside it; ``None`` for the last.
    """
    slot = adata.uns.get(UNS.flagst, {})
    params, predictions = dict(slot.get(SLOT.params, {})), slot.get(SLOT.predictions, {})
    if layer is not None and layer not in predictions:
        beside = [of for of in predictions if prediction_layers(of)["mean"] == layer or is_beside(layer, of)]
        layer = beside[0] if beside else None
    if layer is not None:
        params |= dict(predictions[layer])
    for key in (PARAM.um_per_px, PARAM.layout):
        if key in params:  # names of sections are text, whatever a table calls them
            params[key] = {str(section): value for section, value in params[key].items()}
    return params


def plain(value: Any) -> Any:
    """Arrays as lists and numpy scalars as Python ones: what h5ad and zarr give back, made comparable."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def section_rows(adata: "AnnData", section_key: str | None = None) -> dict[str, np.ndarray]:
    """Rows of every section, in order of first appearance.

    Parameters
    ----------
    adata
        Table of one or several sections.
    section_key
        Column of ``adata.obs``. Without it: the recorded one, else ``"section"``; a table that has neither is
        one section named ``"all"``.

    Returns
    -------
    Section name -> (n_spots,) int64 rows.

    Raises
    ------
    KeyError
        The column is not in ``adata.obs``.
    ValueError
        Spots without a section.
    """
    import pandas as pd

    key = section_key or recorded_params(adata).get(PARAM.section_key)
    if key is None:
        if OBS.section not in adata.obs:
            return {ONLY_SECTION: np.arange(adata.n_obs)}
        key = OBS.section
    hint = f"Set adata.obs[{key!r}], or name the column of sections with section_key= where there is one."
    require_key(adata.obs, key, where="adata.obs", hint=hint)
    labels = adata.obs[key]
    if labels.isna().any():
        n_missing = int(labels.isna().sum())
        raise ValueError(f"adata.obs[{key!r}] is missing for {n_missing} spots; name their section.")
    labels = labels.astype(str).to_numpy()
    return {str(name): np.flatnonzero(labels == name) for name in pd.unique(labels)}


def chosen_sections(rows: dict[str, np.ndarray], section) -> list[str]:
    """Names of the sections asked for: one name, several, or ``None`` for all.

    Raises
    ------
    KeyError
        No such section.
    """
    if section is None:
        return list(rows)
    names = [section] if isinstance(section, str) or not np.iterable(section) else section
    for name in map(str, names):
        require_key(rows, name, where="the table's sections", hint="Pass one of them as section=.")
    return [str(name) for name in names]


def section_layout(adata: "AnnData", section: str) -> str:
    """Recorded spot layout of a section, see :class:`flagst.io.Section`; ``"other"`` when nothing is recorded.

    Raises
    ------
    ValueError
        It is no layout that flagst knows.
    """
    layout = str(recorded_params(adata).get(PARAM.layout, {}).get(section, "other"))
    require_one_of(layout, MORAN_NEIGHBOURS, name=f'adata.uns["{UNS.flagst}"]["{SLOT.params}"] layout of {section!r}')
    return layout


def training_spacing(adata: "AnnData", sections: "list[Section]") -> dict[str, float | str] | None:
    """How far apart spots are and how they are laid out, over sections, for slides that have no spots yet.

    Parameters
    ----------
    adata
        Their table.
    sections
        With coordinates in micrometres where the scale is recorded.

    Returns
    -------
    ``"pitch_um"``, the median distance of the nearest spot, and ``"layout"``, that of the first section; None where
    the scale of a section is not known.
    """
    if not {section.name for section in sections} <= set(recorded_params(adata).get(PARAM.um_per_px, {})):
        return None
    nearest = np.concatenate([section.distances[:, 0] for section in sections])
    return {"pitch_um": float(np.median(nearest)), "layout": sections[0].layout}


def measured_genes(adata: "AnnData", truth=None) -> np.ndarray:
    """Which genes have a measurement, ``(n_genes,)`` bool.

    Genes marked ``False`` in ``var["flagst_measured"]`` have an empty column in X, which says nothing about
    them. A ``truth`` that was given counts for all genes.
    """
    if truth is not None or VAR.measured not in adata.var:
        return np.ones(adata.n_vars, dtype=bool)
    return ~adata.var[VAR.measured].isin([False]).to_numpy()


def counts_name(layer: str | None) -> str:
    """How a layer of raw counts is called in messages; ``None`` for X."""
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def has_counts(adata: "AnnData") -> bool:
    """Whether a table has anything where its raw counts should be."""
    layer = recorded_params(adata).get(PARAM.counts_layer)
    return adata.X is not None if layer is None else layer in adata.layers


def raw_counts(adata: "AnnData") -> tuple[Any, str]:
    """Raw counts of a table, wherever they are stored, and how to call them: those that were registered, else X.

    Raises
    ------
    KeyError
        The layer that was registered is gone.
    ValueError
        There are none.
    """
    layer = recorded_params(adata).get(PARAM.counts_layer)
    if layer is not None:
        hint = "The model was registered with raw counts in this layer; pass truth= if they are elsewhere."
        require_key(adata.layers, layer, where="adata.layers", hint=hint)
        return adata.layers[layer], counts_name(layer)
    if adata.X is None:
        raise ValueError(
            "adata.X is empty: these sections have no measured expression. Pass truth= (a layer or an array) "
            "if it is kept elsewhere."
        )
    return adata.X, counts_name(None)


def measured_expression(
    adata: "AnnData", truth=None, *, target: str | None = None, layer: str | None = None
) -> np.ndarray:
    """Measured expression in the unit of the prediction.

    Parameters
    ----------
    adata
        Table with raw counts in X, or in the layer that was registered, and ``obs["total_counts"]``.
    truth
        None: from raw counts and the target. A string: a layer that already has the unit. Otherwise an array
        of shape (n_obs, n_vars), dense or sparse, or a pandas DataFrame, whose rows and columns are matched
        by name.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``, for ``truth=None`` only; None takes the recorded one.
    layer
        The prediction whose target is meant; None for the last.

    Returns
    -------
    (n_obs, n_vars), dense; float32 when computed from counts.

    Raises
    ------
    KeyError
        No such layer, no recorded target, no total counts, or names missing in the DataFrame.
    ValueError
        There are no raw counts, or the array has the wrong shape.
    """
    if truth is None:
        return _from_counts(adata, target, layer)
    if isinstance(truth, str):
        require_key(adata.layers, truth, where="adata.layers", hint="Name the layer of measured expression.")
        truth = adata.layers[truth]
    elif hasattr(truth, "reindex"):
        missing = [n for n in adata.obs_names if n not in truth.index]
        missing += [n for n in adata.var_names if n not in truth.columns]
        if missing:
            raise KeyError(f"truth lacks {len(missing)} spot or gene names of adata, such as {missing[:5]}.")
        truth = truth.loc[adata.obs_names, adata.var_names]
    truth = truth.toarray() if hasattr(truth, "toarray") else np.asarray(truth)
    if truth.shape != adata.shape:
        raise ValueError(f"truth must be (n_obs, n_vars) = {adata.shape}; got {truth.shape}.")
    return truth


def _from_counts(adata: "AnnData", target: str | None, layer: str | None) -> np.ndarray:
    """Target computed from raw counts."""
    stored, where_counts = raw_counts(adata)
    counts = in_memory(stored)
    if target is None:
        params = recorded_params(adata, layer)
        hint = "Predict with flagst.FLAG, or pass target= or truth=."
        where = f"adata.uns[{UNS.flagst!r}][{SLOT.params!r}]"
        require_key(params, PARAM.target, where=where, hint=hint)
        target = str(params[PARAM.target])
    totals = None
    if target != "identity":
        require_counts(counts, where=where_counts)
    if target == "lognorm":
        hint = "It holds the counts over all genes of each spot, stored before any subsetting."
        require_key(adata.obs, OBS.total_counts, where="adata.obs", hint=hint)
        totals = adata.obs[OBS.total_counts].to_numpy()
    return to_target(counts, totals, target)
