"""Structure of a prediction: gene-gene correlation and Moran's I, measured against predicted."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from flagst import metrics
from flagst._checks import require_anndata, require_key
from flagst._keys import LAYERS, OBSM
from flagst.data.graph import moran_graph
from flagst.data.measured import chosen_sections, section_layout, section_rows
from flagst.pl._finish import finish
from flagst.tl._inputs import prediction_and_truth

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: More genes than this and their names no longer fit beside a heat map.
MAX_NAMES = 40

#: Above this, reordering leaves for a smoother heat map takes longer than it is worth.
MAX_OPTIMAL = 600


def structure(
    adata: "AnnData",
    layer: str = LAYERS.draw,
    *,
    section: str | Sequence[str] | None = None,
    section_key: str | None = None,
    truth: "str | np.ndarray | pd.DataFrame | None" = None,
    target: str | None = None,
    spatial_key: str = OBSM.spatial,
    layout: str | None = None,
    cmap: str = "RdBu_r",
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> "np.ndarray | Figure | None":
    """Plot gene-gene correlation, measured and predicted, and Moran's I of every gene.

    Both heat maps have the same sequence of genes, from hierarchical clustering of the measured correlation, and
    the same scale from -1 to 1. Titles have the section's GSC and SSC. Genes constant in the measurement are
    left out, and so are those marked as not measured, as in :func:`flagst.tl.evaluate`.

    Parameters
    ----------
    adata
        Table with the prediction in a layer and measured expression.
    layer
        Layer with the prediction, (n_spots, n_genes).
    section
        Section or sections to draw, one row of panels each; None draws all.
    section_key
        Column of ``adata.obs``. None: the recorded one, else ``"section"``, else all spots are one section.
    truth
        Measured expression in the unit of the prediction: a layer, an (n_spots, n_genes) array, or a DataFrame
        matched by name. None: computed from raw counts, in ``adata.X`` or the registered layer, with the
        target that is recorded of ``layer``.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; overrides the recorded target when ``truth`` is None.
    spatial_key
        Positions in ``adata.obsm``, (n_spots, 2), x then y, any unit of length.
    layout
        ``"square"``, ``"hex"``, ``"irregular"`` or ``"other"``, as in :func:`flagst.tl.evaluate`.
    cmap
        Colours of the heat maps.
    show
        Show the figure; None shows it in interactive sessions unless it is saved or returned.
    save
        File to write the figure to.
    return_fig
        Return the figure instead of the axes.

    Returns
    -------
    Axes (n_sections, 3): measured, predicted, Moran's I; the figure with ``return_fig``; None when it was
    shown.

    Raises
    ------
    KeyError
        The layer, the positions, a section or the target is missing, or as :func:`flagst.tl.evaluate`.
    TypeError
        ``adata`` is a SpatialData.
    ValueError
        As :func:`flagst.tl.evaluate`.

    Examples
    --------
    >>> axes = flagst.pl.structure(prediction, section=["S1", "S2"])
    >>> axes.shape
    (2, 3)
    >>> axes[0, 2].get_xlabel()
    "Moran's I, measured"
    """
    require_anndata(adata)
    require_key(adata.obsm, spatial_key, where="adata.obsm", hint="Moran's I needs spot positions.")
    predicted, measured, known = prediction_and_truth(adata, layer, truth, target=target)
    names = np.asarray(adata.var_names[known])
    coords = np.asarray(adata.obsm[spatial_key])[:, :2]
    rows = section_rows(adata, section_key)
    wanted = chosen_sections(rows, section)

    figure, axes = plt.subplots(len(wanted), 3, figsize=(11.5, 3.9 * len(wanted)), squeeze=False, layout="constrained")
    for (left, middle, right), name in zip(axes, wanted, strict=True):
        graph = moran_graph(coords[rows[name]], layout or section_layout(adata, name))
        p, m = predicted[rows[name]], measured[rows[name]]
        _draw_correlations(left, middle, p, m, names=names, cmap=cmap)
        _draw_morans(right, p, m, graph)
        left.set_title(f"{name}, measured")
    return finish(figure, axes, show=show, save=save, return_fig=return_fig)


def _varying(predicted, measured) -> np.ndarray:
    """Genes that vary in the measurement, as the metrics see it."""
    return ~np.isnan(metrics.per_gene_pcc(predicted, measured))


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.2f}"


def _clustered_order(correlation: np.ndarray) -> np.ndarray:
    """Order of genes that puts correlated ones side by side; (n_genes,) int."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(correlation) < 3:
        return np.arange(len(correlation))
    distance = squareform(np.clip(1.0 - correlation, 0.0, 2.0), checks=False)
    return leaves_list(linkage(distance, method="average", optimal_ordering=len(correlation) <= MAX_OPTIMAL))


def _draw_correlations(left: "Axes", right: "Axes", predicted, measured, *, names: np.ndarray, cmap: str) -> None:
    """The two heat maps with one colour bar."""
    kept = _varying(predicted, measured)
    true, guess = metrics.gene_correlation(measured[:, kept]), metrics.gene_correlation(predicted[:, kept])
    order = _clustered_order(true)
    for ax, correlation in ((left, true), (right, guess)):
        ordered = correlation[np.ix_(order, order)]
        image = ax.imshow(ordered, vmin=-1, vmax=1, cmap=cmap, interpolation="nearest")
        ax.set(xticks=[], yticks=[], xlabel=f"{len(order)} genes")
    if len(order) <= MAX_NAMES:
        size = np.clip(200 / len(order), 4.0, 8.0)
        left.set_yticks(np.arange(len(order)), names[kept][order], fontsize=size)
    right.set_title(f"predicted, GSC {_number(metrics.gsc(predicted, measured))}")
    left.figure.colorbar(image, ax=[left, right], label="Pearson correlation", shrink=0.8)


def _draw_morans(ax: "Axes", predicted, measured, graph) -> None:
    """Moran's I of every gene, measured against predicted, with the line of equality."""
    kept = _varying(predicted, measured)
    true, guess = metrics.morans_i(measured, graph)[kept], metrics.morans_i(predicted, graph)[kept]
    both = np.concatenate([true, guess])
    margin = 0.05 * max(np.ptp(both), 0.1)
    limits = (both.min() - margin, both.max() + margin)
    ax.plot(limits, limits, color="0.6", lw=1, zorder=0)
    ax.scatter(true, guess, s=12, alpha=0.7, linewidths=0)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.set(xlabel="Moran's I, measured", ylabel="Moran's I, predicted")
    ax.set_title(f"Moran's I, SSC {_number(metrics.ssc(predicted, measured, graph))}")
