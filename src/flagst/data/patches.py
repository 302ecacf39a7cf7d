"""Image patches around spots, read lazily: one read per block of neighbouring spots, never one per spot.

Coordinates are x (column) then y (row) in pixels of the full-resolution image; pixel centres sit at 0.5.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

#: Side of a block, pixels of the level that is read.
BLOCK_PX = 2048
#: Patches handed out at once.
MOST_PATCHES = 256
#: A level may be this much coarser than wanted before the next finer one is read instead.
LEVEL_TOLERANCE = 1.1


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Parameters
    ----------
    pixels
        (3, height, width) uint8, numpy or dask.
    factor_x, factor_y
        Full-resolution pixels per pixel of this level.
    """

    pixels: object
    factor_x: float
    factor_y: float


@dataclass(frozen=True)
class Block:
    """Patches that are cut out of one read.

    Parameters
    ----------
    level
        Image level to read from.
    rows
        (n_patches,) int64, rows of the coordinates that were asked for.
    corners
        (n_patches, 2) int64, x then y of the upper left corner on the grid of output pixels.
    step
        Full-resolution pixels per output pixel.
    out_px
        Side of a patch, output pixels.
    """

    level: Level
    rows: np.ndarray
    corners: np.ndarray
    step: float
    out_px: int


def image_levels(image) -> list[Level]:
    """Resolutions of an image, finest first, without reading it.

    Parameters
    ----------
    image
        Multiscale ``DataTree`` or ``DataArray`` (c, y, x) as SpatialData holds them, or a numpy array
        (rows, columns, 3). Three or four channels (the fourth is dropped), uint8.

    Returns
    -------
    One or more :class:`Level`.

    Raises
    ------
    ValueError
        Not an RGB image.
    TypeError
        Not uint8.
    """
    if isinstance(image, np.ndarray):
        arrays = [np.moveaxis(image, 2, 0) if image.ndim == 3 else image]
    elif hasattr(image, "children"):
        scales = [next(iter(child.data_vars.values())) for child in image.children.values() if child.data_vars]
        arrays = [scale.transpose("c", "y", "x").data for scale in scales]
    else:
        arrays = [image.transpose("c", "y", "x").data]
    for array in arrays:
        if array.ndim != 3 or array.shape[0] not in (3, 4):
            raise ValueError(f"The image has shape {tuple(array.shape)}; image features need RGB, 3 channels.")
        if array.dtype != np.uint8:
            raise TypeError(f"The image has dtype {array.dtype}; image features need uint8, 0 to 255.")
    arrays = sorted((array[:3] for array in arrays), key=lambda array: -array.shape[2])
    _, height, width = arrays[0].shape
    return [Level(array, _factor(width, array.shape[2]), _factor(height, array.shape[1])) for array in arrays]


def plan_blocks(
    levels: list[Level], centres: np.ndarray, *, side: float, out_px: int, block_px: int = BLOCK_PX
) -> list[Block]:
    """Group patches into blocks that are read at once.

    Parameters
    ----------
    levels
        From :func:`image_levels`.
    centres
        (n_spots, 2) float, x then y, full-resolution pixels.
    side
        Side of a patch, full-resolution pixels.
    out_px
        Side of a patch in the result, pixels.
    block_px
        Side of a block, pixels of the level that is read; raised to the level's chunk side where that is
        larger, so that no chunk is decoded twice.

    Returns
    -------
    Blocks that together hold every spot once.

    Raises
    ------
    ValueError
        A patch that does not touch the image at all.
    """
    centres = np.asarray(centres, dtype=np.float64)
    check_inside(levels, centres, side=side)
    step = side / out_px
    level = pick_level(levels, step)
    chunks = getattr(level.pixels, "chunksize", level.pixels.shape[:1] + (1, 1))
    span = np.maximum(block_px, [chunks[2], chunks[1]]) * [level.factor_x, level.factor_y]
    corners = np.round(centres / step - out_px / 2).astype(np.int64)
    keys, groups = np.unique(np.floor(centres / span).astype(np.int64), axis=0, return_inverse=True)
    members = (np.flatnonzero(groups.ravel() == g) for g in range(len(keys)))
    return [Block(level, rows, corners[rows], step, out_px) for rows in members]


