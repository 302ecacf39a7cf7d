"""Overlap of marker genes: genes that distinguish a tissue domain in the prediction and in the measurement."""

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_anndata, require_key
from flagst._keys import LAYERS, RECORD, SLOT
from flagst.data.measured import section_rows
from flagst.tl._inputs import prediction_and_truth
from flagst.tl._record import write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger("flagst")

#: Groups with fewer spots in a section are left out: their ranking would be noise.
MIN_SPOTS = 10


def marker_overlap(
    adata: "AnnData",
    layer: str = LAYERS.draw,
    *,
    groupby: str,
    n_top: Sequence[int] = (20, 50),
    ignore_groups: Sequence[str] = (),
    method: str = "wilcoxon",
    truth: "str | np.ndarray | pd.DataFrame | None" = None,
    target: str | None = None,
    section_key: str | None = None,
) -> "pd.DataFrame":
    """Share of the top differentially expressed genes of every group that the prediction finds too.

    In every section genes are ranked by ``scanpy.tl.rank_genes_groups``, each group against the other spots, highest
    score first, once on predicted and once on measured expression. The overlap of the two top lists is
    divided by their length. Two random lists overlap by ``n_top / n_genes``, which is high for a small panel; the
    table has it as ``chance``.

    Parameters
    ----------
    adata
        Table with the prediction in a layer and measured expression.
    layer
        Layer with the prediction, (n_spots, n_genes).
    groupby
        Column of ``adata.obs`` with the groups, such as a pathologist's label. Spots without one are not used.
    n_top
        Lengths of the lists; never longer than the number of genes.
    ignore_groups
        Labels that count as none, such as ``["unlabelled", "undetermined"]``.
    method
        ``"wilcoxon"``, ``"t-test"`` or ``"t-test_overestim_var"``, as in scanpy.
    truth
        Measured expression in the unit of the prediction: a layer, an (n_spots, n_genes) array, or a DataFrame
        matched by name. None: computed from raw counts, in ``adata.X`` or the registered layer, with the
        target that is recorded of ``layer``.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; overrides the recorded target when ``truth`` is None.
    section_key
        Column of ``adata.obs``. None: the recorded one, else ``"section"``, else all spots are one section.

    Returns
    -------
    One row per section and group with 10 spots or more, where the section has two such groups: ``section``,
    ``group``, ``n_spots``, ``n_genes`` (ranked: those that vary in the measurement), ``overlap20``,
    ``chance20`` and so on for ``n_top``.

    Writes
    ------
    ``adata.uns["flagst"]["metrics"][layer]["markers"]``: ``"mean"`` over rows, ``"table"`` (column -> list),
    ``"groupby"``, ``"method"``.

    Raises
    ------
    KeyError
        Layer, groups or section column are missing, or as :func:`flagst.tl.evaluate`.
    TypeError
        ``adata`` is a SpatialData.
    ValueError
        No section has two groups of 10 spots, or ``n_top`` or ``method`` are not usable.

    Examples
    --------
    >>> table = flagst.tl.marker_overlap(prediction, groupby="domain", n_top=[5], method="t-test")
    >>> list(table.columns)
    ['section', 'group', 'n_spots', 'n_genes', 'overlap5', 'chance5']
    >>> float(table["chance5"].iloc[0])
    0.25
    """
    import pandas as pd

    require_anndata(adata)
    require_key(adata.obs, groupby, where="adata.obs", hint="Name the column of groups with groupby=.")
    wrong = [n for n in n_top if int(n) != n or n < 1]
    if wrong or not len(n_top):
        raise ValueError(f"n_top must be positive whole numbers, at least one; got {list(n_top)}.")
    predicted, measured, _ = prediction_and_truth(adata, layer, truth, target=target)
    column = adata.obs[groupby]
    groups = np.where(column.isna() | column.isin(list(ignore_groups)), "", column.astype(str))
    lines = []
    for section, rows in section_rows(adata, section_key).items():
        for line in _compare(predicted[rows], measured[rows], groups[rows], n_top=n_top, method=method):
            lines.append({"section": section} | line)
    if not lines:
        raise ValueError(
            f"No section has two groups of {groupby!r} with {MIN_SPOTS} spots or more: no contrast, no markers."
        )
    table = pd.DataFrame(lines)
    record = {
        "mean": table.drop(columns=["section", "group"]).mean().to_dict(),
        # lists, as group names may hold what no file takes as a key
        "table": {name: table[name].tolist() for name in table},
        "groupby": groupby,
        "method": method,
    }
    write_record(adata, record, SLOT.metrics, layer, RECORD.markers)
    logger.info("Wrote overlap of markers of layer %r to adata.uns.", layer)
    return table


def _compare(
    predicted: np.ndarray, measured: np.ndarray, groups: np.ndarray, *, n_top: Sequence[int], method: str
) -> list[dict]:
    """One line per group of one section; ``groups`` (n_spots,) str, empty for spots that are not used."""
    names, sizes = np.unique(groups[groups != ""], return_counts=True)
    names, sizes = names[sizes >= MIN_SPOTS], sizes[sizes >= MIN_SPOTS]
    if len(names) < 2:
        return []
    rows, genes = np.isin(groups, names), np.ptp(measured, axis=0) > 0
    ranked = [_ranking(x[rows][:, genes], groups[rows], method) for x in (predicted, measured)]
    n_genes, lines = int(genes.sum()), []
    for name, size in zip(names, sizes, strict=True):
        line = {"group": str(name), "n_spots": int(size), "n_genes": n_genes}
        for n in map(int, n_top):
            length = min(n, n_genes)
            shared = len(set(ranked[0][name][:length]) & set(ranked[1][name][:length]))
            line |= {f"overlap{n}": shared / length, f"chance{n}": length / n_genes}
        lines.append(line)
    return lines


def _ranking(values: np.ndarray, groups: np.ndarray, method: str) -> dict[str, np.ndarray]:
    """Group -> columns of ``values``, best marker first."""
    import pandas as pd
    import scanpy as sc
    from anndata import AnnData

    obs = pd.DataFrame({"group": pd.Categorical(groups)}, index=[str(i) for i in range(len(groups))])
    table = AnnData(values.astype(np.float64), obs=obs)
    with warnings.catch_warnings():
        # fold changes of flat genes, and of units that are not log counts; only the scores are read
        warnings.simplefilter("ignore", RuntimeWarning)
        sc.tl.rank_genes_groups(table, "group", method=method, tie_correct=method == "wilcoxon")
    found = table.uns["rank_genes_groups"]["names"]
    return {name: found[name].astype(int) for name in found.dtype.names}
