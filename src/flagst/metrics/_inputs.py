"""What every metric does with its input first: check it, drop constant genes, standardise in float64."""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from flagst._checks import require_finite

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix

#: Spots by genes, or spots by spots of a graph.
Matrix: TypeAlias = "np.ndarray | spmatrix | sparray"

MIN_SPOTS = 3


def as_matrix(values: Matrix, *, name: str) -> np.ndarray:
    """Dense ``(n_spots, n_genes)`` array in its own dtype; raises when it is not one or has NaN."""
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if dense.ndim != 2:
        raise ValueError(
            f"{name} must be (n_spots, n_genes); got shape {dense.shape}. Reshape one gene to (n_spots, 1)."
        )
    if dense.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numeric; got dtype {dense.dtype}.")
    if dense.shape[0] < MIN_SPOTS:
        raise ValueError(f"{name} has {dense.shape[0]} spots; a section needs at least {MIN_SPOTS} to be scored.")
    require_finite(dense, where=name, hint="Leave those spots out, or predict them first.")
    return dense


def constant_genes(values: np.ndarray) -> np.ndarray:
    """Which columns do not vary: ``(n_genes,)`` bool.

    The range is compared with the rounding of the input's own dtype, so that a column that differs only in
    its last bits, as a constant computed in float32 does, is still constant.
    """
    rounding = 8 * np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0
    low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    return high - low <= rounding * np.maximum(np.abs(low), np.abs(high))


def varying_genes(measured: np.ndarray) -> np.ndarray:
    """Which columns vary, ``(n_genes,)`` bool; raises when none does."""
    kept = ~constant_genes(measured)
    if not kept.any():
        raise ValueError(f"measured has no gene that varies between spots (of {measured.shape[1]}); nothing to score.")
    return kept


def standardise(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and length 1, float64 ``(n_spots, n_genes)``; constant columns become 0.

    The inner product of two such columns is their Pearson correlation.
    """
    constant = constant_genes(values)
    centred = values.astype(np.float64)
    # Scaling first keeps squares of very large or very small values within range.
    scale = np.abs(centred).max(axis=0)
    centred /= np.where(scale > 0, scale, 1.0)
    centred -= centred.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    centred /= np.where(length > 0, length, 1.0)
    centred[:, constant] = 0.0
    return centred


def scored_pair(predicted: Matrix, measured: Matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both matrices ``(n_spots, n_kept)`` without genes constant in ``measured``, and which are kept ``(n_genes,)``.

    Raises a ``ValueError`` unless the shapes agree, values are finite, and some gene varies.
    """
    predicted, measured = as_matrix(predicted, name="predicted"), as_matrix(measured, name="measured")
    if predicted.shape != measured.shape:
        raise ValueError(
            f"predicted and measured must have the same shape; got {predicted.shape} and {measured.shape}. "
            "Bring spots and genes into the same order first."
        )
    kept = varying_genes(measured)
    return predicted[:, kept], measured[:, kept], kept


def replicate_pair(replicate: Matrix, measured: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Two sections without the genes that are constant in ``measured``; spots need not correspond."""
    replicate, measured = as_matrix(replicate, name="replicate"), as_matrix(measured, name="measured")
    if replicate.shape[1] != measured.shape[1]:
        raise ValueError(
            f"replicate and measured must have the same genes; got {replicate.shape[1]} and "
            f"{measured.shape[1]}. Bring them into the same order first."
        )
    kept = varying_genes(measured)
    return replicate[:, kept], measured[:, kept]


def require_graph(graph: Matrix, n_spots: int) -> None:
    """Raise a ``ValueError`` unless ``graph`` is (n_spots, n_spots)."""
    shape = getattr(graph, "shape", None)
    if shape != (n_spots, n_spots):
        raise ValueError(f"graph must be ({n_spots}, {n_spots}), one row per spot of this section; got {shape}.")


def pearson(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson correlation of a predicted and a measured vector of the same length.

    NaN with fewer than three values or a constant ``right`` (the measured one); 0 when only ``left`` is
    constant.
    """
    if len(left) < 3 or constant_genes(right[:, None])[0]:
        return float("nan")
    return float(standardise(left[:, None])[:, 0] @ standardise(right[:, None])[:, 0])
