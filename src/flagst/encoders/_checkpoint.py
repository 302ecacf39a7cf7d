"""Weights of an encoder: found on disk, fetched when asked for, and fitted to their architecture or refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagst._files import load_weights, reason_of

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
#: Names of weight files on the hub, the safer format first.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_HINT = "If that is a repository of Hugging Face, pass hub=True to download it."
# What wrappers put before every name.
_PREFIXES = ("module.", "backbone.", "model.")


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
            f"{path} has no {expected}; found {_some(p.name for p in path.iterdir())}. {hint}".strip()
        )
    if len(others) > 1:
        raise ValueError(f"{path} has several weights files, {_some(p.name for p in others)}. Pass the one you mean.")
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


def load_into(network: "torch.nn.Module", path: Path, *, architecture: str, spare: Sequence[str] = ()) -> None:
    """Put the weights of a file into a network, all of them and nothing else.

    Parameters
    ----------
    network
        Any module.
    path
        The file.
    architecture
        What the network is, for the message.
    spare
        Beginnings of names that a file may have beyond the network's: a classifier's, say.

    Raises
    ------
    ValueError
        The file is broken, or names or shapes do not fit; some are named.
    """
    expected = network.state_dict()
    state = bare_names(load_finite(path), expected)
    state = {name: value for name, value in state.items() if name in expected or not name.startswith(tuple(spare))}
    require_fit(
        path,
        architecture,
        missing=[name for name in expected if name not in state],
        unexpected=[name for name in state if name not in expected],
        shapes={
            name: (tuple(state[name].shape), tuple(value.shape))
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        },
    )
    network.load_state_dict(state)


def load_finite(path: Path) -> dict[str, "torch.Tensor"]:
    """Weights of a file by name; a ``ValueError`` names the file and the first that has NaN or infinity."""
    state = load_weights(path)
    spoilt = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if spoilt is not None:
        raise ValueError(f"{path.name} has values in {spoilt} that are not finite: the file is damaged.")
    return state


def bare_names(state: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` without a prefix that all its names have and the expected ones have not."""
    state = dict(state)
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state) and not any(n.startswith(prefix) for n in expected):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def require_fit(
    path: Path,
    architecture: str,
    *,
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
) -> None:
    """Raise a ``ValueError`` unless a file and a network have the same weights; ``shapes``: name -> (file's, wanted)."""
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected:
        faults.append(f"{len(unexpected)} that it has no place for ({_some(unexpected)})")
    if shapes:
        examples = [f"{name} is {found}, wanted {wanted}" for name, (found, wanted) in shapes.items()]
        faults.append(f"{len(shapes)} of another shape ({_some(examples)})")
    if faults:
        raise ValueError(
            f"{path.name} does not fit {architecture}: weights {', '.join(faults)}. Is it the file of another model?"
        )


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"
