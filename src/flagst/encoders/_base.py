"""What an image encoder is, and the names under which they are found."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np

from flagst._checks import require_one_of


@runtime_checkable
class ImageEncoder(Protocol):
    """Turns patches of one size into vectors; knows nothing about slides, spots or scales.

    Attributes
    ----------
    name, version
        Written beside the features; a new version means that the same patch gives other numbers.
    patch_px
        Side of the patches it wants, pixels.
    patch_um
        Sides of the patches it was made for, micrometres, one per scale. The features of a spot are those of
        its scales side by side.
    n_features
        Length of the vector of one patch (one spot at one scale).
    feature_names
        ``n_features`` names.
    """

    name: str
    version: str
    patch_px: int
    patch_um: tuple[float, ...]
    n_features: int
    feature_names: list[str]

    def params(self) -> dict[str, Any]:
        """Settings that change the numbers: plain str, int, float, bool or flat lists of them."""
        ...

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Encode (n_patches, patch_px, patch_px, 3) uint8 as (n_patches, n_features) float32.

        May be called from several threads at once.
        """
        ...


# Names, not classes: an encoder's own imports (torch, timm) happen when it is asked for.
_encoders: dict[str, str | Callable[..., ImageEncoder]] = {
    "handcrafted": "flagst.encoders.handcrafted:Handcrafted",
}


def available_encoders() -> list[str]:
    """Names that :func:`get_encoder` knows."""
    return sorted(_encoders)


def register_encoder(name: str, factory: str | Callable[..., ImageEncoder]) -> None:
    """Make an encoder known by name.

    Parameters
    ----------
    name
        Its name.
    factory
        Called with the keyword arguments of :func:`get_encoder`; or ``"module:callable"``, imported on first
        use.

    Raises
    ------
    ValueError
        The name is taken by something else.
    """
    if _encoders.get(name, factory) != factory:
        raise ValueError(f"There is an encoder named {name!r} already; found {available_encoders()}.")
    _encoders[name] = factory


def get_encoder(encoder: str | ImageEncoder, **kwargs) -> ImageEncoder:
    """Encoder by name, or the given one.

    Parameters
    ----------
    encoder
        A name out of :func:`available_encoders`, or an object that follows :class:`ImageEncoder`.
    **kwargs
        Passed on to the encoder that the name stands for.

    Returns
    -------
    The encoder.

    Raises
    ------
    ValueError
        Unknown name.
    TypeError
        Not an encoder, or settings given beside an encoder that exists already.

    Examples
    --------
    >>> import flagst
    >>> flagst.encoders.get_encoder("handcrafted").patch_px
    112
    """
    if isinstance(encoder, str):
        require_one_of(encoder, available_encoders(), name="encoder")
        factory = _encoders[encoder]
        if isinstance(factory, str):
            module, _, attribute = factory.partition(":")
            factory = getattr(import_module(module), attribute)
        encoder = factory(**kwargs)
    elif kwargs:
        raise TypeError(
            f"Settings {sorted(kwargs)} need an encoder name; got an encoder that is made already."
        )
    if not isinstance(encoder, ImageEncoder):
        raise TypeError(
            f"encoder must be a name or follow flagst.encoders.ImageEncoder; got {type(encoder).__name__}."
        )
    return encoder
