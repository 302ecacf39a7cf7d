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
    itself, pitch = np.arange(n_spots), spot_pitch(distance)
    tensors = {TENSOR.image: white} | _edges(white, source, itself, distance, pitch)
    tensors |= _mixing(source, itself, distance, pitch)
    if mean is not None:
        tensors[TENSOR.mean] = mean
    return {key: _tensor(value) for key, value in tensors.items()}


def pad_columns(values: np.ndarray, width: int) -> np.ndarray:
    """Zero columns on the right up to ``width``: few spots have fewer components than asked for."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def spot_pitch(distances: np.ndarray) -> float:
    """Median distance to the nearest spot, from ``(n_spots, k)`` distances, nearest first; 1 without neighbours."""
    # coordinates that repeat have no pitch
    return float(np.median(distances[:, 0])) or 1.0 if distances.shape[1] else 1.0


def surroundings(neighbours: np.ndarray, core: np.ndarray, n_hops: int) -> tuple[np.ndarray, np.ndarray]:
    """A core with its halo: what one network evaluation of the core looks at.

    Parameters
    ----------
    neighbours
        ``(n_spots, k)`` of the whole section.
    core
        Rows whose values are wanted.
    n_hops
        Width of the halo in edges.

    Returns
    -------
    Rows of core and halo, sorted, and those of them whose neighbours are all there: the only ones that need edges.
    """
    rows, inner = np.sort(core), np.sort(core)[:0]
    for _ in range(n_hops):
        inner, rows = rows, np.union1d(rows, neighbours[rows])
    return rows, inner


def encoder_window(
    white: np.ndarray, neighbours: np.ndarray, distances: np.ndarray, core: np.ndarray, *, n_hops: int, pitch: float
) -> dict[str, Tensor]:
    """What :func:`section_inputs` gives the graph encoder, for a core and its halo.

    Parameters
    ----------
    white, neighbours, distances
        Of the whole section, as in :func:`section_inputs`, with 8 neighbours at most.
    core
        Rows that are encoded.
    n_hops
        Attention layers.
    pitch
        Of the whole section, from :func:`spot_pitch`.

    Returns
    -------
    ``image``, ``edge_index``, ``edge_attr``; ``rows`` ``(n_window_spots,)`` int64, places in the section; ``core``
    ``(n_window_spots,)`` bool.
    """
    rows, inner = surroundings(neighbours, core, n_hops)
    source, target = np.searchsorted(rows, neighbours[inner]), np.searchsorted(rows, inner)
    edges = _edges(white[rows], source, target, distances[inner], pitch)
    return _window({TENSOR.image: white[rows]} | edges, rows, core)


def denoiser_window(
    neighbours: np.ndarray, distances: np.ndarray, core: np.ndarray, *, n_hops: int, pitch: float
) -> dict[str, Tensor]:
    """What :func:`section_inputs` gives the denoiser, for a core and its halo.

    Parameters and further keys as in :func:`encoder_window`; ``n_hops`` is the number of blocks that mix neighbours.

    Returns
    -------
    ``mix_index``, ``mix_weight``, ``rows``, ``core``.
    """
    rows, inner = surroundings(neighbours, core, n_hops)
    source, target = np.searchsorted(rows, neighbours[inner]), np.searchsorted(rows, inner)
    return _window(_mixing(source, target, distances[inner], pitch), rows, core)


def _window(tensors: dict[str, np.ndarray], rows: np.ndarray, core: np.ndarray) -> dict[str, Tensor]:
    """Tensors, with the places of the spots and which are the core's."""
    out = {key: _tensor(value) for key, value in (tensors | {TENSOR.rows: rows}).items()}
    return out | {TENSOR.core: torch.as_tensor(np.isin(rows, core))}


def _edges(
    white: np.ndarray, source: np.ndarray, target: np.ndarray, distance: np.ndarray, pitch: float
) -> dict[str, np.ndarray]:
    """Encoder edges to ``target`` ``(n_targets,)`` from ``source`` ``(n_targets, k)``, and from every target itself."""
    norm = np.linalg.norm(white, axis=1) + 1e-6
    # neighbour by neighbour: all at once would take k times the memory of the features
    cosine = np.empty(source.shape)
    for column, near in enumerate(source.T):
        cosine[:, column] = (white[target] * white[near]).sum(axis=1) / (norm[target] * norm[near])
    index = np.stack([source.ravel(), np.repeat(target, source.shape[1])])
    attr = np.stack([_kernel(distance, pitch).ravel(), cosine.ravel()], axis=1)
    return {
        TENSOR.edge_index: np.concatenate([index, np.stack([target, target])], axis=1),
        TENSOR.edge_attr: np.concatenate([attr, np.ones((len(target), 2))]),
    }


def _mixing(source: np.ndarray, target: np.ndarray, distance: np.ndarray, pitch: float) -> dict[str, np.ndarray]:
    """Mixing edges, without self-edges; weights of a target's edges sum to one."""
    kernel = _kernel(distance, pitch)
    return {
        TENSOR.mix_index: np.stack([source.ravel(), np.repeat(target, source.shape[1])]),
        TENSOR.mix_weight: (kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 1e-12)).ravel(),
    }


def _kernel(distance: np.ndarray, pitch: float) -> np.ndarray:
    return np.exp(-(distance**2) / (2 * (SIGMA_PITCHES * pitch) ** 2))


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
