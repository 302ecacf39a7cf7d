"""Image files as lazy pyramids: decoded on first use, once, and never all at the same time."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flagst.io.level import SlideLevel, file_stamp, lazy

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

#: Levels of an image pyramid; each halves the one before. JPEG decoders offer exactly these reductions.
REDUCTIONS = (1, 2, 4, 8)
CHUNK = 2048
#: Value of pixels without tissue.
GLASS = 255
#: Decoded pixels kept in memory, over all images: one full-resolution HER2ST section and its next level.
CACHE_BYTES = 450_000_000

_cache: OrderedDict[tuple, np.ndarray] = OrderedDict()
_lock = threading.Lock()
_limit_lock = threading.Lock()


class ImageLevel(SlideLevel):
    """One level of an image file, decoded as a whole when it is first read.

    Decoding a JPEG cannot start in the middle, so a chunk-wise reader would decode the file once per chunk.
    Here the decoded level stays in a small cache (see :func:`clear_image_cache`) that all chunks read from.
    """

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Pixels of a region, ``(y1 - y0, x1 - x0, 3)`` uint8."""
        return self._decoded()[y0:y1, x0:x1].copy()  # a view would keep the whole level alive

    def _decoded(self) -> np.ndarray:
        key = (self.path, self.level, self.stamp)
        with _lock:
            if key in _cache:
                _cache.move_to_end(key)
            else:
                _cache[key] = read_reduced(self.path, REDUCTIONS[self.level])[: self.height, : self.width]
                while len(_cache) > 1 and sum(level.nbytes for level in _cache.values()) > CACHE_BYTES:
                    _cache.popitem(last=False)
            return _cache[key]


def clear_image_cache() -> None:
    """Forget decoded image levels; the next access decodes the file again."""
    with _lock:
        _cache.clear()


def lazy_pyramid(path: str | Path) -> list:
    """Open an image file as lazy levels, without decoding it.

    Parameters
    ----------
    path
        JPEG, PNG or any other format that Pillow reads. For JPEG the reduced levels come from a reduced
        decode, which is several times faster than decoding everything and shrinking it.

    Returns
    -------
    List of dask arrays ``(height // r, width // r, 3)`` uint8, rows, columns, colour, for r in 1, 2, 4, 8.
    """
    return [lazy(level).transpose(1, 2, 0) for level in image_file_levels(path)]


def image_file_levels(path: str | Path) -> list[ImageLevel]:
    """Levels of an image file, full resolution first; only its header is read."""
    path = Path(path).resolve()
    with _open(path) as image:
        width, height = image.size
    return [
        ImageLevel(str(path), number, height // reduction, width // reduction, (CHUNK, CHUNK), file_stamp(path))
        for number, reduction in enumerate(REDUCTIONS)
        if min(height, width) >= reduction
    ]


def image_mode(path: str | Path) -> str:
    """Pillow's name of an image file's colours, such as ``RGB`` or ``I;16``, read from its header."""
    with _open(path) as image:
        return image.mode


def read_reduced(path: str | Path, reduction: int) -> np.ndarray:
    """Decode an image file at 1/``reduction`` of its side: ``(rows, columns, 3)`` uint8, red, green, blue."""
    with _open(path) as image:
        width, height = image.size
        if reduction > 1:
            image.draft("RGB", (width // reduction, height // reduction))
        rgb = on_glass(image).convert("RGB")
        rest = reduction // round(width / rgb.width)  # what the decoder left; all, unless it is a JPEG
        return np.asarray(rgb.reduce(rest) if rest > 1 else rgb)


def on_glass(image: "PillowImage") -> "PillowImage":
    """An image with transparent pixels, laid on white; any other as it is."""
    if image.mode not in ("RGBA", "LA") and "transparency" not in image.info:
        return image
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (GLASS,) * 4), image)


def rgb_on_glass(pixels: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """Red, green and blue of pixels ``(rows, columns, 3 or 4)`` uint8, whose fourth channel is opacity, laid on white.

    ``premultiplied``: colours are multiplied with it already.
    """
    if pixels.shape[2] == 3:
        return pixels
    if premultiplied:  # what is missing to full opacity is white
        return np.minimum(pixels[..., :3], pixels[..., 3:]) + (GLASS - pixels[..., 3:])
    from PIL import Image

    return np.asarray(on_glass(Image.fromarray(pixels)))[..., :3]


def thumbnail(levels: list, *, longest: int = 1000) -> tuple[np.ndarray, float]:
    """Small version of an image for plots, made from the smallest level that is large enough.

    Parameters
    ----------
    levels
        Image pyramid, arrays ``(rows, columns, 3)`` uint8, full resolution first, numpy or dask.
    longest
        Longest side of the result, pixels. Smaller images stay as they are.

    Returns
    -------
    ``(rows, columns, 3)`` uint8 and the factor from full-resolution to small pixels.
    """
    from PIL import Image

    height, width = levels[0].shape[:2]
    scale = min(1.0, longest / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    source = [level for level in levels if max(level.shape[:2]) >= max(size)][-1]
    small = Image.fromarray(np.ascontiguousarray(np.asarray(source)))
    return np.asarray(small.resize(size, Image.Resampling.BILINEAR)), float(scale)


def _open(path: str | Path):
    """Open an image; whole-slide sizes trip Pillow's guard against decompression bombs."""
    from PIL import Image

    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
