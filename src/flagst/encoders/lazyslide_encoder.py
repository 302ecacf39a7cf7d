"""Models of LazySlide by name."""

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
    """A vision model of LazySlide by its name there, with LazySlide's own colours and pooling.

    LazySlide fetches the weights into its own cache and reads them in its own way, which flagst does not check. For a
    file of your own use :func:`get_encoder`.

    Parameters
    ----------
    model
        Name in ``lazyslide.models.list_models()``.
    hub
        Must be true: that LazySlide may download the weights.
    patch_px, patch_um, device, precision, batch_size
        See :class:`flagst.encoders.CallableEncoder`; one device only.

    Raises
    ------
    KeyError
        LazySlide has no such model.
    ValueError
        Without ``hub=True``; a model that does not encode images; settings out of range.
    ImportError
        LazySlide is missing.

    Example
    -------
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
        made = getattr(entry, "module", entry)()  # of older versions a card that holds the class
        if not hasattr(made, "encode_image"):
            raise ValueError(f"LazySlide's {model!r} does not encode images.")
        made.to(places[0])
        if hasattr(made.model, "eval"):
            made.model.eval()
        self._prepare: Callable | None = made.get_transform()
        super().__init__(
            made.encode_image,
            name=f"lazyslide-{model}",
            mean=(0, 0, 0),  # its own transform normalises
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
    """The module with LazySlide's models, whichever package holds them."""
    for name in ("lazyslide_models", "lazyslide.models"):
        with suppress(ImportError):
            return import_module(name)
    raise ImportError("LazySlideEncoder needs LazySlide: pip install 'flagst[wsi]'.")
