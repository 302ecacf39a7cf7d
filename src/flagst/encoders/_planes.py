"""From colours to stains: the planes that the texture functions work on.

A plane is (n_patches, side, side) float32.
"""

import numpy as np

# Optical density of pure haematoxylin and eosin in red, green, blue (Ruifrok & Johnston 2001). The third direction is
# perpendicular to both: it holds the colour that neither stain explains.
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.07, 0.99, 0.11])

PLANES = ("haematoxylin", "eosin", "residual", "density")


def _unmixing() -> np.ndarray:
    """(3, 3): optical densities of red, green, blue (rows) to haematoxylin, eosin, residual (columns)."""
    stains = np.stack([_HAEMATOXYLIN, _EOSIN, np.cross(_HAEMATOXYLIN, _EOSIN)])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    return np.linalg.inv(stains).astype(np.float32)


_UNMIXING = _unmixing()


def stain_planes(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unmix (n_patches, side, side, 3) uint8, red, green, blue, into stains.

    Returns the concentrations of haematoxylin, eosin and residual, and the mean optical density: each (n_patches, side,
    side) float32, natural-logarithm units, 0 for white. Concentrations may be slightly negative.

    Source
    ------
    Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 2001; the third stain is the perpendicular direction.
    """
    # One colour after the other in memory, and a vectorised logarithm: faster than a table of 256 values.
    light = np.ascontiguousarray(patches.transpose(3, 0, 1, 2)).astype(np.float32)
    light += 1
    light *= 1 / 256
    red, green, blue = np.negative(np.log(light, out=light), out=light)
    concentrations = []
    for stain in range(3):
        plane = red * _UNMIXING[0, stain]
        plane += green * _UNMIXING[1, stain]
        plane += blue * _UNMIXING[2, stain]
        concentrations.append(plane)
    density = red + green
    density += blue
    density /= 3
    return *concentrations, density
