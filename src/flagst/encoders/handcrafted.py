"""The built-in encoder: amounts of stain, nuclei and texture."""

from functools import reduce
from typing import Any

import numpy as np

from flagst.encoders import _texture as texture
from flagst.encoders._base import encode_in_batches
from flagst.encoders._planes import PLANES, stain_planes

_BATCH = 16  # patches at once: their planes fit into the processor's cache
_LUMEN_DENSITY = 0.15
_DARK_DENSITY = 1.2
_N_EROSIONS = 3


def _feature_names() -> list[str]:
    stains = ("haematoxylin", "eosin", "residual")
    names = [f"{plane}_{s}" for plane in PLANES for s in ("mean", "std", *(f"q{q}" for q in texture.QUANTILES))]
    names += ["lumen", "dark", "corr_haematoxylin_eosin", "corr_haematoxylin_residual", "corr_eosin_residual"]
    names += ["nuclei_area", *(f"nuclei_erosion{i + 1}" for i in range(_N_EROSIONS)), "nuclei_number", "nuclei_size"]
    names += [f"{stain}_{where}_nuclei" for where in ("inside", "outside") for stain in stains] + ["nuclei_clustering"]
    bands = [f"band{b}_{s}" for b in range(texture.N_BANDS) for s in ("energy", "unevenness")]
    names += [f"{plane}_{band}" for plane in ("haematoxylin", "eosin", "density") for band in bands]
    lags = [f"lag{lag}_{s}" for lag in texture.LAGS for s in ("contrast", "correlation", "homogeneity")]
    names += [f"{plane}_{lag}" for plane in ("haematoxylin", "density") for lag in lags]
    names += [f"lbp{radius}_{k}" for radius in texture.LBP_RADII for k in range(texture.N_LBP)]
    tensor = ("coherence_mean", "coherence_std", "coherence_patch", "gradient_mean", "gradient_spread")
    return names + [f"{s}_{i}" for i in range(2) for s in tensor]


_FEATURE_NAMES = tuple(_feature_names())


