"""One resolution of a slide on disk: read region by region, wherever it is needed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class SlideLevel:
    """A small description that can be pickled; the file is opened in the process that reads.

    Parameters
    ----------
    path
        File.
    level
        Position in the pyramid, 0 for full resolution.
    height, width
        Size of this level, pixels.
    chunk
        Rows and columns that are best read at once.
    stamp
        Modification time and size of the file: a changed file is opened again.
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
        """Rows, columns, channels (red, green, blue)."""
        return (self.height, self.width, 3)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Pixels of a region inside the level, ``(y1 - y0, x1 - x0, 3)`` uint8."""
        raise NotImplementedError

    def __getitem__(self, item) -> np.ndarray:
        index = item if isinstance(item, tuple) else (item,)
        if not all(isinstance(part, slice) and (part.step or 1) > 0 for part in index[:2]) or Ellipsis in index:
            return self.read(0, self.height, 0, self.width)[item]
        rows, columns, *rest = [*index, slice(None)][: max(2, len(index))]
        (y0, y1, dy), (x0, x1, dx) = rows.indices(self.height), columns.indices(self.width)
        return self.read(y0, max(y0, y1), x0, max(x0, x1))[(slice(None, None, dy), slice(None, None, dx), *rest)]


def file_stamp(path: Path) -> tuple[int, int]:
    """Modification time and size of a file."""
    info = path.stat()
    return info.st_mtime_ns, info.st_size
