"""Windows the denoiser is trained and validated on."""

import numpy as np
import torch
from torch import Tensor

from flagst._keys import TENSOR
from flagst.data.sections import Section
from flagst.data.windows import N_EDGES, pad_columns, partition, section_inputs, window
from flagst.sampling.fit import Fitted, TrainingData
from flagst.settings import Settings

#: Larger sections are cut. The halo has two edges; the default network reaches four, the last two with little weight.
MAX_WINDOW_SPOTS = 1024
HALO_HOPS = 2


def training_inputs(
    section: Section, fitted: Fitted, mean: np.ndarray, settings: Settings, d_image: int
) -> dict[str, Tensor]:
    """Tensors of a whole section, see :func:`flagst.data.windows.section_inputs`."""
    white = pad_columns(fitted.stage.context.whiten(section.image), d_image)
    k = N_EDGES if settings.edges else 0
    given = mean if settings.regression is not None else None
    return section_inputs(white, section.neighbours[:, :k], section.distances[:, :k], given)


def split_windows(
    inputs: list[dict[str, Tensor]],
    coords: list[np.ndarray],
    data: TrainingData,
    folds: list[np.ndarray] | None,
    rows: list[np.ndarray] | None = None,
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Training and validation windows of every network. No window crosses sections, or the border of a fold.

    Parameters
    ----------
    inputs, coords
        Per section its tensors and its ``(n_spots, 2)`` positions.
    data
        States and expression of the same sections.
    folds
        Per section ``(n_spots,)``, see :func:`flagst.regression.network_folds`; ``None`` for one
        network that sees everything.
    rows
        Per section ``(n_spots,)`` rows of the training table, for windows that need theirs.

    Returns
    -------
    Windows to train on, windows to validate on; each says which network it belongs to.
    """
    training, validation = [], []
    n_networks = 1 if folds is None else 1 + int(max(fold.max() for fold in folds))
    for network in range(n_networks):
        for i, of_section in enumerate(inputs):
            n_spots = len(coords[i])
            tensors = of_section | {
                TENSOR.state: torch.as_tensor(data.state[i], dtype=torch.float32),
                TENSOR.expression: torch.as_tensor(data.expression[i], dtype=torch.float32),
            }
            if rows is not None:
                tensors[TENSOR.table_row] = torch.as_tensor(rows[i])
            held = folds[i] == network if folds is not None else np.zeros(n_spots, dtype=bool)
            for kept, out in ((np.flatnonzero(~held), training), (np.flatnonzero(held), validation)):
                if len(kept):
                    part = tensors if len(kept) == n_spots else _subset(tensors, kept)
                    parts = _cut(part, coords[i][kept])
                    out += [{**w, TENSOR.network: torch.tensor(network)} for w in parts]
    return training, validation


def _subset(tensors: dict[str, Tensor], rows: np.ndarray) -> dict[str, Tensor]:
    part = window(tensors, rows, n_hops=0)
    part.pop(TENSOR.core)
    return part


def _cut(tensors: dict[str, Tensor], coords: np.ndarray) -> list[dict[str, Tensor]]:
    return [window(tensors, rows, n_hops=HALO_HOPS) for rows in partition(coords, MAX_WINDOW_SPOTS)]
