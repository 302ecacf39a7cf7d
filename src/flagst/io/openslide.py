"""Whole-slide formats that OpenSlide reads, as lazy levels."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from flagst.io.images import CHUNK, on_glass
from flagst.io.level import SlideLevel, file_stamp
from flagst.io.scale import Scale

_MISSING = 'OpenSlide is needed for {path} and is not installed: pip install "flagst[wsi]", or convert it to OME-TIFF.'


class OpenSlideLevel(SlideLevel):
    """One resolution of a slide that OpenSlide reads."""

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Pixels of a region. Parts that were not scanned are white."""
        slide = _slide(self.path, self.stamp)
        factor = slide.level_downsamples[self.level]
        region = slide.read_region((round(x0 * factor), round(y0 * factor)), self.level, (x1 - x0, y1 - y0))
        return np.asarray(on_glass(region))[..., :3]


def openslide_levels(path: Path) -> tuple[list[OpenSlideLevel], Scale | None]:
    """Levels of a slide, finest first, and the scale that it records.

    Raises
    ------
    ImportError
        OpenSlide is not installed.
    ValueError
        OpenSlide cannot read the file.
    """
    try:
        import openslide
    except (ImportError, OSError):
        raise ImportError(_MISSING.format(path=path)) from None
    stamp = file_stamp(path)
    try:
        slide = _slide(str(path), stamp)
    except openslide.OpenSlideError as error:
        raise ValueError(f"{path} is no slide that OpenSlide can read ({error}). Convert it to OME-TIFF.") from None
    sizes = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    scale = Scale(float(sizes[0]), float(sizes[1]), "OpenSlide's mpp") if all(sizes) else None
    sizes = enumerate(slide.level_dimensions)
    return [OpenSlideLevel(str(path), i, h, w, (CHUNK, CHUNK), stamp) for i, (w, h) in sizes], scale


@lru_cache(maxsize=16)
def _slide(path: str, stamp: tuple[int, int]):
    import openslide

    return openslide.OpenSlide(path)
