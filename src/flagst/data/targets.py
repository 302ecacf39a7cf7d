"""Counts to the unit the model works in."""

import numpy as np

from flagst._checks import require_one_of
from flagst._keys import TARGETS


def to_target(counts, total_counts, target: str) -> np.ndarray:
    """Expression in the unit of ``target``.

    Parameters
    ----------
    counts
        (n_spots, n_genes) raw counts, dense or scipy sparse; any finite values for ``"identity"``.
    total_counts
        (n_spots,) counts over **all** genes of each spot, before any subsetting. Only ``"lognorm"`` uses it;
        may be None otherwise.
    target
        ``"lognorm"``: log1p(1e4 * counts / total_counts); ``"log2"``: log2(counts + 1); ``"identity"``:
        unchanged.

    Returns
    -------
    (n_spots, n_genes) float32, dense, a copy.

    Raises
    ------
    ValueError
        Unknown target, negative or non-finite counts, or total counts that are missing, of the wrong length,
        not positive, or smaller than the counts they should contain.

    Examples
    --------
    >>> import numpy as np
    >>> from flagst.data.targets import to_target
    >>> to_target(np.array([[0, 3]]), None, "log2")
    array([[0., 2.]], dtype=float32)
    """
    require_one_of(target, TARGETS, name="target")
    dense = counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)
    if dense.ndim != 2:
        raise ValueError(f"counts must be (n_spots, n_genes); got shape {dense.shape}.")
    dense = dense.astype(np.float32)  # astype copies
    if not np.isfinite(dense).all():
        raise ValueError("counts have NaN or infinite values. Leave those spots out.")
    if target == "identity":
        return dense
    if dense.size and dense.min() < 0:
        raise ValueError(f"counts have negative values (minimum {dense.min():g}); target {target!r} needs raw counts.")
    if target == "log2":
        return np.log2(dense + 1)
    # In place, as panels over many sections are large.
    dense *= (1e4 / _check_totals(dense, total_counts)).astype(np.float32)[:, None]
    return np.log1p(dense, out=dense)


def half_to_target(counts, total_counts, target: str) -> np.ndarray:
    """:func:`to_target` of a part of the counts: a spot of which nothing is in it has no counts to scale, and zeros."""
    return to_target(counts, None if total_counts is None else np.maximum(total_counts, 1), target)


def _check_totals(counts: np.ndarray, total_counts) -> np.ndarray:
    """Total counts as float64 ``(n_spots,)``; raises when they cannot be those of ``counts``."""
    if total_counts is None:
        raise ValueError("target 'lognorm' needs total_counts (counts over all genes of each spot); got None.")
    totals = np.asarray(total_counts, dtype=np.float64)
    if totals.shape != (counts.shape[0],):
        raise ValueError(f"total_counts must be ({counts.shape[0]},), one number per spot; got shape {totals.shape}.")
    bad = ~(np.isfinite(totals) & (totals > 0))
    if bad.any():
        raise ValueError(
            f"total_counts must be positive; {bad.sum()} of {len(totals)} spots are not, first at row "
            f"{np.flatnonzero(bad)[0]}. Leave out spots without counts."
        )
    short = totals < counts.sum(axis=1, dtype=np.float64) * (1 - 1e-4)
    if short.any():
        raise ValueError(
            f"total_counts are smaller than the sum of the counts given in {short.sum()} of {len(totals)} "
            f"spots, first at row {np.flatnonzero(short)[0]}. They must be counted over all genes, before "
            "any subsetting."
        )
    return totals
