"""CONCH: a vision transformer of timm with the attention pooling of its authors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagst._checks import require_one_of
from flagst._files import load_weights, sha256_of
from flagst._keys import NETWORK
from flagst._weights import WEIGHT_FILES, bare_names, fit_weights
from flagst.encoders._checkpoint import HUB_HINT, download, find_weights
from flagst.encoders._torch import CLIP_MEAN, CLIP_STD, TorchEncoder
from flagst.encoders.timm_encoder import create_timm

if TYPE_CHECKING:
    import torch

#: Argument of ``timm.create_model`` for the published transformer.
ARCHITECTURE = "vit_base_patch16_224"
TRUNK = {"img_size": 448, "dynamic_img_size": True}
_TOWER = "visual."
# Of the image tower, but behind the vector that is taken: projection to the text's space, tokens for captions.
_SPARE = ("proj_contrast", "attn_pool_caption.", "ln_caption.", "head.")


class ConchEncoder(TorchEncoder):
    """CONCH's image features, from the file its authors publish; ``get_encoder("conch", path=...)`` opens it.

    The vector is the attention-pooled and normalised one before the projection to the text's space, not scaled to
    length 1: what the authors advise for anything but comparing images with text. The text tower and the caption
    decoder in the file are left alone, nothing that the file holds is run.

    Parameters
    ----------
    path
        File of the weights, or a folder with ``pytorch_model.bin``; with ``hub=True`` the name of a Hugging Face
        repository.
    n_features
        Length of a vector.
    model_kwargs
        Further arguments of ``timm.create_model`` for the transformer, where it is not the published one.
    name
        Written beside the features.
    hub
        Let huggingface_hub download the file; nothing is ever downloaded without.
    files
        Names the weights may have in a folder, in order of preference.
    pooling
        ``"attention"``, the only one.
    patch_px, patch_um, mean, std, licence, device, precision, batch_size
        See :class:`flagst.encoders.CallableEncoder`.

    Raises
    ------
    FileNotFoundError
        No such file; the expected names are in the message.
    ValueError
        The file is broken, holds more than tensors, or is not CONCH's (the file is named); settings out of range.
    ImportError
        timm is missing.

    Example
    -------
    >>> encoder = flagst.encoders.ConchEncoder("conch/pytorch_model.bin")  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_features: int = 512,
        model_kwargs: Mapping[str, Any] | None = None,
        name: str = "conch",
        hub: bool = False,
        files: Sequence[str] = WEIGHT_FILES,
        pooling: str = "attention",
        patch_px: int = 448,
        patch_um: float | Sequence[float] = 224.0,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        licence: str = "unknown",
        device: str | Sequence[str] | None = None,
        precision: str = "auto",
        batch_size: int = 32,
    ):
        from flagst.encoders._conch_tower import ConchTower

        require_one_of(pooling, ("attention",), name="pooling")
        settings = TRUNK | dict(model_kwargs or {})
        weights = download(str(path), files) if hub else find_weights(path, files, hint=HUB_HINT)
        tower = ConchTower(create_timm(ARCHITECTURE, settings), n_features)
        load_tower(tower, weights)
        super().__init__(
            tower,
            name=name,
            patch_px=patch_px,
            patch_um=patch_um,
            mean=mean,
            std=std,
            licence=licence,
            record={
                NETWORK.architecture: f"CONCH, {ARCHITECTURE}",
                NETWORK.settings: json.dumps(settings, sort_keys=True),
                NETWORK.pooling: pooling,
                NETWORK.sha256: sha256_of(weights),
            },
            device=device,
            precision=precision,
            batch_size=batch_size,
        )


def load_tower(tower: "torch.nn.Module", path: Path) -> None:
    """Put the image tower of a CONCH file into a network, all of it and nothing else.

    Raises
    ------
    ValueError
        The file is broken, has no image tower, or its tower is another.
    """
    state = bare_names(load_weights(path))
    tower_state = {name.removeprefix(_TOWER): value for name, value in state.items() if name.startswith(_TOWER)}
    if not tower_state:
        raise ValueError(f"{path.name} is no file of CONCH: no weight's name begins with {_TOWER!r}.")
    fit_weights(tower, tower_state, file=path.name, model="CONCH", spare=lambda name: name.startswith(_SPARE))
