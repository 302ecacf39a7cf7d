"""Vision transformers of the transformers library from a local folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagst._checks import require_one_of
from flagst._files import guarded, load_json, load_weights, sha256_of
from flagst._keys import NETWORK
from flagst._weights import WEIGHT_FILES, require_finite_weights, require_fit
from flagst.encoders._checkpoint import HUB_HINT, download, find_weights
from flagst.encoders._pooling import TOKEN_POOLINGS, pool_tokens
from flagst.encoders._torch import IMAGENET_MEAN, IMAGENET_STD, TorchEncoder

if TYPE_CHECKING:
    import torch

_CONFIG, _COLOURS = "config.json", "preprocessor_config.json"
_UNUSED = ("pooler.",)  # a head of the class token, which poolings of tokens do not touch


class TransformersEncoder(TorchEncoder):
    """A vision transformer of the transformers library from a folder: Phikon-v2, DINOv2, ViT.

    Weights are read without running anything that the file holds; code that comes with a model is never run.

    Parameters
    ----------
    path
        Folder with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``; with ``hub=True`` the name of a
        Hugging Face repository.
    pooling
        ``"cls"`` (class token), ``"mean"`` (of the patch tokens, without registers) or ``"cls_mean"`` (side by side).
    name
        Written beside the features; by default the model type in ``config.json``.
    hub
        Let huggingface_hub download the files; nothing is ever downloaded without.
    files
        Names the weights may have, in order of preference.
    mean, std
        Of red, green and blue, colours from 0 to 1; by default those in ``preprocessor_config.json``, else
        ImageNet's.
    patch_px, patch_um, licence, device, precision, batch_size
        See :class:`flagst.encoders.CallableEncoder`.

    Raises
    ------
    FileNotFoundError
        A file is missing; it is named.
    ValueError
        A file is broken, holds more than tensors, or weights and configuration do not go together (the file is
        named); settings out of range.
    ImportError
        transformers is missing.

    Example
    -------
    >>> encoder = flagst.encoders.TransformersEncoder("phikon-v2/")  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        *,
        pooling: str = "cls",
        name: str | None = None,
        hub: bool = False,
        files: Sequence[str] = WEIGHT_FILES,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **settings,
    ):
        require_one_of(pooling, TOKEN_POOLINGS, name="pooling")
        if hub:
            folder, weights = download(str(path), [_CONFIG]).parent, download(str(path), files)
            with suppress(FileNotFoundError):  # not every repository has it
                download(str(path), [_COLOURS])
        else:
            weights = find_weights(path, files, hint=HUB_HINT)
            folder = weights.parent
        config = _config(folder / _CONFIG)
        network = _network(config, weights)
        self.pooling = pooling
        self._has_class = any(name.endswith(("cls_token", "class_embedding")) for name in network.state_dict())
        self._n_prefix = self._has_class + int(getattr(config, "num_register_tokens", 0))
        super().__init__(
            network,
            name=name or config.model_type,
            mean=_colour(folder / _COLOURS, "image_mean", IMAGENET_MEAN) if mean is None else mean,
            std=_colour(folder / _COLOURS, "image_std", IMAGENET_STD) if std is None else std,
            record={
                NETWORK.architecture: type(network).__name__,
                NETWORK.pooling: pooling,
                NETWORK.sha256: sha256_of(weights),
            },
            **settings,
        )

    def _vectors(self, network, pixels: "torch.Tensor") -> "torch.Tensor":
        tokens = network(pixel_values=pixels).last_hidden_state
        return pool_tokens(tokens, self.pooling, n_prefix=self._n_prefix, has_class=self._has_class)


def _config(path: Path) -> Any:
    """Configuration of a model that transformers itself knows."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ImportError("TransformersEncoder needs transformers: pip install 'flagst[encoders]'.") from error
    read = AutoConfig.from_pretrained
    return guarded(path, lambda: read(path.parent, local_files_only=True, trust_remote_code=False))


def _network(config: Any, weights: Path) -> "torch.nn.Module":
    """The model that a configuration stands for, with all weights of the file."""
    import torch
    from transformers import AutoModel, __version__

    state = load_weights(weights)
    require_finite_weights(weights.name, state)
    with torch.device("meta"):  # only to learn which class it is
        kind = type(guarded(weights.parent / _CONFIG, lambda: AutoModel.from_config(config, trust_remote_code=False)))
    fill = {"config": config, "state_dict": state, "ignore_mismatched_sizes": True, "output_loading_info": True}
    # else it is the type in config.json; half precision is for autocast
    fill["torch_dtype" if __version__.startswith("4.") else "dtype"] = torch.float32
    with _no_bar():
        network, report = guarded(weights, lambda: kind.from_pretrained(None, **fill))
    require_fit(
        weights.name,
        kind.__name__,
        missing=[name for name in report["missing_keys"] if not name.startswith(_UNUSED)],
        unexpected=[name for name in report["unexpected_keys"] if not name.startswith(_UNUSED)],
        shapes={name: (tuple(found), tuple(wanted)) for name, found, wanted in report["mismatched_keys"]},
    )
    return network


@contextmanager
def _no_bar() -> Iterator[None]:
    """Without the bar that transformers shows of the weights of one file."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _colour(path: Path, name: str, default: Sequence[float]) -> Sequence[float]:
    """Three numbers of ``preprocessor_config.json``; the default where there is no such file or it does not say."""
    held = load_json(path) if path.is_file() else {}
    if not isinstance(held, dict):
        raise ValueError(f"{path.name} is no dict of settings: pass mean= and std=.")
    values = held.get(name, default)
    numbers = isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)
    if not numbers or len(values) != 3:
        raise ValueError(
            f"{path.name} has {name} = {values!r}; three numbers are needed, for red, green and blue. Pass mean= and "
            "std=."
        )
    return values