class Handcrafted:
    """Handcrafted features of H&E patches: 118 per scale, 354 with the three default scales. No weights, no GPU.

    Features of one scale:

    - moments and quantiles of haematoxylin, eosin, residual colour and overall optical density, and correlations
      between the stains;
    - share of lumen and of very dark tissue;
    - nuclei, by a threshold on haematoxylin: area, number, size, erosion curve, colour inside and outside, clustering;
    - energy of four octaves of detail;
    - grey-level differences and local binary patterns;
    - strength and coherence of gradients.

    At the default scales a pixel is 1.3, 2.7 and 5.4 micrometres. A nucleus at the finest scale is therefore a dense
    cluster of cells at the coarser scales.

    Parameters
    ----------
    nucleus_threshold
        A pixel belongs to a nucleus when its smoothed haematoxylin concentration (natural-logarithm optical density) is
        above this.

    Raises
    ------
    ValueError
        The threshold is not positive.

    Examples
    --------
    >>> encoder = flagst.encoders.Handcrafted()
    >>> encoder.encode(np.full((2, 112, 112, 3), 200, np.uint8)).shape
    (2, 118)
    >>> encoder.patch_um
    (150.0, 300.0, 600.0)
    """

    name = "handcrafted"
    version = "1"
    patch_px = 112
    patch_um = (150.0, 300.0, 600.0)
    n_features = len(_FEATURE_NAMES)

    def __init__(self, *, nucleus_threshold: float = 0.6):
        if not nucleus_threshold > 0:
            raise ValueError(f"nucleus_threshold must be positive; got {nucleus_threshold!r}.")
        self.nucleus_threshold = float(nucleus_threshold)

    @property
    def feature_names(self) -> list[str]:
        """Names of the 118 features of one patch."""
        return list(_FEATURE_NAMES)

    def params(self) -> dict[str, Any]:
        """Return the settings that change the features.

        Returns
        -------
        ``{"nucleus_threshold": float}``.

        Examples
        --------
        >>> flagst.encoders.Handcrafted(nucleus_threshold=0.5).params()
        {'nucleus_threshold': 0.5}
        """
        return {"nucleus_threshold": self.nucleus_threshold}

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Encode patches. Several threads may call this at the same time.

        Parameters
        ----------
        patches
            ``(n_patches, 112, 112, 3)`` uint8, red, green, blue.

        Returns
        -------
        ``(n_patches, 118)`` float32, finite.

        Raises
        ------
        ValueError
            ``patches`` has another shape or dtype.

        Examples
        --------
        >>> flagst.encoders.Handcrafted().encode(np.zeros((3, 112, 112, 3), np.uint8)).dtype
        dtype('float32')
        """
        return encode_in_batches(self, patches, _BATCH)

    def _encode_batch(self, patches: np.ndarray) -> np.ndarray:
        planes = stain_planes(patches)
        haematoxylin, eosin, residual, density = planes
        smooth_haematoxylin, smooth_eosin, smooth_density = map(texture.blur, (haematoxylin, eosin, density))
        return np.hstack(
            [
                *(texture.moments_and_quantiles(plane) for plane in planes),
                np.sqrt(texture.share(density < _LUMEN_DENSITY))[:, None],
                np.sqrt(texture.share(density > _DARK_DENSITY))[:, None],
                texture.correlation(haematoxylin, eosin),
                texture.correlation(haematoxylin, residual),
                texture.correlation(eosin, residual),
                nuclei(planes[:3], smooth_haematoxylin, threshold=self.nucleus_threshold),
                texture.band_energies(haematoxylin, smooth_haematoxylin),
                texture.band_energies(eosin, smooth_eosin),
                texture.band_energies(density, smooth_density),
                *(texture.grey_level_differences(plane) for plane in (haematoxylin, density)),
                texture.local_binary_patterns(density),
                texture.orientation(smooth_density),
            ]
        )


def nuclei(stains: tuple[np.ndarray, ...], smooth: np.ndarray, *, threshold: float) -> np.ndarray:
    """Amount, number, size, colour and clustering of nuclei.

    ``stains`` are the concentrations of haematoxylin, eosin and residual, each (n_patches, side, side) float32;
    ``smooth`` is haematoxylin after :func:`texture.blur`, (n_patches, side - 4, side - 4) float32.

    Returns (n_patches, 13) float32: square root of the area share; share of it that is left after one, two and three
    erosions; square root of the number of haematoxylin peaks; log area per peak; means of the three concentrations
    inside and outside; standard deviation of the area share over a 4 x 4 grid.
    """
    mask = smooth > threshold
    n_pixels = mask[0].size
    area = texture.share(mask)
    out = [np.sqrt(area)]
    eroded = mask
    for _ in range(_N_EROSIONS):
        eroded = eroded[:, 1:-1] & eroded[:, 2:] & eroded[:, :-2]
        eroded = eroded[:, :, 1:-1] & eroded[:, :, 2:] & eroded[:, :, :-2]
        out.append((texture.share(eroded) + 1e-3) / (area + 1e-3))
    n_peaks = _count_peaks(smooth, mask)
    out += [np.sqrt(n_peaks), np.log((area * n_pixels + 10) / (n_peaks + 1))]
    inside, n_inside = texture.flat(mask).astype(np.float32), area * n_pixels
    means_outside = []
    for plane in stains:
        values = texture.flat(plane[:, 2:-2, 2:-2])
        sum_inside = np.einsum("ij,ij->i", values, inside)
        out.append(sum_inside / (n_inside + 1))
        means_outside.append((values.sum(1) - sum_inside) / (n_pixels - n_inside + 1))
    out += [*means_outside, texture.flat(texture.cell_means(mask, 4)).std(1)]
    return np.stack(out, axis=1).astype(np.float32)


def _count_peaks(smooth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n_patches,) number of pixels in ``mask`` that are the largest of 5 x 5; a plateau counts about once."""
    highest = smooth
    for axis in (1, 2):
        highest = reduce(np.maximum, texture.windows(highest, axis))
    size = highest.shape[1]
    inner = smooth[:, 2:-2, 2:-2]
    peaks = (inner == highest) & mask[:, 2:-2, 2:-2]
    for y, x in ((1, 1), (1, 2), (1, 3), (2, 1)):  # above and to the left it must be strictly higher
        peaks &= inner > smooth[:, y : y + size, x : x + size]
    return texture.share(peaks) * peaks[0].size
