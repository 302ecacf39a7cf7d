"""Models of LazySlide, by name."""

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_key
from flagst._keys import NETWORK
from flagst.encoders._torch import TorchEncoder, find_devices
from flagst.encoders.callable_encoder import sha256_of_weights

if TYPE_CHECKING:
    import torch


class LazySlideEncoder(TorchEncoder):
    """A vision model of LazySlide, with LazySlide's own colours and pooling.

    LazySlide downloads the weights into its own cache and reads them in its own way, which flagst does not check. For
    weights in a local file use :func:`get_encoder`.

    Parameters
    ----------
    model
        Name in ``lazyslide.models.list_models()``.
    hub
        Must be true: it allows LazySlide to download the weights.
    device
        One device; by default the GPU if there is one.
    **settings
        ``patch_px``, ``patch_um``, ``precision``, ``batch_size``: see :class:`flagst.encoders.CallableEncoder`.

    Raises
    ------
    KeyError
        LazySlide has no such model.
    ValueError
        ``hub`` is not true, the model does not encode images, or a setting is out of range.
    ImportError
        LazySlide is missing.

    Examples
    --------
    >>> encoder = flagst.encoders.LazySlideEncoder("h-optimus-0", hub=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str,
        *,
        hub: bool = False,
        device: str | None = None,
        **settings,
    ):
        registry = _models().MODEL_REGISTRY
        require_key(registry, model, where="LazySlide's list of models", hint="See lazyslide.models.list_models().")
        if not hub:
            raise ValueError(f"LazySlide downloads the weights of {model!r}: pass hub=True to allow that.")
        places = find_devices(device)
        if len(places) > 1:
            raise ValueError(f"LazySlideEncoder works on one device; got {device!r}.")
        entry = registry[model]
        made = getattr(entry, "module", entry)()  # in older versions an entry is a card that holds the class
        if not hasattr(made, "encode_image"):
            raise ValueError(f"LazySlide's {model!r} does not encode images.")
        made.to(places[0])
        if hasattr(made.model, "eval"):
            made.model.eval()
        self._prepare: Callable | None = made.get_transform()
        super().__init__(
            made.encode_image,
            name=f"lazyslide-{model}",
            mean=(0, 0, 0),  # LazySlide's transform normalises
            std=(1, 1, 1),
            licence=str(getattr(entry, "license", None) or "unknown"),
            record={NETWORK.sha256: sha256_of_weights(made.model)},
            device=[str(place) for place in places],
            **settings,
        )

    def _tensor(self, patches: np.ndarray, device: "torch.device") -> "torch.Tensor":
        import torch

        if self._prepare is None:  # the model has a processor of its own
            return torch.from_numpy(np.ascontiguousarray(patches)).permute(0, 3, 1, 2)
        return torch.stack([self._prepare(patch) for patch in np.ascontiguousarray(patches)]).to(device)


def _models() -> ModuleType:
    """The module with LazySlide's models; its package depends on the version."""
    for name in ("lazyslide_models", "lazyslide.models"):
        with suppress(ImportError):
            return import_module(name)
    raise ImportError("LazySlideEncoder needs LazySlide: pip install 'flagst[wsi]'.")
