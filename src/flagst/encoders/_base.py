"""What an image encoder is."""

from typing import Any, Protocol, runtime_checkable

import numpy as np


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


def require_patches(patches: np.ndarray, patch_px: int) -> None:
    """Raise a ``ValueError`` unless patches are (n_patches, patch_px, patch_px, 3) uint8."""
    expected = (patch_px, patch_px, 3)
    if patches.ndim != 4 or patches.shape[1:] != expected or patches.dtype != np.uint8:
        raise ValueError(
            f"patches must be (n_patches, {', '.join(map(str, expected))}) uint8; got {patches.shape} {patches.dtype}."
        )
