"""What every metric of posterior samples does with its input first: check it, and cut it into blocks."""

from collections.abc import Iterator

import numpy as np

from flagst._checks import require_finite
from flagst.metrics._inputs import Matrix, as_matrix

#: Numbers held at once in float64 while samples are scored: 32 MB, whatever their size.
BUDGET = 4_000_000


def check_draws(samples: np.ndarray, measured: Matrix, *, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Samples ``(n_samples, n_spots, n_genes)`` and measurement ``(n_spots, n_genes)`` in their own dtypes.

    Raises a ``ValueError`` or ``TypeError`` unless there are ``least`` samples or more and all can be scored.
    """
    measured, samples = as_matrix(measured, name="measured"), np.asarray(samples)
    if samples.ndim != 3 or samples.shape[1:] != measured.shape:
        raise ValueError(
            f"samples must be (n_samples, n_spots, n_genes) = (n_samples, {measured.shape[0]}, "
            f"{measured.shape[1]}), as measured is; got {samples.shape}."
        )
    if len(samples) < least:
        raise ValueError(f"samples holds {len(samples)} of them; this needs at least {least}.")
    if samples.dtype.kind not in "fiub":
        raise TypeError(f"samples must be numeric; got dtype {samples.dtype}.")
    for sample in samples:
        require_finite(sample, where="samples", hint="Leave those spots out.")
    return samples, measured


def gene_blocks(genes: np.ndarray, n_each: int) -> Iterator[np.ndarray]:
    """``genes`` in pieces so that ``n_each`` numbers per gene stay within the budget."""
    size = max(1, BUDGET // max(n_each, 1))
    for start in range(0, len(genes), size):
        yield genes[start : start + size]
