"""Checks of arguments at the public border. Messages say what was wrong, what was found and what to do."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def require_key(container: Mapping, key: str, *, where: str, hint: str) -> None:
    """Raise a ``KeyError`` that lists what is there when ``key`` is not in ``container``."""
    if key not in container:
        found = sorted(str(k) for k in container if k is not None)
        raise KeyError(f"{where} has no {key!r}; found {found}. {hint}")


def require_anndata(adata) -> None:
    """Raise a ``TypeError`` for a SpatialData where a table is needed."""
    if hasattr(adata, "tables"):
        raise TypeError("This takes an AnnData; got a SpatialData. Pass one of its tables: sdata.tables[...].")


def require_one_of(value: str, allowed: Iterable[str], *, name: str) -> None:
    """Raise a ``ValueError`` when ``value`` is not one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}; got {value!r}.")


def require_lengths(value: float | Sequence[float], *, name: str) -> list[float]:
    """One or more lengths as a list; raises a ``ValueError`` unless they are positive."""
    lengths = [float(length) for length in np.atleast_1d(value)]
    if not lengths or not all(np.isfinite(length) and length > 0 for length in lengths):
        raise ValueError(f"{name} must be one or more positive lengths in micrometres; got {value!r}.")
    return lengths


def require_scales(scales: Mapping[str, float], *, where: str, hint: str = "") -> None:
    """Raise a ``ValueError`` unless the micrometres per pixel of every section are positive."""
    for section, scale in scales.items():
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"{where}[{section!r}] is {scale}; it must be a positive number. {hint}".strip())


def require_unique(names, *, where: str, hint: str) -> None:
    """Raise a ``ValueError`` that shows examples when ``names`` repeat."""
    import pandas as pd

    index = pd.Index(names)
    if not index.is_unique:
        examples = list(index[index.duplicated()].unique()[:5])
        raise ValueError(f"{where} are not unique; repeated: {examples}. {hint}")


def require_finite(values: np.ndarray, *, where: str, hint: str, numbers: np.ndarray | None = None) -> None:
    """Raise a ``ValueError`` that counts the offending rows when ``values`` has NaN or infinity.

    ``numbers`` are those of the rows, of a part of a table.
    """
    bad = ~np.isfinite(values)
    if bad.any():
        rows = np.flatnonzero(bad.any(axis=1) if values.ndim > 1 else bad)
        raise ValueError(
            f"{where} has NaN or infinite values in {len(rows)} of {len(values)} rows, "
            f"first at row {rows[0] if numbers is None else numbers[rows[0]]}. {hint}"
        )


_COUNTS_HINT = (
    "flagst needs raw counts: put them in adata.X, or in a layer that is named when data are registered "
    "(FLAG.setup_anndata(adata, layer=...))."
)


def require_non_negative(matrix, *, where: str) -> None:
    """Raise a ``ValueError`` unless ``matrix`` (dense or sparse) holds finite values of 0 or more."""
    values = _stored_values(matrix)
    if values.size == 0:
        return
    if not np.isfinite(values).all():
        raise ValueError(f"{where} has NaN or infinite values. {_COUNTS_HINT}")
    if values.min() < 0:
        raise ValueError(f"{where} has negative values (minimum {values.min():g}). {_COUNTS_HINT}")


def require_counts(matrix, *, where: str) -> None:
    """Raise a ``ValueError`` unless ``matrix`` (dense or sparse) holds finite, non-negative integers."""
    require_non_negative(matrix, where=where)
    require_whole(first_fraction(matrix), where=where)


def first_fraction(matrix) -> float | None:
    """The first value of ``matrix`` (dense or sparse) that is no whole number; ``None`` when there is none."""
    values = _stored_values(matrix)
    broken = values != np.round(values)
    return float(values[broken].flat[0]) if broken.any() else None


def require_whole(fraction: float | None, *, where: str) -> None:
    """Raise a ``ValueError`` unless ``fraction``, from :func:`first_fraction`, is ``None``."""
    if fraction is not None:
        raise ValueError(f"{where} has non-integer values (for example {fraction:g}). {_COUNTS_HINT}")


def _stored_values(matrix) -> np.ndarray:
    # recognised without scipy: everything below flagst.data has to import without it; a dense view of an
    # AnnData has toarray too
    sparse = hasattr(matrix, "toarray") and not isinstance(matrix, np.ndarray)
    return matrix.data if sparse else np.asarray(matrix)
