"""Maps of expression on the tissue, measured beside predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize

from flagst._checks import require_anndata, require_key
from flagst._keys import LAYERS, LIBRARY, OBSM, PARAM, UNS
from flagst.data.graph import knn
from flagst.data.measured import (
    chosen_sections,
    has_counts,
    measured_expression,
    measured_genes,
    recorded_params,
    section_rows,
)
from flagst.data.targets import TARGETS
from flagst.metrics import per_gene_pcc
from flagst.pl._finish import finish

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Height of one row of panels, inches.
ROW_HEIGHT = 3.2


@dataclass
class _Canvas:
    """Image and positions of one section; lengths in full-resolution pixels."""

    name: str
    rows: np.ndarray  # (n_spots,) int64
    coords: np.ndarray  # (n_spots, 2) float64, x then y
    diameter: float
    image: np.ndarray | None  # (height, width, 3)
    scale: float  # image pixels per full-resolution pixel
    um_per_px: float | None


def spatial(
    adata: "AnnData",
    color: str | Sequence[str],
    *,
    layer: str = LAYERS.draw,
    section: str | Sequence[str] | None = None,
    section_key: str | None = None,
    truth: "str | np.ndarray | pd.DataFrame | None" = None,
    target: str | None = None,
    spatial_key: str = OBSM.spatial,
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    alpha: float = 1.0,
    crop: bool = True,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> "np.ndarray | Figure | None":
    """Map genes on the tissue, measured on the left, predicted on the right.

    Both panels of a gene share one colour scale, also across sections, and one colour bar in the unit of the
    target. Spots have their true size. Without measured expression only the prediction is drawn. Where
    ``var["flagst_measured"]`` marks a gene as not measured, its left panel stays empty.

    Parameters
    ----------
    adata
        Table with the prediction in a layer; image and scale factors come from ``uns["spatial"][section]``. A
        section without image is drawn on white.
    color
        Gene or genes of ``adata.var_names``, one row of panels each.
    layer
        Layer with the prediction, (n_spots, n_genes).
    section
        Section or sections to draw; None draws all.
    section_key
        Column of ``adata.obs``. None: the recorded one, else ``"section"``, else all spots are one section.
    truth
        Measured expression in the unit of the prediction: a layer, an (n_spots, n_genes) array, or a DataFrame
        matched by name. None: computed from raw counts, in ``adata.X`` or the registered layer, with the
        target that is recorded of ``layer``.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; overrides the recorded target when ``truth`` is None.
    spatial_key
        Positions in ``adata.obsm``, (n_spots, 2), x then y, full-resolution pixels.
    cmap
        Colour map of the expression.
    vmin, vmax
        Limits of the colours, in the unit of the target; by default the range of the measured and predicted values.
    alpha
        Opacity of the spots, 0 to 1.
    crop
        Show the surroundings of the spots instead of the whole image.
    show
        Show the figure; None shows it in interactive sessions unless it is saved or returned.
    save
        File to write the figure to.
    return_fig
        Return the figure instead of the axes.

    Returns
    -------
    Axes (n_sections * n_genes, 2), or (n_sections * n_genes, 1) without measured expression; the figure with
    ``return_fig``; None when the figure was shown.

    Raises
    ------
    KeyError
        A gene, the layer, the positions or a section is missing.
    TypeError
        ``adata`` is a SpatialData.
    ValueError
        As :func:`flagst.tl.evaluate` for the measured expression.

    Examples
    --------
    >>> axes = flagst.pl.spatial(prediction, ["SIM001", "SIM002"], section="S1")
    >>> axes.shape
    (2, 2)
    >>> axes[1, 0].get_title()
    'SIM002, measured'
    """
    require_anndata(adata)
    genes = [color] if isinstance(color, str) else list(color)
    _check_genes(adata, genes)
    require_key(adata.layers, layer, where="adata.layers", hint="Run FLAG.predict first, or name a layer.")
    require_key(adata.obsm, spatial_key, where="adata.obsm", hint="A map needs spot positions in pixels.")
    canvases = _canvases(adata, section, section_key, spatial_key)
    shown = np.concatenate([c.rows for c in canvases])
    panels = _panels(adata, genes, layer=layer, truth=truth, target=target)
    known = measured_genes(adata, truth)[adata.var_names.get_indexer(genes)]
    unit = TARGETS.get(target or recorded_params(adata, layer).get(PARAM.target), "expression")

    figure, axes = _panel_grid(canvases, n_genes=len(genes), n_columns=len(panels), crop=crop)
    for row, (canvas, k) in enumerate((c, k) for c in canvases for k in range(len(genes))):
        kinds = panels if known[k] else ("predicted",)
        values = {kind: panels[kind][:, k] for kind in kinds}
        norm = _shared_norm([v[shown] for v in values.values()], vmin, vmax)
        empty, used = np.split(axes[row], [len(panels) - len(values)])
        for ax in empty:
            ax.set_axis_off()
        for ax, (kind, expression) in zip(used, values.items(), strict=True):
            spots = _draw_spots(ax, canvas, expression[canvas.rows], norm=norm, cmap=cmap, alpha=alpha)
            _draw_image(ax, canvas, crop=crop)
            ax.set_title(f"{genes[k]}, {kind}{_score(values, canvas.rows) if kind == 'predicted' else ''}")
        used[0].set_ylabel(canvas.name)
        figure.colorbar(spots, ax=list(axes[row]), label=unit, shrink=0.8, pad=0.01)
        _draw_scale_bar(used[0], canvas)
    return finish(figure, axes, show=show, save=save, return_fig=return_fig)


def _check_genes(adata: "AnnData", genes: list[str]) -> None:
    missing = [g for g in genes if g not in adata.var_names]
    if missing or not genes:
        raise KeyError(
            f"color must name genes of adata.var_names; not found: {missing}; there are for example "
            f"{list(adata.var_names[:5])}."
        )


def _panels(adata: "AnnData", genes: list[str], *, layer: str, truth, target: str | None) -> dict[str, np.ndarray]:
    """Measured, where there is any, and predicted expression, (n_spots, n_genes shown) each."""
    columns = adata.var_names.get_indexer(genes)
    # Only the genes shown, as the table may be wide.
    predicted = adata.layers[layer][:, columns]
    panels = {"predicted": predicted.toarray() if hasattr(predicted, "toarray") else np.asarray(predicted)}
    if truth is None and (not has_counts(adata) or not measured_genes(adata)[columns].any()):
        return panels
    if truth is not None and not isinstance(truth, str) and not hasattr(truth, "reindex"):
        measured = measured_expression(adata, truth)[:, columns]
    else:
        measured = measured_expression(adata[:, columns], truth, target=target, layer=layer)
    return {"measured": measured} | panels


def _canvases(adata: "AnnData", section, section_key: str | None, spatial_key: str) -> list[_Canvas]:
    """One canvas per section asked for."""
    rows = section_rows(adata, section_key)
    libraries = adata.uns.get(UNS.spatial, {})
    um_per_px = recorded_params(adata).get(PARAM.um_per_px, {})
    result = []
    for name in chosen_sections(rows, section):
        library = libraries.get(name, {})
        if not library and len(rows) == len(libraries) == 1:
            library = next(iter(libraries.values()))  # one section, whatever its image is called
        scales = library.get(LIBRARY.scalefactors, {})
        coords = np.asarray(adata.obsm[spatial_key], dtype=np.float64)[rows[name], :2]
        diameter = scales.get(LIBRARY.spot_diameter) or 0.5 * _pitch(coords)
        image = library.get(LIBRARY.images, {}).get(LIBRARY.hires)
        scale = float(scales.get(LIBRARY.hires_scale, 1.0))
        result.append(_Canvas(name, rows[name], coords, float(diameter), image, scale, um_per_px.get(name)))
    return result


def _pitch(coords: np.ndarray) -> float:
    """Median distance to the nearest spot."""
    distances = knn(coords, 1)[1]
    return float(np.median(distances)) if distances.size else 1.0


def _extent(canvas: _Canvas, crop: bool) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of what is shown, full-resolution pixels."""
    if canvas.image is not None and not crop:
        height, width = canvas.image.shape[:2]
        return 0.0, width / canvas.scale, 0.0, height / canvas.scale
    margin = 1.5 * max(canvas.diameter, 1e-9)
    (left, top), (right, bottom) = canvas.coords.min(0) - margin, canvas.coords.max(0) + margin
    return left, right, top, bottom


