"""Files of other people: hashed, and read without running what is in them."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What plain containers, numbers and numpy arrays are pickled with; nothing here runs code of a file.
_ALLOWED = {
    ("builtins", name) for name in ("dict", "list", "tuple", "set", "frozenset", "str", "int", "float", "bool", "bytes")
} | {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not plain data")
        return super().find_class(module, name)


def load_pickle(path: Path) -> Any:
    """Containers, numbers, text and numpy arrays of a pickle; anything else is refused before it is made."""

    def read() -> Any:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()

    return guarded(path, read)


def load_json(path: Path) -> Any:
    """A JSON file."""
    return guarded(path, lambda: json.loads(path.read_text(encoding="utf-8")))


def load_weights(path: Path) -> dict[str, Any]:
    """Tensors of a checkpoint: safetensors, or a torch file read with ``weights_only``."""

    def read() -> dict[str, Any]:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)

    return guarded(path, read)


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """What ``read`` returns; whatever goes wrong becomes one ``ValueError`` with the file's name and the reason.

    Raises
    ------
    FileNotFoundError
        No such file.
    ImportError
        A library is missing that the file needs.
    ValueError
        The file is broken, of another kind, or holds more than data.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return read()
    except ImportError as error:
        raise ImportError(f"{path.name} needs {error.name}: pip install 'flagst[encoders]'.") from error
    except Exception as error:  # parsers of broken files raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path.name} cannot be read: {reason}") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
