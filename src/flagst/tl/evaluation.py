"""Scores of predicted against measured expression, section by section."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_anndata, require_key
from flagst._keys import LAYERS, OBSM, PARAM, RECORD, SLOT, UNS, VAR
from flagst.data.graph import moran_graph
from flagst.data.measured import recorded_params, section_layout, section_rows
from flagst.tl._certainty import jackknife_intervals, permutation_nulls
from flagst.tl._inputs import prediction_and_truth
from flagst.tl._record import section_records, section_table, write_record
from flagst.tl._scores import definitions, score_genes, score_section, sizes, spot_depth, top_genes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger("flagst")

#: Parts of the record of a layer that other tools write.
OTHER_TOOLS = (RECORD.domains, RECORD.markers)


def evaluate(
    adata: "AnnData",
    layer: str = LAYERS.draw,
    *,
    truth: "str | np.ndarray | pd.DataFrame | None" = None,
    target: str | None = None,
    section_key: str | None = None,
    spatial_key: str = OBSM.spatial,
    layout: str | None = None,
    n_top: Sequence[int] = (10, 50),
    intervals: bool = False,
    permutations: int = 0,
    seed: int = 0,
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
        Layer with the prediction, (n_spots, n_genes).
    truth
        Measured expression in the unit of the prediction: a layer, an (n_spots, n_genes) array, or a DataFrame
        matched by name. None: computed from raw counts, in ``adata.X`` or the registered layer, with the
        target that is recorded of ``layer``.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; overrides the recorded target when ``truth`` is None.
    section_key
        Column of ``adata.obs``. None: the recorded one, else ``"section"``, else all spots are one section.
    spatial_key
        Positions in ``adata.obsm``, (n_spots, 2), x then y, any unit of length.
    layout
        ``"square"``, ``"hex"``, ``"irregular"`` or ``"other"``, which decides how many neighbours Moran's I uses.
        None takes the recorded layout of every section, ``"other"`` where nothing is recorded.
    n_top
        Gene numbers of the "top genes" columns. ``pcc10`` is the mean PCC of the 10 genes predicted best *on
        this very data*, as usually reported, and optimistic. ``pcc10_train`` is that of the 10 best genes on
        training data. It is given only when ``var["flagst_train_pcc"]`` is there, which belongs to the model that
        predicted last. With fewer genes, all of them.
    intervals
        Also record jackknife intervals of PCC, GSC and SSC over 20 compact blocks of every section (fewer
        where a block would have under 5 spots); see :func:`flagst.metrics.jackknife`. This computes the scores 21
        more times.
    permutations
        Also record permutation tests of GSC and SSC with this many permutations of genes, in every section; see
        :func:`flagst.metrics.gsc_permutation_test`. 0: none.
    seed
        Seed of the permutations.

    Returns
    -------
    One row per section and a last row ``"mean"``; one column per metric, then ``n_spots``, ``n_genes``
    (scored) and ``n_genes_constant`` (left out), averaged like the others in the last row; also
    ``n_genes_unmeasured`` where there are such genes. ``gsc_depth_residual`` and ``pcc_depth_only`` tell how much is
    library size. They use ``obs["total_counts"]``; where that is missing, the sums of the raw counts in the table; and
    with a ``truth`` or ``target="identity"`` they are left out.

    Writes
    ------
    ``adata.uns["flagst"]["metrics"][layer]``: ``"mean"``, ``"sections"``, ``"definitions"``, ``"graph"``
    (layout and neighbours of every section), ``"n_genes_constant"``, ``"n_genes_unmeasured"``, ``"truth"``;
    ``"intervals"`` and ``"nulls"``, section -> score -> numbers, when asked for.
    ``adata.var["flagst_pcc"]``, ``["flagst_moran_pred"]``, ``["flagst_moran_true"]``: averages over the
    sections in which the gene varies, NaN when there is none; those of the layer evaluated last.

    Raises
    ------
    KeyError
        Layer, positions, sections, target or total counts are missing.
    TypeError
        ``adata`` is a SpatialData.
    ValueError
        No measured expression, a section with fewer than 3 spots (10 for ``intervals``) or no gene that
        varies, NaN, a wrong shape, or negative ``permutations``.

    Source
    ------
    GSC and SSC: FLAG, arXiv 2605.18055; see :mod:`flagst.metrics` for the definitions.

    Examples
    --------
    >>> table = flagst.tl.evaluate(prediction, n_top=[5])
    >>> list(table.index)
    ['S1', 'S2', 'S3', 'mean']
    >>> sorted({"pcc", "pcc5", "gsc", "ssc"} & set(table.columns))
    ['gsc', 'pcc', 'pcc5', 'ssc']
    >>> prediction.uns["flagst"]["metrics"]["flagst"]["truth"]
    'X as lognorm'
    """
    require_anndata(adata)
    require_key(adata.obsm, spatial_key, where="adata.obsm", hint="Moran's I needs spot positions.")
    _check_numbers(n_top, permutations)
    predicted, measured, known = prediction_and_truth(adata, layer, truth, target=target)
    used = target or recorded_params(adata, layer).get(PARAM.target)
    depth = spot_depth(adata, from_counts=truth is None and used != "identity")
    n_unmeasured = int((~known).sum())
    coords = np.asarray(adata.obsm[spatial_key])[:, :2]
    train_pcc = adata.var[VAR.train_pcc].to_numpy(float)[known] if VAR.train_pcc in adata.var else None
    scores, genes, graphs, certainty = {}, {}, {}, {}
    for section, rows in section_rows(adata, section_key).items():
        used_layout = layout or section_layout(adata, section)
        part, spots = (predicted[rows], measured[rows]), coords[rows]
        try:
            graph = moran_graph(spots, used_layout)
            genes[section] = score_genes(*part, graph)
            scores[section] = score_section(*part, graph, genes[section], None if depth is None else depth[rows])
            if intervals:
                certainty.setdefault(RECORD.intervals, {})[section] = jackknife_intervals(*part, graph, spots)
            if permutations:
                nulls = permutation_nulls(*part, graph, n_permutations=permutations, seed=seed)
                certainty.setdefault(RECORD.nulls, {})[section] = nulls
        except ValueError as error:
            raise ValueError(f"Section {section!r}: {error}") from error
        graphs[section] = {PARAM.layout: used_layout, "k": int(graph.indptr[1])}
        scores[section] |= top_genes(genes[section][VAR.pcc], train_pcc, n_top)
        scores[section] |= sizes(genes[section][VAR.pcc], len(rows), n_unmeasured)
    table = section_table(scores)
    record = section_records(table) | {
        "definitions": definitions(table.columns, n_top),
        "graph": graphs,
        "n_genes_constant": {name: score["n_genes_constant"] for name, score in scores.items()},
        "n_genes_unmeasured": n_unmeasured,
        "truth": _origin(adata, layer, truth, target),
    }
    before = adata.uns.get(UNS.flagst, {}).get(SLOT.metrics, {}).get(layer, {})
    of_others = {part: before[part] for part in OTHER_TOOLS if part in before}
    # nothing before this changed adata
    write_record(adata, record | certainty | of_others, SLOT.metrics, layer)
    _write_genes(adata, genes, known)
    logger.info("Wrote metrics of layer %r to adata.uns and per-gene scores to adata.var.", layer)
    return table