def _panel_grid(canvases: list[_Canvas], *, n_genes: int, n_columns: int, crop: bool):
    """Figure and axes, one row per section and gene, panels as wide as the widest section needs."""
    extents = [_extent(canvas, crop) for canvas in canvases]
    widest = max((right - left) / (bottom - top) for left, right, top, bottom in extents)
    width = ROW_HEIGHT * float(np.clip(widest, 0.5, 2.5))
    n_rows = len(canvases) * n_genes
    size = (n_columns * width + 1.2, n_rows * (ROW_HEIGHT + 0.4))
    return plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")


def _shared_norm(values: list[np.ndarray], vmin: float | None, vmax: float | None) -> Normalize:
    """Colour limits over all panels of a gene."""
    low = min(float(v.min()) for v in values) if vmin is None else vmin
    high = max(float(v.max()) for v in values) if vmax is None else vmax
    return Normalize(low, high if high > low else low + 1.0)


def _score(values: dict[str, np.ndarray], rows: np.ndarray) -> str:
    """The gene's PCC in this section as the end of a title, where there is one."""
    if "measured" not in values or len(rows) < 3 or np.ptp(values["measured"][rows]) == 0:
        return ""
    pcc = per_gene_pcc(values["predicted"][rows, None], values["measured"][rows, None])[0]
    return f" (PCC {pcc:.2f})"


