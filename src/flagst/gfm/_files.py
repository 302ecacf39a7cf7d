"""Files of gene models: pickles of plain data, and the record of a file."""

import builtins
import codecs
import hashlib
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flagst._files import guarded, sha256_of
from flagst._keys import EMBEDDINGS

# Plain containers and numbers, which cannot run anything.
_PLAIN = {
    ("builtins", name): getattr(builtins, name)
    for name in ("dict", "list", "tuple", "set", "frozenset", "str", "int", "float", "bool", "bytes")
} | {("collections", "OrderedDict"): OrderedDict, ("_codecs", "encode"): codecs.encode}


class _DType:
    """Description of a numpy type in a pickle, which is checked before numpy sees it."""

    def __init__(self, kind: str, *_):
        self.kind, self.order = kind, "="

    def __setstate__(self, state: tuple):
        self.order = state[1]

    def checked(self) -> np.dtype:
        if not re.fullmatch(r"[fiubSU]\d+", self.kind) or self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"it has an array of type {self.kind!r}, which is not numbers or text")
        return np.dtype(self.order.replace("|", "=") + self.kind)


class _Array:
    """Description of a numpy array in a pickle, until it is checked."""

    def __init__(self, *parts):
        self.parts = parts

    def __setstate__(self, state: tuple):
        self.parts = state[1:]

    def checked(self) -> np.ndarray:
        shape, dtype, fortran, raw = self.parts
        if isinstance(raw, str):  # how Python 2 wrote bytes
            raw = raw.encode("latin1")
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray):
            raise pickle.UnpicklingError("it has an array that is not plain numbers")
        return np.frombuffer(bytes(raw), dtype.checked()).reshape(shape, order="F" if fortran else "C")


_NUMPY = {
    "ndarray": _Array,
    "dtype": _DType,
    "_reconstruct": lambda kind, shape, letter: _Array(),
    "scalar": lambda dtype, raw: _Array((), dtype, False, raw),
    "_frombuffer": lambda raw, dtype, shape, order: _Array(shape, dtype, order == "F", bytes(raw)),
}
_NUMPY_MODULES = {"numpy", *(f"numpy.{c}.{part}" for c in ("core", "_core") for part in ("multiarray", "numeric"))}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _NUMPY_MODULES and name in _NUMPY:
            return _NUMPY[name]
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not plain data")
        return _PLAIN[module, name]


def _arrays(held: Any) -> Any:
    """Replace the descriptions in a loaded pickle by arrays."""
    if isinstance(held, _Array):
        array = held.checked()
        return array if array.ndim else array.item()
    if isinstance(held, dict):
        return {_arrays(key): _arrays(value) for key, value in held.items()}
    if isinstance(held, list | tuple):
        return [_arrays(value) for value in held]
    if isinstance(held, _DType):
        raise pickle.UnpicklingError("it has a bare numpy type")
    return held


def load_pickle(path: Path) -> Any:
    """Containers, numbers, text and numpy arrays of a pickle; anything else is refused before it is made.

    No content of the file reaches a constructor of numpy unchecked: a forged type could make numpy read foreign memory.
    """

    def read() -> Any:
        with path.open("rb") as file:
            return _arrays(_PlainUnpickler(file).load())

    return guarded(path, read)


def require_one_version(tokens: Iterable[Any], vectors: np.ndarray, dictionary: str, weights: str) -> None:
    """Raise a ``ValueError`` unless the tokens number the vectors; otherwise vectors would go to the wrong genes."""
    tokens = list(tokens)
    if not all(isinstance(token, int) and token >= 0 for token in tokens):
        raise ValueError(f"{dictionary} has tokens that are not numbers from 0.")
    if max(tokens) + 1 != len(vectors):
        raise ValueError(
            f"{dictionary} goes up to token {max(tokens)}, {weights} has {len(vectors)} vectors: they belong to "
            "different versions of the model."
        )


def settings_digest(*settings: Any) -> str:
    """SHA-256 of plain values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def file_record(encoder: str, path: Path) -> dict[str, Any]:
    """Encoder, name and SHA-256 of a file, for :meth:`flagst.gfm.GeneEncoder.provenance`."""
    return {EMBEDDINGS.encoder: encoder, EMBEDDINGS.file: path.name, EMBEDDINGS.sha256: sha256_of(path)}
