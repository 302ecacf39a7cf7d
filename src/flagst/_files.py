"""Files: those of other projects are read without running them, own files are written completely or not at all."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Names of the weights in files that also hold the state of an optimiser.
_WRAPPINGS = ("model_state_dict", "state_dict", "model")


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Return what ``read`` returns; any error becomes a ``ValueError`` with the name of the file and the reason.

    A missing file stays a ``FileNotFoundError``, and a library that the file needs and that is missing an
    ``ImportError``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return read()
    except ImportError as error:
        raise ImportError(f"{path.name} needs a library that is missing: {reason_of(error)}") from error
    except Exception as error:  # parsers raise errors of any type for broken files
        raise ValueError(f"{path.name} cannot be read: {reason_of(error)}") from error


def load_json(path: Path) -> Any:
    """Content of a JSON file."""
    return guarded(path, lambda: json.loads(path.read_text(encoding="utf-8")))


def load_weights(path: Path) -> dict[str, Any]:
    """Tensors of a checkpoint by name: safetensors, or a torch file read with ``weights_only``."""

    def read() -> dict[str, Any]:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        held = torch.load(path, map_location="cpu", weights_only=True)
        wrapping = next((name for name in _WRAPPINGS if isinstance(held, dict) and name in held), None)
        held = held if wrapping is None else held[wrapping]
        if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
            raise ValueError("it is no dict of tensors")
        for name, value in held.items():
            _require_plain(name, value)
        return held

    return guarded(path, read)


def _require_plain(name: Any, value: Any) -> None:
    """Refuse tensors that no network has as a weight, before an operation fails on them."""
    import torch

    if not isinstance(name, str):
        raise ValueError(f"it has a tensor named {name!r}; names of weights are text")
    quantised = value.is_quantized or (value.is_floating_point() and value.element_size() < 2)
    if value.layout is not torch.strided or value.is_nested or value.is_meta or quantised:
        raise ValueError(f"{name} is sparse, quantised, or without values; only plain dense tensors are read")


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends without an error and the file is on the disk.

    Its name has the process and the thread, so that several of them may write the same file, and ends in ``.part``.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield draft
        with draft.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def file_name(text: str) -> str:
    """A name given by a user, without characters that a file name cannot have."""
    return re.sub(r"[^\w.-]", "_", text)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason_of(error: Exception) -> str:
    """First line of an error. When torch refuses to unpickle: what was refused, without its advice to do so anyway."""
    text = str(error).strip()
    asked = re.search(r"GLOBAL (\S+)", text)
    if text.startswith("Weights only load failed"):
        return f"it asks for {asked[1]}, which is no tensor" if asked else "it is broken or holds more than tensors"
    return text.splitlines()[0] if text else type(error).__name__
