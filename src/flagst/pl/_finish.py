"""The last step of every plot: save, show or return the figure."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finish(
    figure: "Figure", axes: np.ndarray, *, show: bool | None, save: str | Path | None, return_fig: bool
) -> "np.ndarray | Figure | None":
    """Save the figure to ``save``, show it, and return the figure, the axes, or None when it was shown."""
    if save is not None:
        figure.savefig(save, dpi=150, bbox_inches="tight")
    if show is None:
        show = matplotlib.is_interactive() and save is None and not return_fig
    if show:
        plt.show()
    if return_fig:
        return figure
    return None if show else axes
