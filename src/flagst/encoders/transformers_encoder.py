"""Vision transformers of the transformers library, from a local folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagst._checks import require_one_of
from flagst._files import guarded, load_json, load_weights, sha256_of
from flagst._keys import NETWORK
from flagst._weights import WEIGHT_FILES, require_finite_weights, require_fit
from flagst.encoders._checkpoint import download, open_weights
from flagst.encoders._pooling import TOKEN_POOLINGS, pool_tokens
from flagst.encoders._torch import IMAGENET_MEAN, IMAGENET_STD, TorchEncoder

if TYPE_CHECKING:
    import torch

_CONFIG, _COLOURS = "config.json", "preprocessor_config.json"
_UNUSED = ("pooler.",)  # a head of the class token, which is not used


class TransformersEncoder(TorchEncoder):
    """A vision transformer of the transformers library, from a folder: Phikon-v2, DINOv2, ViT.

    Nothing in the weights file is run, and neither is code that comes with a model.

    Parameters
    ----------
    path
        Folder with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``; with ``hub=True`` the name of a
        Hugging Face repository.
    pooling
        ``"cls"`` (class token), ``"mean"`` (mean of the patch tokens, without registers) or ``"cls_mean"`` (both,
        concatenated).
    name
        Written next to the features; by default the model type in ``config.json``.
    hub
        Allow huggingface_hub to download the files. Otherwise nothing is downloaded.
    files
        Names that the weights may have, in order of preference.
    mean, std
        Three numbers each, for red, green and blue in colours from 0 to 1. By default those in
        ``preprocessor_config.json``, or of ImageNet without that file.
    **settings
        ``patch_px``, ``patch_um``, ``licence``, ``device``, ``precision``, ``batch_size``: see
        :class:`flagst.encoders.CallableEncoder`.

    Raises
    ------
    FileNotFoundError
        A file is missing; the message names it.
    ValueError
        A file is broken, holds more than tensors, or weights and configuration do not fit (the message names the file);
        a setting is out of range.
    ImportError
        transformers is missing.

    Examples
    --------
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
        weights = open_weights(path, files, hub=hub)
        folder = weights.parent
        if hub:
            download(str(path), [_CONFIG])
            with suppress(FileNotFoundError):  # not every repository has it
                download(str(path), [_COLOURS])
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
    """Configuration of a model of the transformers library."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ImportError("TransformersEncoder needs transformers: pip install 'flagst[encoders]'.") from error
    read = AutoConfig.from_pretrained
    return guarded(path, lambda: read(path.parent, local_files_only=True, trust_remote_code=False))


def _network(config: Any, weights: Path) -> "torch.nn.Module":
    """The model of a configuration, with all weights of the file."""
    import torch
    from transformers import AutoModel, __version__

    state = load_weights(weights)
    require_finite_weights(weights.name, state)
    with torch.device("meta"):  # only to find out its class
        kind = type(guarded(weights.parent / _CONFIG, lambda: AutoModel.from_config(config, trust_remote_code=False)))
    fill = {"config": config, "state_dict": state, "ignore_mismatched_sizes": True, "output_loading_info": True}
    # By default the weights get the type in config.json; half precision is left to autocast.
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
    """Without the progress bar that transformers shows for the weights of a file."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _colour(path: Path, name: str, default: Sequence[float]) -> Sequence[float]:
    """Three numbers of ``preprocessor_config.json``; the default without such a file or entry."""
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
