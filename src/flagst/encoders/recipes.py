"""Published pathology models: the settings that give the vectors of their authors. A new model is one entry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flagst._weights import WEIGHT_FILES
from flagst.encoders._checkpoint import find_weights
from flagst.encoders._torch import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, TorchEncoder
from flagst.encoders.timm_encoder import TimmEncoder
from flagst.encoders.transformers_encoder import TransformersEncoder

_NO_DERIVATIVES = "CC-BY-NC-ND-4.0"
_BIN_FIRST = ("pytorch_model.bin", "model.safetensors")
# Arguments of timm that several models share.
_VIT = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True}
_GIANT = {"num_heads": 24, "embed_dim": 1536, "mlp_ratio": 5.33334}
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_H_OPTIMUS: dict[str, Any] = {
    "n_features": 1536,
    "architecture": "vit_giant_patch14_reg4_dinov2",
    "model_kwargs": _VIT | {"global_pool": "token", "dynamic_img_size": False},
    "mean": (0.707223, 0.578729, 0.703617),
    "std": (0.211883, 0.230117, 0.177517),
}


@dataclass(frozen=True)
class Recipe:
    """How to build a published model, what to feed it, how to pool its output, and the terms of its weights.

    Parameters
    ----------
    title
        Name of the model, as its authors write it.
    hub
        Its Hugging Face repository, where the weights are.
    licence, gated
        Licence of the weights, and whether one must ask for access first. Read the terms: most forbid commercial use.
    n_features
        Length of its vector.
    library
        Library of its network: ``"timm"`` or ``"transformers"``.
    architecture, model_kwargs
        Arguments of ``timm.create_model``.
    pooling
        How tokens become a vector: see :class:`TimmEncoder` and :class:`TransformersEncoder`. ``"attention"`` is
        CONCH's own.
    files
        Names of the weights in the repository, in order of preference.
    mean, std
        Mean and standard deviation of red, green and blue, for colours from 0 to 1.
    patch_px
        Side of a patch, pixels.
    um_per_px
        Resolution that the model was made for, micrometres per pixel.
    source
        Paper.
    note
        Anything else that a user must know.

    Examples
    --------
    >>> uni = flagst.encoders.RECIPES["uni"]
    >>> uni.n_features, uni.patch_um, uni.licence
    (1024, 112.0, 'CC-BY-NC-ND-4.0')
    """

    title: str
    hub: str
    licence: str
    gated: bool
    n_features: int
    library: str = "timm"
    architecture: str = ""
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = "model"
    files: tuple[str, ...] = WEIGHT_FILES
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    patch_px: int = 224
    um_per_px: float = 0.5
    source: str = ""
    note: str = ""

    @property
    def patch_um(self) -> float:
        """Side of a patch in the tissue, micrometres."""
        return self.patch_px * self.um_per_px

    @property
    def whereabouts(self) -> str:
        """Where the weights are, and under which terms: a sentence for messages."""
        access = "access must be asked for there first" if self.gated else "open to all"
        return f"{self.title} is at huggingface.co/{self.hub} ({access}; licence {self.licence})."


#: Name for :func:`get_encoder` -> recipe.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "uni": Recipe(
            title="UNI",
            hub="MahmoodLab/UNI",
            licence=_NO_DERIVATIVES,
            gated=True,
            n_features=1024,
            architecture="vit_large_patch16_224",
            model_kwargs=_VIT | {"patch_size": 16},
            files=_BIN_FIRST,
            source="Chen et al., Nature Medicine 2024",
        ),
        "uni2-h": Recipe(
            title="UNI2-h",
            hub="MahmoodLab/UNI2-h",
            licence=_NO_DERIVATIVES,
            gated=True,
            n_features=1536,
            architecture="vit_giant_patch14_224",
            model_kwargs=_VIT
            | _GIANT
            | _SWIGLU
            | {"patch_size": 14, "depth": 24, "reg_tokens": 8, "no_embed_class": True},
            files=_BIN_FIRST,
            source="Chen et al., Nature Medicine 2024, second release",
        ),
        "virchow2": Recipe(
            title="Virchow2",
            hub="paige-ai/Virchow2",
            licence=_NO_DERIVATIVES,
            gated=True,
            n_features=2560,
            architecture="vit_huge_patch14_224",
            model_kwargs=_VIT | _SWIGLU | {"mlp_ratio": 5.3375, "reg_tokens": 4, "global_pool": ""},
            pooling="cls_mean",
            source="Zimmermann et al., arXiv 2408.00738",
            note="Class token and mean of the patch tokens side by side; the four registers are not used.",
        ),
        "prov-gigapath": Recipe(
            title="Prov-GigaPath",
            hub="prov-gigapath/prov-gigapath",
            licence="Apache-2.0 with conditions",
            gated=True,
            n_features=1536,
            architecture="vit_giant_patch14_dinov2",
            model_kwargs=_VIT | _GIANT | {"patch_size": 16, "depth": 40},
            files=_BIN_FIRST,
            source="Xu et al., Nature 2024",
            note="The tile encoder; the repository's slide_encoder.pth is another network.",
        ),
        "h-optimus-0": Recipe(
            title="H-optimus-0",
            hub="bioptimus/H-optimus-0",
            licence="Apache-2.0",
            gated=False,
            files=_BIN_FIRST,
            source="Saillard et al., 2024, github.com/bioptimus/releases",
            **_H_OPTIMUS,
        ),
        "h-optimus-1": Recipe(
            title="H-optimus-1",
            hub="bioptimus/H-optimus-1",
            licence=_NO_DERIVATIVES,
            gated=True,
            source="Bioptimus, 2025",
            **_H_OPTIMUS,
        ),
        "phikon-v2": Recipe(
            title="Phikon-v2",
            hub="owkin/phikon-v2",
            licence="Owkin non-commercial",
            gated=False,
            n_features=1024,
            library="transformers",
            pooling="cls",
            source="Filiot et al., arXiv 2409.09173",
            note="A folder with config.json and the weights.",
        ),
        "conch": Recipe(
            title="CONCH",
            hub="MahmoodLab/conch",
            licence=_NO_DERIVATIVES,
            gated=True,
            n_features=512,
            architecture="vit_base_patch16_224",
            model_kwargs={"img_size": 448, "dynamic_img_size": True},
            pooling="attention",
            files=("pytorch_model.bin",),
            mean=CLIP_MEAN,
            std=CLIP_STD,
            patch_px=448,
            source="Lu et al., Nature Medicine 2024",
            note="Only its image tower: the vector before the projection to the text's space.",
        ),
    }
)

_FED = ("files", "pooling", "patch_px", "patch_um", "mean", "std", "licence")


def open_recipe(name: str, *, path: str | Path | None = None, hub: bool = False, **settings) -> TorchEncoder:
    """The encoder that the recipe ``name`` describes; see :func:`get_encoder` for arguments and errors.

    ``settings`` are those of the encoder. They take the place of the recipe's own ``patch_um``, ``pooling``, and so on.
    """
    recipe = RECIPES[name]
    hint = f"{recipe.whereabouts} With hub=True it is downloaded to the cache of huggingface_hub."
    if path is not None and hub:
        raise ValueError(f"Encoder {name!r} takes path= or hub=True, not both: hub=True downloads from {recipe.hub}.")
    if path is None and not hub:
        files = " or ".join(recipe.files)
        raise FileNotFoundError(
            f"Encoder {name!r} needs its weights: flagst.encoders.get_encoder({name!r}, path=...) with the file "
            f"{files} or its folder. {hint}"
        )
    place = recipe.hub if hub else find_weights(path, recipe.files, hint=hint)
    settings = {key: getattr(recipe, key) for key in _FED} | {"path": place, "hub": hub, "name": name} | settings
    if recipe.library == "transformers":
        encoder: TorchEncoder = TransformersEncoder(**settings)
    else:
        kind = TimmEncoder
        if recipe.pooling == "attention":
            from flagst.encoders._conch import ConchEncoder as kind
        encoder = kind(architecture=recipe.architecture, model_kwargs=recipe.model_kwargs, **settings)
    # transformers builds the network from the folder's own config.json: any of its models would load
    if encoder.n_features != recipe.n_features and settings["pooling"] == recipe.pooling:
        raise ValueError(
            f"{recipe.title} has vectors of {recipe.n_features} numbers; these weights give {encoder.n_features}. Are "
            "they another model's?"
        )
    return encoder
