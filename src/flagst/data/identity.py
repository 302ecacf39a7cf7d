"""Hashes of values and of spots, and the check that a table is the one a model was trained on."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b

import numpy as np
import torch
from anndata import AnnData

from flagst.data.measured import section_rows

HINT = "Load the model without adata, and pass other sections to predict(adata)."


def fingerprint(*values) -> str:
    """Hash of arrays, tensors, plain values, and mappings, sequences and dataclasses of them; 32 hex digits."""
    found = blake2b(digest_size=16)
    for value in values:
        _add(found, value)
    return found.hexdigest()


def _add(found: blake2b, value) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        found.update(f"{value.dtype.str}{value.shape}".encode())
        if value.size:
            found.update(memoryview(np.ascontiguousarray(value)).cast("B"))
        return
    found.update(type(value).__name__.encode() + b"\x1e")
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        value = [item for pair in value.items() for item in pair]
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for item in value:
            _add(found, item)
        found.update(b"\x1d")
    else:
        found.update(repr(value).encode() + b"\x1f")


def require_same_genes(expected: Iterable[str], found: Iterable[str], *, where: str) -> None:
    """Raise a ``ValueError`` unless both name the same genes, in any order."""
    expected, found = [str(gene) for gene in expected], [str(gene) for gene in found]
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise ValueError(
            f"The model in {where} was trained on a table of {len(expected)} genes; adata has {len(found)}: "
            f"missing {missing[:5]}, not expected {extra[:5]}. {HINT}"
        )


def require_same_spots(expected: dict[str, str], found: dict[str, str], *, where: str) -> None:
    """Raise a ``ValueError`` unless both, as from :func:`spot_digests`, have the same sections of the same spots."""
    missing, extra = [s for s in expected if s not in found], [s for s in found if s not in expected]
    if missing or extra:
        raise ValueError(
            f"The model in {where} was trained on sections {list(expected)}; adata has {list(found)}: "
            f"missing {missing}, not expected {extra}. {HINT}"
        )
    other = [section for section, digest in expected.items() if found[section] != digest]
    if other:
        raise ValueError(f"The model in {where} was trained on other spots of sections {other}. {HINT}")


def spot_digests(adata: AnnData, section_key: str) -> dict[str, str]:
    """Hash of the names of every section's spots, whatever their order."""
    names = adata.obs_names.to_numpy(dtype=str)
    return {name: fingerprint(sorted(names[rows])) for name, rows in section_rows(adata, section_key).items()}
