"""OME-Zarr images as lazy levels."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_key
from flagst.io.images import CHUNK, rgb_on_glass
from flagst.io.level import SlideLevel, file_stamp
from flagst.io.scale import Scale, from_ngff

if TYPE_CHECKING:
    from zarr import Array, Group

_IMAGE = "cyx"


@dataclass(frozen=True)
class NgffLevel(SlideLevel):
    """One resolution of an OME-Zarr image.

    Parameters
    ----------
    array
        Path of the array inside the store.
    axes
        Its axes, one letter each.
    """

    array: str
    axes: str

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Pixels of a region. Only the chunks that overlap it are read."""
        where = {"c": slice(None), "y": slice(y0, y1), "x": slice(x0, x1)}
        pixels = np.asarray(_array(self.path, self.array, self.stamp)[tuple(where.get(axis, 0) for axis in self.axes)])
        order = [axis for axis in self.axes if axis in _IMAGE]
        pixels = pixels.transpose([order.index(axis) for axis in "yxc"])
        return rgb_on_glass(np.ascontiguousarray(pixels))


def is_ngff(group: "Group") -> bool:
    """Whether a zarr group is an image."""
    return "multiscales" in _metadata(group)


def ngff_levels(path: Path, group: "Group") -> tuple[list[NgffLevel], Scale | None]:
    """Levels of an OME-Zarr image, finest first, and the scale that it records if its axes have a unit.

    Raises
    ------
    KeyError
        The group is not an image.
    TypeError
        Pixels are not uint8.
    ValueError
        The image is not RGB or RGBA, or has several focal planes or time points.
    """
    inside = ""
    if not is_ngff(group) and "0" in group:  # bioformats2raw writes a series in this way
        inside, group = "0/", group["0"]
    hint = "It is no OME-Zarr and no SpatialData."
    require_key(_metadata(group), "multiscales", where=f"{path}: zarr attributes", hint=hint)
    multiscales = _metadata(group)["multiscales"][0]
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in multiscales.get("axes", _IMAGE)]
    axes, levels = "".join(name[0] for name in names), []
    for dataset in multiscales["datasets"]:
        array = group[dataset["path"]]
        sizes = dict(zip(axes, array.shape, strict=True))
        _check(path, sizes, array.dtype)
        steps = dict(zip(axes, array.chunks, strict=True))
        chunk = tuple(max(1, round(CHUNK / steps[axis])) * steps[axis] for axis in "yx")
        inner = inside + dataset["path"]
        levels.append(NgffLevel(str(path), len(levels), sizes["y"], sizes["x"], chunk, file_stamp(path), inner, axes))
    return levels, from_ngff(multiscales)


def _check(path: Path, sizes: dict[str, int], dtype: np.dtype) -> None:
    if not set(_IMAGE) <= set(sizes) or any(n > 1 for axis, n in sizes.items() if axis not in _IMAGE):
        raise ValueError(f"{path} has axes {sizes}; a slide has c, y and x, and length one along all other axes.")
    if sizes["c"] not in (3, 4):
        raise ValueError(f"{path} has {sizes['c']} channel(s); flagst needs H&E in RGB or RGBA.")
    if dtype != np.uint8:
        raise TypeError(f"{path} has pixels of type {dtype}; flagst needs uint8, 0 to 255. Convert the image.")


def _metadata(group: "Group") -> dict:
    """OME metadata of version 0.5, or of earlier versions."""
    attributes = dict(group.attrs)
    return attributes.get("ome", attributes)


@lru_cache(maxsize=16)
def _array(path: str, array: str, stamp: tuple[int, int]) -> "Array":
    import zarr

    return zarr.open_group(path, mode="r")[array]
