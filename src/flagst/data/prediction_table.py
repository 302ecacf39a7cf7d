"""The table a prediction is written to: genes matched by name, nothing invented."""

import logging
from functools import partial

import numpy as np
from anndata import AnnData

from flagst._checks import require_counts, require_unique
from flagst._keys import FEATURES, OBS, OBSM, PARAM, SLOT, UNS, VAR
from flagst.data.measured import plain, recorded_params
from flagst.data.stored import in_memory, row_sums

logger = logging.getLogger(__name__)

#: What must be the same in training and query for image features to mean the same.
_SAME = (
    FEATURES.encoder,
    FEATURES.version,
    FEATURES.params,
    FEATURES.patch_um,
    FEATURES.patch_px,
    FEATURES.stain_normalise,
)


def empty_query(adata: AnnData, genes: list[str]) -> AnnData:
    """A table with the model's genes, no X, and the spots of ``adata`` (obs, obsm, uns copied)."""
    import pandas as pd

    return AnnData(
        obs=adata.obs.copy(),
        var=pd.DataFrame(index=pd.Index(genes)),
        obsm={key: value.copy() for key, value in adata.obsm.items()},
        uns=_copy(adata.uns),
    )


def prediction_table(
    adata: AnnData, genes: list[str], *, allow_missing: bool, panel: bool = True, counts_layer: str | None = None
) -> AnnData:
    """Where to write: ``adata`` itself when it holds exactly the model's genes, else a new table.

    A new table gets the total counts over all genes, which it could not give itself.

    Parameters
    ----------
    adata
        The query.
    genes
        The model's genes.
    allow_missing
        Predict genes the query does not have, marked in ``var["flagst_measured"]``.
    panel
        Whether ``genes`` is the model's panel or was asked for, for the message.
    counts_layer
        The model's layer of raw counts. Where the query lacks it, raw counts are those it records, else X.

    Raises
    ------
    ValueError
        Duplicate gene names, or genes of the model that the query lacks.
    """
    require_unique(adata.var_names, where="Gene names (adata.var_names)", hint="Run adata.var_names_make_unique().")
    missing = [gene for gene in genes if gene not in adata.var_names]
    if missing and not allow_missing:
        whose, call = ("model's", "query") if panel else ("requested", "query, genes=...")
        raise ValueError(
            f"The query lacks {len(missing)} of the {whose} {len(genes)} genes: {missing[:10]}; it has "
            f"{[str(g) for g in adata.var_names[:5]]}. Pass allow_missing=True to predict them all the same, "
            f"or model.prepare_query({call}) for a table without expression."
        )
    if not missing and adata.n_vars == len(genes):
        return adata
    layer = counts_layer if counts_layer in adata.layers else recorded_params(adata).get(PARAM.counts_layer)
    depth = _depth(adata, layer)
    if not missing:
        logger.info("Writing to a new AnnData with the %d predicted genes of %d.", len(genes), adata.n_vars)
        panel_only = adata[:, genes]
        table = panel_only.to_memory() if adata.isbacked else panel_only.copy()
        return _with_depth(table, depth)
    logger.warning("%d genes were not measured in the query: %s.", len(missing), missing[:10])
    table = empty_query(adata, genes)
    if adata.X is not None:
        table.X = _columns(adata.X, adata.var_names, genes)
    if layer is not None and layer in adata.layers:
        table.layers[layer] = _columns(adata.layers[layer], adata.var_names, genes)
    table.var[VAR.measured] = ~table.var_names.isin(missing)
    return _with_depth(table, depth)


def _columns(matrix, names, genes: list[str]):
    """Columns of some genes; those that are not there are empty, which says nothing of their counts."""
    import pandas as pd
    import scipy.sparse as sp

    source = sp.csc_matrix(in_memory(matrix))
    empty = sp.csc_matrix((source.shape[0], 1), dtype=source.dtype)
    return sp.hstack([source[:, [c]] if c >= 0 else empty for c in pd.Index(names).get_indexer(genes)]).tocsr()


def _depth(adata: AnnData, layer: str | None) -> np.ndarray | None:
    """Total counts per spot over all genes, where the table has counts, in a layer or X, and does not say."""
    stored = adata.X if layer is None else adata.layers.get(layer)
    if OBS.total_counts in adata.obs or stored is None:
        return None
    try:
        return row_sums(stored, partial(require_counts, where="The query"))
    except ValueError:  # a table without counts can be predicted too
        return None


def _with_depth(table: AnnData, depth: np.ndarray | None) -> AnnData:
    if depth is not None:
        table.obs[OBS.total_counts] = depth
    return table


def check_features(adata: AnnData, expected: dict, *, d_image: int, found: int, image_key: str = OBSM.image) -> None:
    """Raise a ``ValueError`` when the image features are not of the kind the model was trained on.

    Features cut from another kind of image (small instead of full resolution) are only warned about.

    Parameters
    ----------
    adata
        The query.
    expected
        ``uns["flagst"]["features"]`` of the training data; may be empty.
    d_image, found
        Feature widths of the model and of the query.
    image_key
        Key of the features in ``obsm``.
    """
    hint = "Run flagst.pp.image_features on the query with the encoder and parameters of the training data."
    if found != d_image:
        raise ValueError(f"The model was trained on {d_image} image features; the query has {found}. {hint}")
    expected = expected.get(image_key, {})
    given = adata.uns.get(UNS.flagst, {}).get(SLOT.features, {}).get(image_key, {})
    expected, given = plain(dict(expected)), plain(dict(given))
    for key in (*_SAME, FEATURES.source):
        if key not in expected or key not in given or expected[key] == given[key]:
            continue
        if key != FEATURES.source:
            trained, theirs = _differing(expected[key], given[key])
            raise ValueError(
                f"The model was trained on image features with {key} {trained!r}; the query's have {theirs!r}. {hint}"
            )
        logger.warning(
            "The model was trained on image features with %s %r; the query's have %r.",
            key, expected[key], given[key],
        )  # fmt: skip


def _differing(expected, given) -> tuple:
    """Of two dicts what is not the same in both; of anything else the two themselves."""
    if not (isinstance(expected, dict) and isinstance(given, dict)):
        return expected, given
    keys = [key for key in {**expected, **given} if expected.get(key) != given.get(key)]
    return {key: expected.get(key) for key in keys}, {key: given.get(key) for key in keys}


def _copy(uns) -> dict:
    from copy import deepcopy

    return deepcopy(dict(uns))
