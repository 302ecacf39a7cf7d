"""One resolution of a slide on disk, read by regions."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask.array import Array


@dataclass(frozen=True)
class SlideLevel:
    """A small description that can be pickled. The process that reads pixels opens the file.

    Parameters
    ----------
    path
        File.
    level
        Index in the pyramid, 0 for full resolution.
    height, width
        Size of this level, pixels.
    chunk
        Rows and columns that are best read at once.
    stamp
        Modification time and size of the file. A changed file is opened again.
    """

    path: str
    level: int
    height: int
    width: int
    chunk: tuple[int, int]
    stamp: tuple[int, int]

    ndim = 3
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels (red, green, blue), rows, columns."""
        return (3, self.height, self.width)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Pixels of a region inside the level, (y1 - y0, x1 - x0, 3) uint8, red, green, blue."""
        raise NotImplementedError

    def __getitem__(self, item) -> np.ndarray:
        index = item if isinstance(item, tuple) else (item,)
        sliced = len(index) == 3 and all(isinstance(part, slice) and (part.step or 1) > 0 for part in index[1:])
        if not sliced:
            return self.read(0, self.height, 0, self.width).transpose(2, 0, 1)[item]
        (y0, y1, dy), (x0, x1, dx) = index[1].indices(self.height), index[2].indices(self.width)
        pixels = self.read(y0, max(y0, y1), x0, max(x0, x1))
        if (dy, dx) != (1, 1):
            pixels = pixels[::dy, ::dx].copy()  # a view would keep all pixels in memory
        return pixels.transpose(2, 0, 1)[index[0]]


def lazy(level: SlideLevel) -> "Array":
    """A level as a dask array (3, rows, columns) uint8. A slice of it reads only that slice, not whole chunks.

    Its name depends on its content, so that dask reads the same region once.
    """
    import dask.array as da
    from dask.base import tokenize

    name = f"slide-{tokenize(type(level).__name__, *vars(level).values())}"
    meta = np.empty((0, 0, 0), np.uint8)
    return da.from_array(level, chunks=(3, *level.chunk), name=name, meta=meta)


def file_stamp(path: Path) -> tuple[int, int]:
    """Modification time and size of a file."""
    info = path.stat()
    return info.st_mtime_ns, info.st_size
