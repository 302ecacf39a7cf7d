"""Networks of timm with weights from a local file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagst._checks import require_one_of
from flagst._files import load_weights, reason_of, sha256_of
from flagst._keys import NETWORK
from flagst._weights import WEIGHT_FILES, fit_weights
from flagst.encoders._checkpoint import open_weights
from flagst.encoders._pooling import TOKEN_POOLINGS, pool_tokens
from flagst.encoders._torch import TorchEncoder

if TYPE_CHECKING:
    import torch

# With these arguments timm would read weights itself, without the checks of this package.
_READS_WEIGHTS = ("checkpoint_path", "pretrained")


class TimmEncoder(TorchEncoder):
    """A timm network with weights from a file: UNI, Virchow2, H-optimus and most other pathology models.

    For these models :func:`get_encoder` knows the settings: ``get_encoder("uni", path=...)``. Nothing in the file is
    run. The weights must fit the architecture exactly, except for a classifier, which is left out.

    Parameters
    ----------
    path
        File of the weights (``.safetensors``, ``.bin``, ``.pth``, ``.pt``), or a folder with ``model.safetensors`` or
        ``pytorch_model.bin``; with ``hub=True`` the name of a Hugging Face repository.
    architecture
        Name of a model in ``timm.create_model``.
    model_kwargs
        Further arguments of ``timm.create_model``. ``mlp_layer`` and ``act_layer`` are classes, or their names in
        ``timm.layers`` and ``torch.nn``.
    pooling
        ``"model"``: that of the network. Vision transformers also have ``"cls"`` (class token), ``"mean"`` (mean of the
        patch tokens, without registers) and ``"cls_mean"`` (both, concatenated).
    name
        Written next to the features; by default the architecture.
    hub
        Allow huggingface_hub to download the file. Otherwise nothing is downloaded.
    files
        Names that the weights may have in a folder, in order of preference.
    **settings
        ``patch_px``, ``patch_um``, ``mean``, ``std``, ``licence``, ``device``, ``precision``, ``batch_size``: see
        :class:`flagst.encoders.CallableEncoder`.

    Raises
    ------
    FileNotFoundError
        There is no such file; the message has the expected names.
    ValueError
        The file is broken, holds more than tensors, or does not fit the architecture (the message names the file); the
        architecture is unknown; a setting is out of range.
    ImportError
        timm is missing.

    Examples
    --------
    >>> encoder = flagst.encoders.TimmEncoder("vit.safetensors", "vit_small_patch16_224")  # doctest: +SKIP
    """

    #: Values of ``pooling``.
    poolings = ("model", *TOKEN_POOLINGS)

    def __init__(
        self,
        path: str | Path,
        architecture: str,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        pooling: str = "model",
        name: str | None = None,
        hub: bool = False,
        files: Sequence[str] = WEIGHT_FILES,
        **settings,
    ):
        require_one_of(pooling, self.poolings, name="pooling")
        model_kwargs = dict(model_kwargs or {})
        weights = open_weights(path, files, hub=hub)
        self.pooling = pooling
        super().__init__(
            self._network(architecture, model_kwargs, weights),
            name=name or architecture,
            record={
                NETWORK.architecture: architecture,
                NETWORK.settings: json.dumps(model_kwargs, sort_keys=True, default=_name),
                NETWORK.pooling: pooling,
                NETWORK.sha256: sha256_of(weights),
            },
            **settings,
        )

    def _network(self, architecture: str, settings: dict, weights: Path) -> "torch.nn.Module":
        """The network with its weights."""
        network = create_timm(architecture, settings)
        fit_weights(network, load_weights(weights), file=weights.name, model=architecture, spare=_classifiers(network))
        return network

    def _vectors(self, network, pixels: "torch.Tensor") -> "torch.Tensor":
        if self.pooling not in TOKEN_POOLINGS:  # that of the network
            return network(pixels)
        tokens, n_prefix = network.forward_features(pixels), getattr(network, "num_prefix_tokens", 0)
        # the prefix tokens may all be registers
        has_class = getattr(network, "cls_token", None) is not None
        return pool_tokens(tokens, self.pooling, n_prefix=n_prefix, has_class=has_class)


def create_timm(architecture: str, settings: Mapping[str, Any]) -> "torch.nn.Module":
    """An untrained network of timm without a classifier; no weights are read.

    Raises a ``ValueError`` for an unknown architecture or argument, and for an argument with which timm would read
    weights itself; an ``ImportError`` when timm cannot be imported.
    """
    if ":" in architecture:
        raise ValueError(
            f"architecture must be a name of timm's own; got {architecture!r}. To download weights pass the repository "
            "as path= together with hub=True."
        )
    reading = [name for name in settings if name.startswith(_READS_WEIGHTS)]
    if reading:
        raise ValueError(f"model_kwargs has {reading}, but weights come from path= only. Leave them out.")
    try:
        import timm
    except ImportError as error:
        raise ImportError("This encoder needs timm: pip install 'flagst[encoders]'.") from error
    except RuntimeError as error:  # raised by a torchvision that was built for another torch
        raise ImportError(
            f"timm cannot be imported ({reason_of(error)}): torch and torchvision must be of one release, both for the "
            "CPU or both for the GPU."
        ) from error
    import torch

    places = {"mlp_layer": timm.layers, "act_layer": torch.nn}
    made = {"num_classes": 0} | dict(settings)
    try:
        made |= {key: getattr(places[key], made[key]) for key in places if isinstance(made.get(key), str)}
        return timm.create_model(architecture, pretrained=False, **made)
    except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"timm cannot make {architecture!r} with {dict(settings)}: {error}") from error


def _name(layer: Any) -> str:
    """Name of a layer in timm or torch. Some layers are partial functions, which do not know their name."""
    import timm
    import torch

    known = [*vars(timm.layers).items(), *vars(torch.nn).items()]
    return next((name for name, held in known if held is layer), repr(layer))


def _classifiers(network: "torch.nn.Module") -> tuple[str, ...]:
    """Beginnings of the names of a network's classifiers: a file may hold their weights, which are not used."""
    names = getattr(network, "default_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