def _draw_spots(ax: "Axes", canvas: _Canvas, values, *, norm, cmap, alpha) -> EllipseCollection:
    """Circles of true diameter, in the units of the axes."""
    diameters = np.full(len(values), canvas.diameter)
    style = {"norm": norm, "cmap": cmap, "alpha": alpha, "linewidths": 0}
    place = {"units": "xy", "offsets": canvas.coords, "offset_transform": ax.transData}
    spots = EllipseCollection(diameters, diameters, np.zeros(len(values)), **place, **style)
    spots.set_array(np.asarray(values, dtype=np.float64))
    ax.add_collection(spots, autolim=False)
    return spots


def _draw_image(ax: "Axes", canvas: _Canvas, *, crop: bool) -> None:
    """Image under the spots; y runs downwards, as in the image."""
    if canvas.image is not None:
        height, width = canvas.image.shape[:2]
        ax.imshow(canvas.image, extent=(0.0, width / canvas.scale, height / canvas.scale, 0.0), zorder=0)
    left, right, top, bottom = _extent(canvas, crop)
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")


def _draw_scale_bar(ax: "Axes", canvas: _Canvas) -> None:
    """A bar of a round length below the panel, where micrometres per pixel are known."""
    if not canvas.um_per_px:
        return
    left, right = ax.get_xlim()
    fifth = (right - left) * float(canvas.um_per_px) / 5
    step = 10.0 ** np.floor(np.log10(fifth))
    length = step * max(m for m in (1, 2, 5) if m * step <= fifth)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    end = left + length / float(canvas.um_per_px)
    below = ax.get_xaxis_transform()
    bar = {"color": "black", "lw": 2, "label": "scale bar"}
    ax.plot([left, end], [-0.04, -0.04], transform=below, clip_on=False, **bar)
    ax.text(end, -0.04, f" {label}", va="center", fontsize=8, transform=below)