def crop_block(block: Block, *, most_px: int = BLOCK_PX) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read one block and cut its patches.

    Parameters
    ----------
    block
        From :func:`plan_blocks`.
    most_px
        Large blocks are resampled in tiles of about this many output pixels, which bounds memory.

    Yields
    ------
    ``rows`` (n_patches,) int64 and patches (n_patches, out_px, out_px, 3) uint8, reflected at the image
    border.
    """
    out_px, low = block.out_px, block.corners.min(axis=0)
    lines, columns = _axes(block)
    slab = block.level.pixels[read_region(block)]
    if hasattr(slab, "compute"):
        slab = slab.compute(scheduler="synchronous")

    tile = np.floor((block.corners - low) / max(most_px, out_px)).astype(np.int64)
    keys, groups = np.unique(tile, axis=0, return_inverse=True)
    for g in range(len(keys)):
        members = np.flatnonzero(groups.ravel() == g)
        first, last = block.corners[members].min(axis=0), block.corners[members].max(axis=0) + out_px
        pixels = _resample(slab, lines.part(first[1], last[1]), columns.part(first[0], last[0]))
        for start in range(0, len(members), MOST_PATCHES):
            part = members[start : start + MOST_PATCHES]
            places = block.corners[part] - first
            yield block.rows[part], np.stack([pixels[y : y + out_px, x : x + out_px] for x, y in places])


def read_region(block: Block) -> tuple[slice, slice, slice]:
    """What :func:`crop_block` reads of the level's pixels: all channels, some rows, some columns."""
    lines, columns = _axes(block)
    return slice(None), slice(lines.start, lines.stop), slice(columns.start, columns.stop)


def check_inside(levels: list[Level], centres: np.ndarray, *, side: float) -> None:
    """Raise a ``ValueError`` when a square of ``side`` around a centre does not touch the image.

    Parameters
    ----------
    levels
        From :func:`image_levels`.
    centres
        (n_spots, 2) float, x then y, full-resolution pixels.
    side
        Side of the square, full-resolution pixels; 0 for centres that must lie inside the image.
    """
    size = np.array([levels[0].pixels.shape[2], levels[0].pixels.shape[1]], dtype=float)

    def off_image(points):
        return ((points < -side / 2) | (points >= size + side / 2)).any(axis=1)

    outside = off_image(centres)
    if outside.any():
        row = np.flatnonzero(outside)[0]
        hint = "Coordinates must be x (column), y (row) in full-resolution pixels."
        if not off_image(centres[:, ::-1]).any():
            hint += " With x and y swapped they would fit: the columns are probably in the wrong order."
        raise ValueError(
            f"{outside.sum()} of {len(centres)} spots lie outside the image of "
            f"{size[0]:.0f} x {size[1]:.0f} px (width x height), "
            f"the first at x {centres[row, 0]:.0f}, y {centres[row, 1]:.0f} (row {row}). {hint}"
        )


def pick_level(levels: list[Level], step: float) -> Level:
    """Coarsest level that still resolves ``step`` full-resolution pixels; the finest one when none does."""
    fine_enough = [level for level in levels if max(level.factor_x, level.factor_y) <= step * LEVEL_TOLERANCE]
    return fine_enough[-1] if fine_enough else levels[0]


