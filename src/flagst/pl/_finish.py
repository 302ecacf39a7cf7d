"""What every plot does last: save, show or hand back."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finish(figure: "Figure", axes: np.ndarray, *, show: bool | None, save: str | Path | None, return_fig: bool):
    """Save to ``save`` if given, show, and return the figure, the axes, or None when the figure was shown.

    ``show=None`` shows in an interactive session (a notebook) unless the figure is saved or returned.
    """
    if save is not None:
        figure.savefig(save, dpi=150, bbox_inches="tight")
    if show is None:
        show = matplotlib.is_interactive() and save is None and not return_fig
    if show:
        plt.show()
    if return_fig:
        return figure
    return None if show else axes
