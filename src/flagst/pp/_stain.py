"""Stain normalisation with one background colour and one stain strength per section."""

from dataclasses import dataclass

import numpy as np

#: After normalisation, the 95th percentile of the optical density of tissue, averaged over colours; a common value.
REFERENCE_DENSITY = 1.28
_TISSUE_DENSITY = 0.15
_LEAST_TISSUE_PX = 50
_DARKEST_BACKGROUND = 150.0


@dataclass(frozen=True)
class Stain:
    """Background colour and stain strength of a section.

    Parameters
    ----------
    background
        Red, green and blue of empty glass, 0 to 255.
    strength
        Optical density of dark tissue relative to :data:`REFERENCE_DENSITY`.
    """

    background: tuple[float, float, float]
    strength: float

    def apply(self, patches: np.ndarray) -> np.ndarray:
        """Make the background white and scale the stain to the reference strength.

        Parameters
        ----------
        patches
            (n_patches, side, side, 3) uint8.

        Returns
        -------
        The same shape, uint8.
        """
        value = np.arange(256)[:, None] + 1
        density = np.log((np.array(self.background) + 1) / value) / self.strength
        table = np.clip(np.round(256 * np.exp(-density) - 1), 0, 255).astype(np.uint8)
        out = np.empty_like(patches)
        for channel in range(3):
            out[..., channel] = table[:, channel][patches[..., channel]]
        return out


@dataclass(frozen=True)
class Overview:
    """Optical density on a small version of a section's image.

    Parameters
    ----------
    background
        Red, green and blue of empty glass, 0 to 255.
    density
        (rows, columns) float, optical density averaged over colours, 0 at the background.
    factor
        Pixels of the overview per pixel of the section's image.
    """

    background: tuple[float, float, float]
    density: np.ndarray
    factor: float

    @classmethod
    def of(cls, small: np.ndarray, factor: float) -> "Overview":
        """From a small image (rows, columns, 3) uint8. The background is the median colour of its brightest part."""
        brightness = small.mean(axis=2, dtype=np.float32)
        bright = brightness >= np.percentile(brightness[::2, ::2], 99) - 30
        background = np.maximum(np.median(small[bright], axis=0), _DARKEST_BACKGROUND)
        tables = np.log((background + 1) / (np.arange(256)[:, None] + 1))  # (256, 3)
        density = sum(np.take(tables[:, c], small[..., c]) for c in range(3)) / 3
        return cls(tuple(float(c) for c in background), density, factor)

    def share_on_tissue(self, centres: np.ndarray) -> float:
        """Share of the centres (n_spots, 2), x then y, pixels of the section's image, that lie on tissue."""
        x, y = np.floor(centres * self.factor).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < self.density.shape[1]) & (y < self.density.shape[0])
        return float((self.density[y[inside], x[inside]] > _TISSUE_DENSITY).sum() / max(1, len(centres)))

    def stain(self, centres: np.ndarray, side: float) -> Stain:
        """Measure the stain on the tissue around the spots. The strength is 1 if there is no tissue.

        Parameters
        ----------
        centres
            (n_spots, 2) float, x then y, pixels of the section's image.
        side
            Side of the measured squares around the spots, pixels of the section's image.
        """
        near = np.zeros(self.density.shape, dtype=bool)
        low = np.maximum(np.floor((centres - side / 2) * self.factor), 0).astype(int)
        high = np.maximum(np.ceil((centres + side / 2) * self.factor), 0).astype(int)
        for (x0, y0), (x1, y1) in zip(low, high, strict=True):
            near[y0:y1, x0:x1] = True
        tissue = self.density[near & (self.density > _TISSUE_DENSITY)]
        enough = len(tissue) >= _LEAST_TISSUE_PX
        strength = np.percentile(tissue, 95) / REFERENCE_DENSITY if enough else 1.0
        return Stain(self.background, float(round(strength, 6)))
