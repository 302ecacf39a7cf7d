"""The built-in encoder: stain amounts, nuclei and texture. No weights, no GPU."""

from functools import reduce
from typing import Any

import numpy as np

from flagst.encoders._base import require_patches
from flagst.encoders._planes import PLANES, stain_planes
from flagst.encoders._texture import (
    LAGS,
    LBP_RADII,
    N_BANDS,
    N_LBP,
    QUANTILES,
    band_energies,
    blur,
    cell_means,
    correlation,
    flat,
    grey_level_differences,
    local_binary_patterns,
    moments_and_quantiles,
    orientation,
    share,
    windows,
)

_BATCH = 16  # patches worked on at once: their planes stay in the processor's cache
_LUMEN_DENSITY = 0.15
_DARK_DENSITY = 1.2
_N_EROSIONS = 3


class Handcrafted:
    """Handcrafted features of H&E patches: 118 per scale, 354 with the three default scales.

    Per scale: amounts of haematoxylin, eosin, residual colour and overall density (moments, quantiles); how
    they go together; share of lumen and of very dark tissue; nuclei by thresholded haematoxylin (area,
    number, size, erosion curve, colour inside and outside, clustering); energy of four octaves of detail;
    grey-level differences; local binary patterns; strength and coherence of gradients. At the default scales
    a pixel is 1.3, 2.7 and 5.4 micrometres, so what counts as a nucleus at the finest scale is a dense
    cluster at the coarser ones.

    Parameters
    ----------
    nucleus_threshold
        Smoothed haematoxylin concentration (natural-logarithm optical density) above which a pixel belongs to
        a nucleus.

    Examples
    --------
    >>> import numpy as np
    >>> from flagst.encoders import Handcrafted
    >>> Handcrafted().encode(np.full((2, 112, 112, 3), 200, np.uint8)).shape
    (2, 118)
    """

    name = "handcrafted"
    version = "1"
    patch_px = 112
    patch_um = (150.0, 300.0, 600.0)

    def __init__(self, *, nucleus_threshold: float = 0.6):
        if not nucleus_threshold > 0:
            raise ValueError(f"nucleus_threshold must be positive; got {nucleus_threshold!r}.")
        self.nucleus_threshold = float(nucleus_threshold)

    @property
    def feature_names(self) -> list[str]:
        """Names of the features of one patch."""
        return list(_FEATURE_NAMES)

    @property
    def n_features(self) -> int:
        """Features of one patch."""
        return len(_FEATURE_NAMES)

    def params(self) -> dict[str, Any]:
        """Settings that change the numbers."""
        return {"nucleus_threshold": self.nucleus_threshold}

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Encode patches.

        Parameters
        ----------
        patches
            (n_patches, 112, 112, 3) uint8, red, green, blue.

        Returns
        -------
        (n_patches, 118) float32, finite.

        Raises
        ------
        ValueError
            Patches of another shape or type.
        """
        require_patches(patches, self.patch_px)
        out = np.empty((len(patches), self.n_features), dtype=np.float32)
        for start in range(0, len(patches), _BATCH):
            batch = slice(start, start + _BATCH)
            out[batch] = self._encode_batch(patches[batch])
        return out

    def _encode_batch(self, patches: np.ndarray) -> np.ndarray:
        planes = stain_planes(patches)
        haematoxylin, eosin, residual, density = planes
        smooth_haematoxylin, smooth_eosin, smooth_density = blur(haematoxylin), blur(eosin), blur(density)
        return np.hstack(
            [
                *(moments_and_quantiles(plane) for plane in planes),
                np.sqrt(share(density < _LUMEN_DENSITY))[:, None],
                np.sqrt(share(density > _DARK_DENSITY))[:, None],
                correlation(haematoxylin, eosin),
                correlation(haematoxylin, residual),
                correlation(eosin, residual),
                nuclei(planes[:3], smooth_haematoxylin, threshold=self.nucleus_threshold),
                band_energies(haematoxylin, smooth_haematoxylin),
                band_energies(eosin, smooth_eosin),
                band_energies(density, smooth_density),
                *(grey_level_differences(plane) for plane in (haematoxylin, density)),
                local_binary_patterns(density),
                orientation(smooth_density),
            ]
        )


def nuclei(stains: tuple[np.ndarray, ...], smooth: np.ndarray, *, threshold: float) -> np.ndarray:
    """Amount, number, size, colour and clustering of nuclei.

    Parameters
    ----------
    stains
        Haematoxylin, eosin and residual concentrations, (n_patches, side, side) float32 each.
    smooth
        (n_patches, side - 4, side - 4) float32, haematoxylin after :func:`blur`.
    threshold
        Smoothed haematoxylin above which a pixel belongs to a nucleus.

    Returns
    -------
    (n_patches, 13) float32: square root of the area share; share of it left after one, two, three erosions;
    square root of the number of haematoxylin peaks; area per peak; mean of the three concentrations inside
    and outside; standard deviation of the area share over a 4 x 4 grid.
    """
    mask = smooth > threshold
    n_pixels = mask[0].size
    area = share(mask)
    out = [np.sqrt(area)]
    eroded = mask
    for _ in range(_N_EROSIONS):
        eroded = eroded[:, 1:-1] & eroded[:, 2:] & eroded[:, :-2]
        eroded = eroded[:, :, 1:-1] & eroded[:, :, 2:] & eroded[:, :, :-2]
        out.append((share(eroded) + 1e-3) / (area + 1e-3))
    n_peaks = _count_peaks(smooth, mask)
    out += [np.sqrt(n_peaks), np.log((area * n_pixels + 10) / (n_peaks + 1))]
    inside, n_inside = flat(mask).astype(np.float32), area * n_pixels
    means_outside = []
    for plane in stains:
        values = flat(plane[:, 2:-2, 2:-2])
        sum_inside = np.einsum("ij,ij->i", values, inside)
        out.append(sum_inside / (n_inside + 1))
        means_outside.append((values.sum(1) - sum_inside) / (n_pixels - n_inside + 1))
    out += [*means_outside, flat(cell_means(mask, 4)).std(1)]
    return np.stack(out, axis=1).astype(np.float32)


def _count_peaks(smooth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n_patches,) pixels in ``mask`` that are largest among 5 x 5; a plateau counts about once."""
    highest = smooth
    for axis in (1, 2):
        highest = reduce(np.maximum, windows(highest, axis))
    size = highest.shape[1]
    inner = smooth[:, 2:-2, 2:-2]
    peaks = (inner == highest) & mask[:, 2:-2, 2:-2]
    for y, x in ((1, 1), (1, 2), (1, 3), (2, 1)):  # strictly higher than the neighbours above and to the left
        peaks &= inner > smooth[:, y : y + size, x : x + size]
    return share(peaks) * peaks[0].size


