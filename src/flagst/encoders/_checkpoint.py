"""Weights of an encoder: found on disk, or downloaded when the user asks for it."""

from collections.abc import Sequence
from pathlib import Path

from flagst._files import reason_of
from flagst._weights import WEIGHT_FILES, some

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


def open_weights(path: str | Path, files: Sequence[str], *, hub: bool) -> Path:
    """A weights file: with ``hub`` of the repository ``path``, otherwise the file or folder ``path``."""
    if hub:
        return download(str(path), files)
    hint = "If that is a repository of Hugging Face, pass hub=True to download it."
    return find_weights(path, files, hint=hint)


def find_weights(path: str | Path, files: Sequence[str] = WEIGHT_FILES, *, hint: str = "") -> Path:
    """The file ``path`` itself, or in the folder ``path`` the first of ``files``, or its only weights file.

    Raises a ``FileNotFoundError``, with the expected names and the hint, when there is none, and a ``ValueError`` when
    the file has another suffix, or when several files could be meant.
    """
    path = Path(path).expanduser()
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path.name} is no weights file; these end in {', '.join(SUFFIXES)}.")
        return path
    expected = " or ".join(files)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no {path}. Expected {expected}, or a folder that holds it. {hint}".strip())
    named = next((path / name for name in files if (path / name).is_file()), None)
    if named is not None:
        return named
    others = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in SUFFIXES)
    if not others:
        raise FileNotFoundError(
            f"{path} has no {expected}; found {some(p.name for p in path.iterdir())}. {hint}".strip()
        )
    if len(others) > 1:
        raise ValueError(f"{path} has several weights files, {some(p.name for p in others)}. Pass the one you mean.")
    return others[0]


def download(hub_name: str, files: Sequence[str]) -> Path:
    """The first of ``files`` that the Hugging Face repository has, in the cache of huggingface_hub.

    Raises an ``ImportError`` without huggingface_hub, and a ``FileNotFoundError`` when no file could be downloaded; the
    message has the reasons.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError("hub=True needs huggingface_hub: pip install 'flagst[encoders]'.") from error
    reasons = []
    for name in files:
        try:
            return Path(hf_hub_download(hub_name, name))
        except Exception as error:  # noqa: BLE001  its type depends on the version of the library
            reasons.append(f"{name}: {reason_of(error)}")
    raise FileNotFoundError(
        f"{' or '.join(files)} of {hub_name} could not be downloaded ({'; '.join(reasons)}). "
        "Get the file by hand and pass path= without hub=True."
    )
