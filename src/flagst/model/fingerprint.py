"""A hash of what a prediction follows from."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b

import numpy as np
import torch


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
