"""Weights for networks of other projects: wrappers' prefixes are removed, and each weight must fit its place."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Names of weight files on the hub, the safer format first.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Prefixes that wrappers put before every name.
_PREFIXES = ("module.", "backbone.", "model.")


def fit_weights(
    network: "torch.nn.Module",
    state: Mapping[str, "torch.Tensor"],
    *,
    file: str,
    model: str,
    spare: Sequence[str] = (),
) -> None:
    """Put weights into a network; all its weights must be there, and nothing else.

    Parameters
    ----------
    network
        Any module.
    state
        Tensors by name, with or without the prefix of a wrapper.
    file, model
        Name of the weights file and of the network, for messages.
    spare
        Beginnings of names that the file may have beyond those of the network: of a classifier, for example.

    Raises
    ------
    ValueError
        Names or shapes do not fit, or values are not finite; the message has the file and some names.
    """
    expected = network.state_dict()
    state = bare_names(state, expected)
    require_fit(
        file,
        model,
        missing=[name for name in expected if name not in state],
        unexpected=[name for name in state if name not in expected and not name.startswith(tuple(spare))],
        shapes={
            name: (tuple(state[name].shape), tuple(value.shape))
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        },
    )
    state = {name: state[name] for name in expected}
    require_finite_weights(file, state)
    network.load_state_dict(state)


def bare_names(state: Mapping[str, Any], expected: Iterable[str] = ()) -> dict[str, Any]:
    """``state`` without a prefix that all its names have and no expected name has."""
    state, expected = dict(state), list(expected)
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state) and not any(n.startswith(prefix) for n in expected):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def require_finite_weights(file: str, state: Mapping[str, "torch.Tensor"]) -> None:
    """Raise a ``ValueError`` that names the file and the first weight with NaN or infinity."""
    spoilt = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if spoilt is not None:
        raise ValueError(f"{file} has values in {spoilt} that are not finite: the file is damaged.")


def require_fit(
    file: str,
    model: str,
    *,
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Raise a ``ValueError`` unless file and network have the same weights; ``shapes``: name -> (file's, wanted)."""
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing ({some(missing)})")
    if unexpected:
        faults.append(f"{len(unexpected)} that it has no place for ({some(unexpected)})")
    if shapes:
        examples = [f"{name} is {found}, wanted {wanted}" for name, (found, wanted) in shapes.items()]
        faults.append(f"{len(shapes)} of another shape ({some(examples)})")
    if faults:
        raise ValueError(f"{file} does not fit {model}: weights {', '.join(faults)}. Is it the file of another model?")


def some(names: Iterable[str]) -> str:
    """The first names, sorted, for a message."""
    names = sorted(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"
