"""The accuracy-structure curve of several methods."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from flagst._checks import require_key
from flagst.pl._finish import finish

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {"gsc": "GSC", "ssc": "SSC"}
COLUMNS = ("method", "structure", "section", "pcc", *PANELS)
#: Dashes of the reference values, which have no accuracy of their own.
DASHES = ((0, (5, 3)), (0, (1.5, 1.5)), (0, (5, 2, 1, 2)))


def front(
    frame: "pd.DataFrame",
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> "np.ndarray | Figure | None":
    """Plot PCC against GSC and against SSC, one line per method, one point per structure.

    Points are means over sections. Up and to the right is better; of two methods, the one whose line lies outside is
    better at every accuracy that both reach. Points of the first method are labelled with their structure.

    Parameters
    ----------
    frame
        The table that :meth:`flagst.FLAG.front` returns, or several of them joined: ``method``, ``structure`` (NaN for
        a method without this argument), ``section``, ``pcc``, ``gsc``, ``ssc``. Methods whose ``pcc`` is always NaN,
        such as a replicate reference or a noise ceiling, become horizontal lines.
    show
        Show the figure; None shows it in interactive sessions unless it is saved or returned.
    save
        File to write the figure to.
    return_fig
        Return the figure instead of the axes.

    Returns
    -------
    Axes (2,): GSC, SSC; the figure with ``return_fig``; None when the figure was shown.

    Raises
    ------
    KeyError
        A column is missing.
    ValueError
        No method has an accuracy.

    Examples
    --------
    >>> import pandas as pd
    >>> scores = {"pcc": [0.6, 0.5], "gsc": [0.3, 0.8], "ssc": [0.2, 0.7]}
    >>> frame = pd.DataFrame({"method": "FLAG", "structure": [0.0, 1.0], "section": "S1", **scores})
    >>> [ax.get_ylabel() for ax in flagst.pl.front(frame)]
    ['GSC', 'SSC']
    """
    for column in COLUMNS:
        require_key(frame, column, where="frame", hint="Pass what FLAG.front returns.")
    methods = {
        str(name): rows.groupby("structure", dropna=False)[["pcc", *PANELS]].mean().sort_index()
        for name, rows in frame.groupby("method", sort=False)
    }
    lines = {name: rows for name, rows in methods.items() if rows["pcc"].notna().any()}
    references = {name: rows for name, rows in methods.items() if name not in lines}
    if not lines:
        raise ValueError(f"No method of the frame has an accuracy; found {sorted(methods)}, all with NaN as pcc.")
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for ax, (column, title) in zip(axes, PANELS.items(), strict=True):
        for number, (name, rows) in enumerate(lines.items()):
            _draw_method(ax, rows, column, name=name, number=number)
        for (name, rows), dash in zip(references.items(), DASHES * len(references), strict=False):
            if rows[column].notna().any():
                ax.axhline(rows[column].mean(), color="0.35", lw=1.2, ls=dash, label=name, zorder=1)
        ax.set(xlabel="PCC", ylabel=title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return finish(figure, axes, show=show, save=save, return_fig=return_fig)


def _draw_method(ax: "Axes", rows: "pd.DataFrame", column: str, *, name: str, number: int) -> None:
    """One line with its points; the points of the first method are labelled with their structure."""
    main, alone = number == 0, len(rows) == 1
    x, y = rows["pcc"].to_numpy(), rows[column].to_numpy()
    style = {"color": f"C{number % 10}", "lw": 0 if alone else 2.2 if main else 1.3, "label": name}
    # a single point on top, or it would vanish under the start of a line
    point = {"marker": "D" if alone else "o", "ms": 6 if alone or main else 4, "mew": 0.6}
    point["mec"] = "white" if alone else style["color"]
    ax.plot(x, y, zorder=5 if alone else 4 if main else 3, **style, **point)
    if not main or alone:
        return
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for structure, at_x, at_y in zip(rows.index, x, y, strict=True):
        if np.isfinite(structure) and np.isfinite(at_y):
            text = ax.annotate(
                f"{structure:g}", (at_x, at_y), xytext=(5, 5), textcoords="offset points", fontsize=8, zorder=6
            )
            text.set_path_effects(halo)
