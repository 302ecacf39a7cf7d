"""Image files that Pillow reads, as lazy pyramids: a level is decoded once, when it is first used."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flagst.io.level import SlideLevel, file_stamp, lazy

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

#: Reductions of the levels of a pyramid. JPEG decoders offer exactly these.
REDUCTIONS = (1, 2, 4, 8)
CHUNK = 2048
#: Value of pixels without tissue.
GLASS = 255
#: Upper limit of decoded pixels in memory, over all images, bytes: a full-resolution HER2ST section and its next level.
CACHE_BYTES = 450_000_000

_cache: OrderedDict[tuple, np.ndarray] = OrderedDict()
_lock = threading.Lock()
_limit_lock = threading.Lock()


class ImageLevel(SlideLevel):
    """One level of an image file, decoded as a whole when it is first read.

    A JPEG can only be decoded from its start, so a reader of chunks would decode the file once per chunk. Here all
    chunks read from a small cache of decoded levels (see :func:`clear_image_cache`).
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
    """Remove decoded image levels from memory. The next access decodes the file again.

    Examples
    --------
    >>> flagst.io.clear_image_cache()
    """
    with _lock:
        _cache.clear()


def lazy_pyramid(path: str | Path) -> list:
    """Open an image file as lazy levels, without decoding it.

    Parameters
    ----------
    path
        JPEG, PNG or any other format that Pillow reads. Reduced levels of a JPEG are decoded at their size, which is
        several times faster than decoding all pixels and shrinking the image.

    Returns
    -------
    List of dask arrays ``(height // r, width // r, 3)`` uint8, rows, columns, then red, green, blue, 0 to 255; one for
    each r of 1, 2, 4, 8.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    OSError
        Pillow cannot read the file.

    Examples
    --------
    >>> from PIL import Image
    >>> Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save("slide.png")
    >>> [level.shape for level in flagst.io.lazy_pyramid("slide.png")]
    [(40, 60, 3), (20, 30, 3), (10, 15, 3), (5, 7, 3)]
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
    """Pillow's name of the colours of an image file, such as ``RGB`` or ``I;16``; only its header is read."""
    with _open(path) as image:
        return image.mode


def read_reduced(path: str | Path, reduction: int) -> np.ndarray:
    """Decode an image file at 1/``reduction`` of its side: (rows, columns, 3) uint8, red, green, blue."""
    with _open(path) as image:
        width, height = image.size
        if reduction > 1:
            image.draft("RGB", (width // reduction, height // reduction))
        rgb = on_glass(image).convert("RGB")
        rest = reduction // round(width / rgb.width)  # what the decoder did not reduce: all, unless it is a JPEG
        return np.asarray(rgb.reduce(rest) if rest > 1 else rgb)


def on_glass(image: "PillowImage") -> "PillowImage":
    """An image with its transparent pixels on white; any other image unmodified."""
    if image.mode not in ("RGBA", "LA") and "transparency" not in image.info:
        return image
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (GLASS,) * 4), image)


def rgb_on_glass(pixels: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """Pixels (rows, columns, 3) uint8 on white, from (rows, columns, 3 or 4) uint8 with opacity as fourth channel.

    ``premultiplied``: the colours are already multiplied by the opacity.
    """
    if pixels.shape[2] == 3:
        return pixels
    if premultiplied:  # white fills up to full opacity
        return np.minimum(pixels[..., :3], pixels[..., 3:]) + (GLASS - pixels[..., 3:])
    from PIL import Image

    return np.asarray(on_glass(Image.fromarray(pixels)))[..., :3]


def thumbnail(levels: list, *, longest: int = 1000) -> tuple[np.ndarray, float]:
    """Small version of an image for plots, from the smallest level that is large enough.

    Parameters
    ----------
    levels
        Image pyramid, arrays (rows, columns, 3) uint8, full resolution first, numpy or dask.
    longest
        Longest side of the result, pixels. Smaller images are not resized.

    Returns
    -------
    (rows, columns, 3) uint8, and the factor from full-resolution to small pixels.
    """
    from PIL import Image

    height, width = levels[0].shape[:2]
    scale = min(1.0, longest / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    source = [level for level in levels if max(level.shape[:2]) >= max(size)][-1]
    small = Image.fromarray(np.ascontiguousarray(np.asarray(source)))
    return np.asarray(small.resize(size, Image.Resampling.BILINEAR)), float(scale)


def _open(path: str | Path):
    """Open an image, without Pillow's limit of its size: whole slides are larger."""
    from PIL import Image

    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
