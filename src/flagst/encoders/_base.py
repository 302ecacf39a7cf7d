"""The protocol of an image encoder, and checks that encoders share."""

from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class ImageEncoder(Protocol):
    """Turns patches of one size into vectors.

    Any object with these attributes and methods is an encoder. It knows nothing about slides, spots or scales.

    Attributes
    ----------
    name, version
        Written next to the features. Change the version when the same patch gets other numbers.
    patch_px
        Side of a patch, pixels.
    patch_um
        Sides of a patch in the tissue, micrometres, one per scale. The features of a spot are the vectors of its
        scales, concatenated.
    n_features
        Length of the vector of one patch, that is of one spot at one scale.
    feature_names
        ``n_features`` names.

    Examples
    --------
    >>> isinstance(flagst.encoders.Handcrafted(), flagst.encoders.ImageEncoder)
    True
    """

    name: str
    version: str
    patch_px: int
    patch_um: tuple[float, ...]
    n_features: int
    feature_names: list[str]

    def params(self) -> dict[str, Any]:
        """Return the settings that change the vectors.

        They are written next to the features, and compared when a model predicts. An encoder may also have an attribute
        ``licence``, that of its weights: it is written next to the features too, but not compared.

        Returns
        -------
        Plain str, int, float, bool, or flat lists of them.

        Examples
        --------
        >>> flagst.encoders.Handcrafted().params()
        {'nucleus_threshold': 0.6}
        """
        ...

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Encode patches. Several threads may call this at the same time.

        Parameters
        ----------
        patches
            ``(n_patches, patch_px, patch_px, 3)`` uint8, red, green, blue.

        Returns
        -------
        ``(n_patches, n_features)`` float32, finite.

        Examples
        --------
        >>> flagst.encoders.Handcrafted().encode(np.zeros((2, 112, 112, 3), np.uint8)).shape
        (2, 118)
        """
        ...


def require_patches(patches: np.ndarray, patch_px: int) -> None:
    """Raise a ``ValueError`` unless patches are (n_patches, patch_px, patch_px, 3) uint8."""
    expected = (patch_px, patch_px, 3)
    if patches.ndim != 4 or patches.shape[1:] != expected or patches.dtype != np.uint8:
        raise ValueError(
            f"patches must be (n_patches, {', '.join(map(str, expected))}) uint8; got {patches.shape} {patches.dtype}."
        )


def encode_in_batches(encoder, patches: np.ndarray, batch_size: int) -> np.ndarray:
    """Vectors of ``encoder._encode_batch`` for any number of patches, after a check of the patches."""
    require_patches(patches, encoder.patch_px)
    out = np.empty((len(patches), encoder.n_features), dtype=np.float32)
    for start in range(0, len(patches), batch_size):
        batch = slice(start, start + batch_size)
        out[batch] = encoder._encode_batch(patches[batch])
    return out


def remedy_of_nan(encoder: ImageEncoder) -> str:
    """What to do about an encoder whose vectors are not finite, for an error message."""
    if set(getattr(encoder, "dtypes", ())) - {"float32"}:
        return "Try precision='float32'."
    return "It does not compute in half precision: look at its weights, and at the colours it expects."