def _feature_names() -> list[str]:
    names = [f"{p}_{s}" for p in PLANES for s in ("mean", "std", *(f"q{q}" for q in QUANTILES))]
    names += ["lumen", "dark", "corr_haematoxylin_eosin", "corr_haematoxylin_residual", "corr_eosin_residual"]
    names += [
        "nuclei_area",
        *(f"nuclei_erosion{i + 1}" for i in range(_N_EROSIONS)),
        "nuclei_number",
        "nuclei_size",
    ]
    names += [f"{p}_{w}_nuclei" for w in ("inside", "outside") for p in PLANES[:3]] + ["nuclei_clustering"]
    bands = [f"band{b}_{s}" for b in range(N_BANDS) for s in ("energy", "unevenness")]
    names += [f"{p}_{b}" for p in ("haematoxylin", "eosin", "density") for b in bands]
    lags = [f"lag{lag}_{s}" for lag in LAGS for s in ("contrast", "correlation", "homogeneity")]
    names += [f"{p}_{lag}" for p in ("haematoxylin", "density") for lag in lags]
    names += [f"lbp{r}_{k}" for r in LBP_RADII for k in range(N_LBP)]
    tensor = ("coherence_mean", "coherence_std", "coherence_patch", "gradient_mean", "gradient_spread")
    return names + [f"{t}_{i}" for i in range(2) for t in tensor]


_FEATURE_NAMES = tuple(_feature_names())