def thumbnail(levels: list[Level], longest: int = 1000) -> np.ndarray:
    """Small version of an image, for colour statistics.

    Parameters
    ----------
    levels
        From :func:`image_levels`.
    longest
        Longest side of the result at most about this many pixels.

    Returns
    -------
    (rows, columns, 3) uint8, strided from the coarsest level that has enough pixels.
    """
    enough = [level for level in levels if max(level.pixels.shape[1:]) >= longest]
    pixels = (enough[-1] if enough else levels[0]).pixels
    stride = max(1, int(np.ceil(max(pixels.shape[1:]) / longest)))
    return np.ascontiguousarray(np.moveaxis(np.asarray(pixels[:, ::stride, ::stride]), 0, 2))


@dataclass(frozen=True)
class _Axis:
    """One axis of a block: output pixels ``low`` to ``high`` as weighted sums of the level's pixels.

    The weights are a triangle as wide as one output pixel (never narrower than one input pixel): linear
    interpolation when enlarging, area-like averaging when shrinking. Positions outside the image are folded
    back in.
    """

    low: int
    start: int
    stop: int
    weights: sp.csr_matrix  # (high - low, stop - start)

    @classmethod
    def over(cls, low: int, high: int, ratio: float, n_pixels: int) -> "_Axis":
        reach = max(ratio, 1.0)
        centre = (np.arange(low, high) + 0.5) * ratio - 0.5
        offsets = np.arange(-np.ceil(reach), np.ceil(reach) + 1)
        taps = np.floor(centre)[:, None] + offsets
        weight = np.clip(1 - np.abs(taps - centre[:, None]) / reach, 0, None)
        weight /= weight.sum(axis=1, keepdims=True)
        used = weight > 1e-6
        folded = _reflect(taps.astype(np.int64), n_pixels)
        start, stop = folded[used].min(), folded[used].max() + 1
        rows = np.broadcast_to(np.arange(high - low)[:, None], used.shape)
        entries = (weight[used].astype(np.float32), (rows[used], folded[used] - start))
        return cls(int(low), int(start), int(stop), sp.csr_matrix(entries, shape=(high - low, stop - start)))

    def part(self, low: int, high: int) -> sp.csr_matrix:
        return self.weights[low - self.low : high - self.low]


def _axes(block: Block) -> tuple[_Axis, _Axis]:
    """Rows and columns of a block's output pixels."""
    level, low, high = block.level, block.corners.min(axis=0), block.corners.max(axis=0) + block.out_px
    _, height, width = level.pixels.shape
    lines = _Axis.over(low[1], high[1], block.step / level.factor_y, height)
    return lines, _Axis.over(low[0], high[0], block.step / level.factor_x, width)


def _factor(full: int, reduced: int) -> float:
    """Full-resolution pixels per pixel; whole where ``reduced`` is a whole fraction of ``full``, rounded."""
    whole = round(full / reduced)
    return float(whole) if abs(full / whole - reduced) < 1 else full / reduced


def _reflect(index: np.ndarray, n_pixels: int) -> np.ndarray:
    """Fold positions outside ``[0, n_pixels)`` back in, mirrored at the border, however far out they are."""
    index = np.mod(index, 2 * n_pixels)
    return np.where(index < n_pixels, index, 2 * n_pixels - 1 - index)


def _resample(slab: np.ndarray, lines: sp.csr_matrix, columns: sp.csr_matrix) -> np.ndarray:
    """Weighted sums along both axes of a slab (3, height, width): (rows, columns, 3) uint8."""
    height, width = _used(lines), _used(columns)
    lines, columns = lines[:, height], columns[:, width]
    out = np.empty((lines.shape[0], columns.shape[0], 3), dtype=np.uint8)
    for channel in range(3):
        pixels = slab[channel, height, width].astype(np.float32)
        blended = columns @ np.ascontiguousarray((lines @ pixels).T)  # (columns, rows)
        out[..., channel] = np.clip(blended.T + 0.5, 0, 255)
    return out


def _used(weights: sp.csr_matrix) -> slice:
    """Range of input pixels that have weight."""
    return slice(int(weights.indices.min()), int(weights.indices.max()) + 1)
