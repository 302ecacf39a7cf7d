"""Multiscale image elements from levels of any size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst.io.images import CHUNK

if TYPE_CHECKING:
    from xarray import DataTree

CHANNELS = ["r", "g", "b"]
#: Coarser levels are added until the longest side has at most this many pixels.
SMALLEST_PX = 4096


def pyramid_element(levels: Sequence, section: str) -> "DataTree":
    """Multiscale image element of a section, as lazy as its levels.

    Parameters
    ----------
    levels
        dask arrays (3, rows, columns) uint8, full resolution first. Each is smaller than the one before, by any factor.
    section
        Name of the coordinate system, in full-resolution pixels.

    Returns
    -------
    ``DataTree`` as SpatialData stores it. If the coarsest level is larger than 4,096 pixels, it is halved until it is
    not. The added levels are averaged when they are read.
    """
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, set_transformation
    from xarray import Dataset, DataTree

    scales = {}
    for number, level in enumerate(with_coarse_levels(levels)):
        array = Image2DModel.parse(
            level, dims=("c", "y", "x"), c_coords=CHANNELS, transformations={section: Identity()}
        )
        sizes = zip("yx", levels[0].shape[1:], level.shape[1:], strict=True)
        array = array.assign_coords({axis: (np.arange(n) + 0.5) * (full / n) for axis, full, n in sizes})
        scales[f"scale{number}"] = Dataset({"image": array})
    element = DataTree.from_dict(scales)
    # set again on the tree, which adds to each scale its transformation to full-resolution pixels
    set_transformation(element, {section: Identity()}, set_all=True)
    Image2DModel().validate(element)
    return element


def with_coarse_levels(levels: Sequence) -> list:
    """The levels, and lazy halves of the coarsest one down to ``SMALLEST_PX``."""
    import dask.array as da

    levels = list(levels)
    while max(levels[-1].shape[1:]) > SMALLEST_PX:
        fine = levels[-1]
        even = [n - n % 2 for n in fine.shape[1:]]
        # a chunk of an odd size would leave half a pixel at its border
        chunks = tuple(n + n % 2 for n in fine.chunksize[1:])
        fine = fine[:, : even[0], : even[1]].rechunk((3, *chunks))
        half = da.coarsen(_mean, fine, {1: 2, 2: 2})
        sides = zip(chunks, half.shape[1:], strict=True)
        levels.append(half.rechunk((3, *(min(max(n // 2, CHUNK // 2), side) for n, side in sides))))
    return levels


def _mean(block: np.ndarray, axis=None) -> np.ndarray:
    """Rounded mean of four uint8."""
    total = block.sum(axis=axis, dtype=np.uint16)
    return ((total + 2) // 4).astype(np.uint8)
