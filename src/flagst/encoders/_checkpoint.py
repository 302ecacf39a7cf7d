"""Weights of an encoder: found on disk, fetched when asked for, and fitted to their architecture or refused."""

from collections.abc import Sequence
from pathlib import Path

from flagst._files import reason_of
from flagst._weights import WEIGHT_FILES, some

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
HUB_HINT = "If that is a repository of Hugging Face, pass hub=True to download it."


def find_weights(path: str | Path, files: Sequence[str] = WEIGHT_FILES, *, hint: str = "") -> Path:
    """A weights file: ``path`` itself, or in the folder ``path`` one of ``files``, or the only one there is.

    Raises
    ------
    FileNotFoundError
        No such file or folder, or a folder without weights; the expected names are in the message, then ``hint``.
    ValueError
        A file with another ending, or several that could be meant.
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
    """The first of ``files`` that the Hugging Face repository has, in that library's cache.

    Raises
    ------
    ImportError
        huggingface_hub is missing.
    FileNotFoundError
        None of them could be had: no network, no access, no such file. The message names them.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError("hub=True needs huggingface_hub: pip install 'flagst[encoders]'.") from error
    reasons = []
    for name in files:
        try:
            return Path(hf_hub_download(hub_name, name))
        except Exception as error:  # noqa: BLE001  of requests, httpx or the library itself, by version
            reasons.append(f"{name}: {reason_of(error)}")
    raise FileNotFoundError(
        f"{' or '.join(files)} of {hub_name} could not be downloaded ({'; '.join(reasons)}). "
        "Get the file by hand and pass path= without hub=True."
    )
