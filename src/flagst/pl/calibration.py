"""Calibration of samples and intervals: PIT histogram and coverage of central intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from flagst import metrics
from flagst._checks import require_anndata, require_key
from flagst._keys import LAYERS
from flagst.data.measured import measured_expression, measured_genes
from flagst.pl._finish import finish

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Nominal levels of the central intervals on the reliability panel.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
#: Share of genes inside the shaded band.
MIDDLE = 0.9
COLOUR = "tab:blue"


def calibration(
    adata: "AnnData",
    samples: np.ndarray,
    *,
    genes: Sequence[str],
    intervals: Mapping[float, tuple[str, str]] | None = None,
    layer: str = LAYERS.draw,
    truth: "str | np.ndarray | pd.DataFrame | None" = None,
    target: str | None = None,
    levels: Sequence[float] = LEVELS,
    n_bins: int = 10,
    seed: int = 0,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> "np.ndarray | Figure | None":
    """Plot the PIT histogram beside observed against nominal coverage, over all spots of the table.

    Left: the rank of the measurement among the samples (:func:`flagst.metrics.pit`), flat where the samples have the
    right distribution. Right: how often central intervals contain the measurement. For the samples, this is read from
    the PIT values, so exact zeros do not count twice. Shaded: the middle 90 % of genes. Dashed: the range of a
    calibrated gene by chance, 95 % of a binomial over independent spots. Real spots are not independent, so slightly
    more is acceptable.

    Parameters
    ----------
    adata
        Table with measured expression; its spots are those of ``samples``, in the same order.
    samples
        (n_samples, n_spots, n_genes), as from ``FLAG.sample``, in the unit of the target.
    genes
        Names of the genes of ``samples``: ``model.genes_``.
    intervals
        Nominal level -> layers with lower and upper bound, such as ``{0.9: ("flagst_q05", "flagst_q95")}``.
        They are drawn as points, pooled over spots and genes, with a bar for the middle 90 % of genes, each in the unit
        that is recorded of its layers. Bounds count as inside, so that genes with many zeros cover more.
    layer
        Prediction of the model that made ``samples``; its unit is theirs.
    truth
        Measured expression in the unit of the prediction: a layer, an (n_spots, n_genes) array, or a DataFrame
        matched by name. None: computed from raw counts, in ``adata.X`` or the registered layer, with the
        target that is recorded of ``layer``.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; overrides the recorded target when ``truth`` is None.
    levels
        Nominal levels of the curve, each in (0, 1).
    n_bins
        Bars of the histogram.
    seed
        Seed of the random rank among ties.
    show
        Show the figure; None shows it in interactive sessions unless it is saved or returned.
    save
        File to write the figure to.
    return_fig
        Return the figure instead of the axes.

    Returns
    -------
    Axes (2,): histogram, coverage; the figure with ``return_fig``; None when it was shown. Genes constant
    in the measurement or not measured are left out.

    Raises
    ------
    KeyError
        A gene or layer is not in the table.
    TypeError
        ``adata`` is a SpatialData.
    ValueError
        ``samples`` does not fit the table and ``genes``, levels outside (0, 1), or as
        :func:`flagst.tl.evaluate`.

    Examples
    --------
    >>> samples = model.sample(prediction, n_samples=9)
    >>> bounds = {0.9: ("flagst_q05", "flagst_q95")}
    >>> axes = flagst.pl.calibration(prediction, samples, genes=model.genes_, intervals=bounds)
    >>> axes[1].get_xlabel(), axes[1].get_ylabel()
    ('nominal coverage', 'observed coverage')
    """
    require_anndata(adata)
    samples = np.asarray(samples)
    if samples.ndim != 3 or samples.shape[1:] != (adata.n_obs, len(genes)):
        raise ValueError(
            f"samples must be (n_samples, n_spots, n_genes) = (n_samples, {adata.n_obs}, {len(genes)}); "
            f"got {samples.shape}."
        )
    wrong = [level for level in [*levels, *(intervals or {})] if not 0 < level < 1]
    if wrong:
        raise ValueError(f"Levels must lie between 0 and 1; got {wrong}.")
    columns = adata.var_names.get_indexer(list(genes))
    if (columns < 0).any():
        missing = [name for name, column in zip(genes, columns, strict=True) if column < 0]
        raise KeyError(f"adata.var_names has no {missing[:5]}, which samples has ({len(missing)} genes).")
    measured = measured_expression(adata, truth, target=target, layer=layer)[:, columns]
    kept = measured_genes(adata, truth)[columns] & (np.ptp(measured, axis=0) > 0)
    if not kept.any():
        raise ValueError("No gene of samples is measured and varies between spots.")
    values = metrics.pit(samples[:, :, kept], measured[:, kept], seed=seed)

    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.9), layout="constrained")
    _draw_histogram(axes[0], values, n_bins)
    _draw_reliability(axes[1], values, sorted(levels))
    for level, bounds in (intervals or {}).items():
        for layer in bounds:
            require_key(adata.layers, layer, where="adata.layers", hint="Name the layers of the two bounds.")
        low, high = (adata.layers[layer][:, columns[kept]] for layer in bounds)
        theirs = measured_expression(adata, truth, target=target, layer=bounds[0])[:, columns[kept]]
        per_gene = metrics.per_gene_coverage(low, high, theirs)
        label = f"{' to '.join(bounds)}: {np.nanmean(per_gene):.1%}"
        middle = _quantiles(per_gene[~np.isnan(per_gene), None])
        axes[1].vlines(level, *middle, color="tab:orange", lw=2.5, alpha=0.5, zorder=4)
        axes[1].plot(level, np.nanmean(per_gene), "o", color="tab:orange", ms=6, label=label, zorder=5)
    axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    return finish(figure, axes, show=show, save=save, return_fig=return_fig)


def _draw_histogram(ax: "Axes", values: np.ndarray, n_bins: int) -> None:
    """Share of measurements in every bin, over that of a flat histogram; values (n_spots, n_genes)."""
    edges = np.linspace(0, 1, n_bins + 1)
    per_gene = np.stack([np.histogram(gene, edges)[0] for gene in values.T]) * n_bins / len(values)
    middle, pooled = (edges[1:] + edges[:-1]) / 2, per_gene.mean(axis=0)
    ax.bar(middle, pooled, width=1 / n_bins, color=COLOUR, alpha=0.45, edgecolor="white", linewidth=0.8)
    low, high = _quantiles(per_gene)
    ax.vlines(middle, low, high, color=COLOUR, lw=1.2)
    for share in metrics.binomial_band(1 / n_bins, len(values)):
        ax.axhline(share * n_bins, color="0.35", lw=1, ls="--")
    ax.axhline(1, color="0.35", lw=1)
    ax.set(xlim=(0, 1), ylim=(0, 1.1 * max(high.max(), pooled.max(), 1.5)))
    ax.set(xlabel="PIT: rank of the measurement among the samples", ylabel="frequency (1: calibrated)")
    ax.set_title(f"{values.shape[0]} spots, {values.shape[1]} genes")


def _draw_reliability(ax: "Axes", values: np.ndarray, levels: Sequence[float]) -> None:
    """Share of measurements in the central interval of every level, pooled and gene by gene."""
    inside = np.abs(values - 0.5)
    per_gene = np.stack([(inside <= level / 2).mean(axis=0) for level in levels], axis=1)
    band = np.array([metrics.binomial_band(level, len(values)) for level in levels])
    ax.plot([0, 1], [0, 1], color="0.35", lw=1, zorder=1)
    for side, label in zip(band.T, ("chance, one calibrated gene", None), strict=True):
        ax.plot(levels, side, color="0.35", lw=1, ls="--", label=label)
    low, high = _quantiles(per_gene)
    ax.fill_between(levels, low, high, color=COLOUR, alpha=0.2, lw=0, label=f"middle {MIDDLE:.0%} of genes")
    ax.plot(levels, per_gene.mean(axis=0), "o-", color=COLOUR, ms=3.5, lw=1.5, label="samples, all genes")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="nominal coverage", ylabel="observed coverage")
    shown = min(levels, key=lambda level: abs(level - 0.9))
    ax.set_title(f"{shown:.0%} intervals hold {per_gene.mean(axis=0)[list(levels).index(shown)]:.1%}")


def _quantiles(per_gene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the middle share of genes, (n,) each; ``per_gene`` is (n_genes, n)."""
    return tuple(np.quantile(per_gene, [(1 - MIDDLE) / 2, (1 + MIDDLE) / 2], axis=0))
