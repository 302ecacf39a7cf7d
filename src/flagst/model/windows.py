"""Windows the diffusion is trained and validated on."""

import numpy as np
import torch
from torch import Tensor

from flagst._keys import TENSOR
from flagst.data.inputs import partition, window
from flagst.model.fitting import TrainingData
from flagst.model.predicting import SectionPredictor

#: Larger sections are cut; the halo is as wide as the network's receptive field needs in practice.
MAX_WINDOW_SPOTS = 1024
HALO_HOPS = 2


def split_windows(
    predictors: list[SectionPredictor], data: TrainingData, held_out: list[np.ndarray] | None
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Training and validation windows. No window crosses sections, or the border of held-out tissue.

    Parameters
    ----------
    predictors
        One per section: its tensors.
    data
        States and expression of the same sections.
    held_out
        Held-out rows per section, or ``None``.

    Returns
    -------
    Windows to train on, windows to validate on.
    """
    training, validation = [], []
    for row, predictor in enumerate(predictors):
        n_spots = len(predictor.section)
        tensors = predictor.inputs | {
            TENSOR.state: torch.as_tensor(data.state[row], dtype=torch.float32),
            TENSOR.expression: torch.as_tensor(data.expression[row], dtype=torch.float32),
        }
        held = held_out[row] if held_out is not None else np.arange(0)
        kept = np.setdiff1d(np.arange(n_spots), held)
        for rows, out in ((kept, training), (held, validation)):
            if len(rows):
                part = tensors if len(rows) == n_spots else _subset(tensors, rows)
                out += _cut(part, predictor.section.coords[rows])
    return training, validation


def _subset(tensors: dict[str, Tensor], rows: np.ndarray) -> dict[str, Tensor]:
    part = window(tensors, rows, n_hops=0)
    part.pop(TENSOR.core)
    return part


def _cut(tensors: dict[str, Tensor], coords: np.ndarray) -> list[dict[str, Tensor]]:
    return [window(tensors, rows, n_hops=HALO_HOPS) for rows in partition(coords, MAX_WINDOW_SPOTS)]
