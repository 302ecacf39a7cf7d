"""A section as the tensors a FLAG network takes: image components, edges, mixing weights, state."""

import numpy as np
import torch
from torch import Tensor

from flagst._keys import TENSOR

#: Nearest spots an encoder edge or a mixing edge reaches.
N_EDGES = 8
#: Width of the distance kernel, in spot pitches.
SIGMA_PITCHES = 1.5


def section_inputs(
    white: np.ndarray, neighbours: np.ndarray, distances: np.ndarray, mean: np.ndarray | None
) -> dict[str, Tensor]:
    """Tensors of one whole section.

    Edges run from a spot's 8 nearest spots to the spot, with the two edge features of the paper:
    ``exp(-d^2 / (2 sigma^2))`` with sigma 1.5 pitches, and the cosine similarity of the image
    features; every spot has a self-edge. Mixing edges leave out the self-edge; their weights are
    the distance kernel, normalised to sum to one over a spot's neighbours.

    Parameters
    ----------
    white
        ``(n_spots, d_image)`` whitened image features.
    neighbours, distances
        ``(n_spots, k)``, nearest first.
    mean
        ``(n_spots, n_genes)`` standardised regression mean, or ``None``.

    Returns
    -------
    ``image``, ``edge_index (2, n_edges)`` source then target, ``edge_attr (n_edges, 2)``,
    ``mix_index``, ``mix_weight`` and, if given, ``mean``; float32 and int64.
    """
    n_spots, k = len(white), min(N_EDGES, neighbours.shape[1])
    source, distance = neighbours[:, :k], distances[:, :k]
    # coordinates that repeat have no pitch
    pitch = float(np.median(distance[:, 0])) or 1.0 if k else 1.0
    kernel = np.exp(-(distance**2) / (2 * (SIGMA_PITCHES * pitch) ** 2))
    norm = np.linalg.norm(white, axis=1) + 1e-6
    # neighbour by neighbour: all at once would take k times the memory of the features
    cosine = np.empty(source.shape)
    for column, near in enumerate(source.T):
        cosine[:, column] = (white * white[near]).sum(axis=1) / (norm * norm[near])
    itself = np.arange(n_spots)
    mix_index = np.stack([source.ravel(), np.repeat(itself, k)])
    edge_attr = np.stack([kernel.ravel(), cosine.ravel()], axis=1)
    tensors = {
        TENSOR.image: white,
        TENSOR.edge_index: np.concatenate([mix_index, np.stack([itself, itself])], axis=1),
        TENSOR.edge_attr: np.concatenate([edge_attr, np.ones((n_spots, 2))]),
        TENSOR.mix_index: mix_index,
        TENSOR.mix_weight: (kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 1e-12)).ravel(),
    }
    if mean is not None:
        tensors[TENSOR.mean] = mean
    return {key: _tensor(value) for key, value in tensors.items()}


def _tensor(values: np.ndarray) -> Tensor:
    kind = torch.int64 if np.issubdtype(values.dtype, np.integer) else torch.float32
    return torch.as_tensor(np.ascontiguousarray(values)).to(kind)


def window(tensors: dict[str, Tensor], core: np.ndarray, *, n_hops: int) -> dict[str, Tensor]:
    """Restrict a section to some spots and the halo that reaches them.

    Parameters
    ----------
    tensors
        From :func:`section_inputs`, possibly with more per-spot tensors.
    core
        Spot rows that count in the loss.
    n_hops
        Halo width in edges.

    Returns
    -------
    The same keys with spots renumbered, and ``core``, ``(n_window_spots,)`` bool.
    """
    n_spots = len(tensors[TENSOR.image])
    keep = torch.zeros(n_spots, dtype=torch.bool)
    keep[torch.as_tensor(core)] = True
    in_core = keep.clone()
    source, target = tensors[TENSOR.edge_index]
    for _ in range(n_hops):
        keep[source[keep[target]]] = True
    renumber = torch.cumsum(keep, 0) - 1
    out = {}
    for index_key, value_key in (
        (TENSOR.edge_index, TENSOR.edge_attr),
        (TENSOR.mix_index, TENSOR.mix_weight),
    ):
        index = tensors[index_key]
        inside = keep[index[0]] & keep[index[1]]
        out[index_key], out[value_key] = renumber[index[:, inside]], tensors[value_key][inside]
    for key, value in tensors.items():
        if key not in out:
            out[key] = value[keep]
    out[TENSOR.core] = in_core[keep]
    return out


def partition(coords: np.ndarray, max_spots: int) -> list[np.ndarray]:
    """Cut a section into compact parts of at most ``max_spots`` spots, by halving the longer side."""
    parts, todo = [], [np.arange(len(coords))]
    while todo:
        rows = todo.pop()
        if len(rows) <= max_spots:
            parts.append(rows)
            continue
        axis = int(np.ptp(coords[rows], axis=0).argmax())
        order = rows[np.argsort(coords[rows, axis], kind="stable")]
        todo += [order[len(order) // 2 :], order[: len(order) // 2]]
    return parts
