"""Noise ceiling of GSC and SSC in every section of a table."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from flagst import metrics
from flagst._checks import require_anndata, require_counts, require_key
from flagst._keys import OBS, OBSM, PARAM, SLOT, UNS
from flagst.data.graph import moran_graph
from flagst.data.measured import has_counts, measured_genes, raw_counts, recorded_params, section_layout, section_rows
from flagst.data.stored import in_memory
from flagst.data.targets import half_to_target
from flagst.tl._record import section_records, section_table, write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger("flagst")

DEFINITIONS = {
    "half": "score of one half of the counts against the other, mean over splits",
    "reliability": "the same at full depth by Spearman-Brown: score of a second measurement of these spots",
    "reliability_sd": "standard deviation of the reliability over splits",
    "ceiling": "square root of the reliability: score of the structure expected without count noise",
}


def structure_ceiling(
    adata: "AnnData",
    *,
    target: str | None = None,
    section_key: str | None = None,
    spatial_key: str = OBSM.spatial,
    layout: str | None = None,
    n_splits: int = 10,
    seed: int = 0,
) -> "pd.DataFrame":
    """Noise ceiling of GSC and SSC in every section, by splitting its counts in two halves.

    It says how much of the measured structure is more than count noise, whatever the prediction.
    :func:`flagst.metrics.structure_ceiling` explains what the numbers mean and what their limits are.

    Parameters
    ----------
    adata
        Table with raw counts in X or in the registered layer, and spot positions in ``obsm``;
        ``obs["total_counts"]`` for lognorm.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; None takes the recorded one.
    section_key
        Column of ``adata.obs``. None: the recorded one, else ``"section"``, else all spots are one section.
    spatial_key
        Positions in ``adata.obsm``, (n_spots, 2), x then y, any unit of length.
    layout
        ``"square"``, ``"hex"``, ``"irregular"`` or ``"other"``, as in :func:`flagst.tl.evaluate`; None takes the
        recorded layout of every section.
    n_splits
        Splits per section, at least 1.
    seed
        Seed of the splits, the same for every section.

    Returns
    -------
    One row per section and a last row ``"mean"``; columns ``gsc_half``, ``gsc_reliability``,
    ``gsc_reliability_sd``, ``gsc_ceiling``, the same for ``ssc``, and ``n_spots``. Only measured genes count.

    Writes
    ------
    ``adata.uns["flagst"]["ceiling"]``: ``"mean"``, ``"sections"``, ``"definitions"``, ``"target"``,
    ``"n_splits"``, ``"seed"``.

    Raises
    ------
    KeyError
        Positions, sections, target or total counts are missing.
    TypeError
        ``adata`` is a SpatialData.
    ValueError
        X is missing or does not hold raw counts, or as :func:`flagst.metrics.structure_ceiling`.

    Examples
    --------
    >>> ceiling = flagst.tl.structure_ceiling(prediction, n_splits=2)
    >>> list(ceiling.index)
    ['S1', 'S2', 'S3', 'mean']
    >>> bool((ceiling["gsc_ceiling"] > ceiling["gsc_reliability"]).all())
    True
    """
    require_anndata(adata)
    require_key(adata.obsm, spatial_key, where="adata.obsm", hint="Moran's I needs spot positions.")
    if not has_counts(adata):
        raise ValueError(
            "There are no raw counts (adata.X is empty, or the layer that was registered is gone): only raw counts can "
            "be split."
        )
    stored, where = raw_counts(adata)
    counts = in_memory(stored)
    require_counts(counts, where=where)
    target = _target(adata, target)
    known, totals = measured_genes(adata), _totals(adata, target)
    coords = np.asarray(adata.obsm[spatial_key])[:, :2]
    rows_of, found = section_rows(adata, section_key), {}
    for section, rows in rows_of.items():
        try:
            graph = moran_graph(coords[rows], layout or section_layout(adata, section))
            scores = metrics.structure_ceiling(
                counts[rows][:, known],
                graph,
                lambda half, total: half_to_target(half, total, target),
                total_counts=None if totals is None else totals[rows],
                n_splits=n_splits,
                seed=seed,
            )
        except ValueError as error:
            raise ValueError(f"Section {section!r}: {error}") from error
        found[section] = {
            f"{name}_{part}": getattr(score, part) for name, score in scores.items() for part in DEFINITIONS
        } | {"n_spots": len(rows)}
    table = section_table(found)
    record = section_records(table) | {
        "definitions": dict(DEFINITIONS),
        "target": target,
        "n_splits": int(n_splits),
        "seed": int(seed),
    }
    write_record(adata, record, SLOT.ceiling)
    logger.info("Wrote the noise ceiling of %d sections to adata.uns.", len(found))
    return table


def _target(adata: "AnnData", target: str | None) -> str:
    if target is not None:
        return target
    params = recorded_params(adata)
    where = f"adata.uns[{UNS.flagst!r}][{SLOT.params!r}]"
    require_key(params, PARAM.target, where=where, hint="Predict with flagst.FLAG, or pass target=.")
    return str(params[PARAM.target])


def _totals(adata: "AnnData", target: str) -> np.ndarray | None:
    """Total counts of every spot where the target needs them."""
    if target != "lognorm":
        return None
    hint = "It holds the counts over all genes of each spot, stored before any subsetting."
    require_key(adata.obs, OBS.total_counts, where="adata.obs", hint=hint)
    return adata.obs[OBS.total_counts].to_numpy(dtype=np.float64)
