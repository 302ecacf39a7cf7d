"""Training curves."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from flagst._checks import require_key
from flagst._keys import SLOT, UNS
from flagst.pl._finish import finish

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from flagst.model import FLAG

#: What tells the two splits apart in a logged name, in the order in which they are drawn.
SPLITS = ("train", "validation")
#: Panels side by side; more than these and a page shrinks them beyond reading.
MAX_COLUMNS = 3


def history(
    model_or_adata: "FLAG | AnnData",
    *,
    log: bool = False,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> "np.ndarray | Figure | None":
    """Plot losses over epochs, training and validation in one panel per quantity.

    Parameters
    ----------
    model_or_adata
        A trained model (``history_``), or a table with ``uns["flagst"]["history"]``. Both map a name such as
        ``"train_loss_epoch"``, ``"validation_loss"`` or ``"denoising_loss_train"`` to a DataFrame with epochs as
        index, or to one number per epoch, (n_epochs,). Names ending in ``_step`` are left out.
    log
        Logarithmic y axis.
    show
        Show the figure; None shows it in interactive sessions unless it is saved or returned.
    save
        File to write the figure to.
    return_fig
        Return the figure instead of the axes.

    Returns
    -------
    Axes (n_quantities,); the figure with ``return_fig``; None when the figure was shown.

    Raises
    ------
    KeyError
        There is no history.
    ValueError
        The history is empty.

    Examples
    --------
    >>> axes = flagst.pl.history(model)
    >>> {ax.get_xlabel() for ax in axes}
    {'epoch'}
    """
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name, values in _recorded(model_or_adata).items():
        if not name.endswith("_step"):
            quantity, split = _split_name(name)
            panels.setdefault(quantity, {})[split] = _curve(values)
    if not panels:
        raise ValueError("The history is empty; train the model for at least one epoch.")

    n_columns = min(len(panels), MAX_COLUMNS)
    n_rows = -(-len(panels) // n_columns)
    size = (3.6 * n_columns, 3.0 * n_rows)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    axes = axes.ravel()
    for ax in axes[len(panels) :]:
        ax.remove()
    axes = axes[: len(panels)]
    for ax, (quantity, curves) in zip(axes, panels.items(), strict=True):
        for split in sorted(curves, key=lambda s: (*SPLITS, "").index(s)):
            epochs, values = curves[split]
            ax.plot(epochs, values, label=split or quantity, marker="." if len(epochs) == 1 else None)
        ax.set(title=quantity, xlabel="epoch", yscale="log" if log else "linear")
        if set(curves) & set(SPLITS):
            ax.legend(frameon=False)
    return finish(figure, axes, show=show, save=save, return_fig=return_fig)


def _recorded(model_or_adata: "FLAG | AnnData") -> dict:
    """The history of a model or of a table."""
    recorded = getattr(model_or_adata, "history_", None)
    if recorded is None and hasattr(model_or_adata, "uns"):
        slot = model_or_adata.uns.get(UNS.flagst, {})
        where = f"adata.uns[{UNS.flagst!r}]"
        require_key(slot, SLOT.history, where=where, hint="Pass the model, or a table that it predicted.")
        recorded = slot[SLOT.history]
    if recorded is None:
        raise KeyError(f"{type(model_or_adata).__name__} has no history_; train the model first.")
    return recorded


def _split_name(name: str) -> tuple[str, str]:
    """``"train_loss_epoch"`` -> (``"loss"``, ``"train"``)."""
    words = [w for w in re.sub(r"_epoch$", "", name).split("_") if w]
    split = next((s for s in SPLITS if s in words), "")
    return "_".join(w for w in words if w != split) or name, split


def _curve(values) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values, (n_logged,) float64 each; scvi-tools stores numbers as objects."""
    import pandas as pd

    values = values.iloc[:, 0] if hasattr(values, "columns") else values
    series = values if isinstance(values, pd.Series) else pd.Series(np.ravel(values))
    logged = series.astype(np.float64).dropna()  # of what is logged every tenth epoch, a line through the gaps
    return logged.index.to_numpy(np.float64), logged.to_numpy()