def _check_numbers(n_top: Sequence[int], permutations: int) -> None:
    wrong = [n for n in n_top if int(n) != n or n < 1]
    if wrong:
        raise ValueError(f"n_top must be positive whole numbers; got {wrong}.")
    if permutations < 0:
        raise ValueError(f"permutations must be 0 or more; got {permutations}.")


def _origin(adata: "AnnData", layer: str, truth, target: str | None) -> str:
    """Where the measured expression came from, in words."""
    if truth is None:
        params = recorded_params(adata, layer)
        counts = f"layer {params[PARAM.counts_layer]}" if PARAM.counts_layer in params else "X"
        return f"{counts} as {target or params[PARAM.target]}"
    return f"layer {truth}" if isinstance(truth, str) else "array"


def _write_genes(adata: "AnnData", genes: dict[str, dict[str, np.ndarray]], known: np.ndarray) -> None:
    """Store averages over sections in ``var``; ``genes`` has one value per ``known`` gene, the others get NaN."""
    for column in (VAR.pcc, VAR.moran_pred, VAR.moran_true):
        values = np.stack([scores[column] for scores in genes.values()])
        n_sections = (~np.isnan(values)).sum(axis=0)
        averages = np.full(adata.n_vars, np.nan)
        averages[known] = np.where(n_sections > 0, np.nansum(values, axis=0), np.nan) / np.maximum(n_sections, 1)
        adata.var[column] = averages
