"""TIFF slides as lazy levels. Reading a region decodes only the tiles or strips that overlap it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flagst.io.images import CHUNK, GLASS, rgb_on_glass
from flagst.io.level import SlideLevel, file_stamp
from flagst.io.scale import Scale, from_aperio, from_ome, from_resolution, from_unit

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

#: Compression of Aperio's JPEG 2000 in YCbCr; tifffile does not convert its colours.
_APERIO_YCBCR = 33003
#: Names of a fourth sample that is opacity, in the TIFF specification: premultiplied, and not premultiplied.
_ALPHA = ("ASSOCALPHA", "UNASSALPHA")
_SIDES = {"Y", "X"}
_COLOURS = {"S", "C"}


@dataclass(frozen=True)
class TiffLevel(SlideLevel):
    """One resolution of a TIFF.

    Parameters
    ----------
    series
        Index of the image in the file. Labels and overviews are images too.
    """

    series: int

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Pixels of a region. Only the tiles or strips that overlap it are decoded."""
        return _segments(self.path, self.series, self.level, self.stamp).read(y0, y1, x0, x1)


def tiff_levels(path: Path) -> tuple[list[TiffLevel], Scale | None]:
    """Levels of a TIFF, finest first, and the scale that it records. Nothing is decoded.

    Parameters
    ----------
    path
        Tiled or in strips, with or without a pyramid. OME-TIFF and Aperio's SVS are TIFF too.

    Returns
    -------
    One :class:`TiffLevel` per resolution; and micrometres per pixel, None if the file does not record them.

    Raises
    ------
    TypeError
        Pixels are not uint8.
    ValueError
        The file is not a TIFF; it is grey, has a palette or more than four channels; it has several focal planes or
        time points; or its compression cannot be decoded.
    """
    import tifffile

    stamp = file_stamp(path)
    try:
        tiff = tifffile.TiffFile(path)
    except tifffile.TiffFileError as error:
        raise ValueError(f"{path} is not a TIFF that can be read: {error}.") from None
    with tiff:
        if not tiff.series:
            raise ValueError(f"{path} holds no image.")
        sizes = [_height_width(series) for series in tiff.series]
        largest = max(range(len(sizes)), key=lambda i: (np.prod(sizes[i]), -i))
        series = tiff.series[largest]
        _check_pixels(path, series)
        levels = [
            TiffLevel(str(path), number, *_height_width(level), _best_chunk(level), stamp, largest)
            for number, level in enumerate(series.levels)
        ]
        return levels, _recorded_scale(tiff, largest)


def _height_width(series: "TiffPageSeries") -> tuple[int, int]:
    """Rows and columns; 0 if an axis is missing."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return sizes.get("Y", 0), sizes.get("X", 0)


def _check_pixels(path: Path, series: "TiffPageSeries") -> None:
    """Raise an error unless the pixels are red, green and blue bytes."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    page = series.keyframe
    planes = {axis: n for axis, n in sizes.items() if axis not in _SIDES | _COLOURS and n > 1}
    if planes or not _SIDES <= set(sizes):
        raise ValueError(
            f"{path} has axes {series.axes} of sizes {tuple(series.shape)}; a slide has rows, columns and colours. "
            "Save one focal plane and time point as a TIFF of its own."
        )
    if series.is_multifile:
        raise ValueError(f"{path} is spread over several files. Save it as one TIFF, or as OME-Zarr.")
    n_channels = int(np.prod([n for axis, n in sizes.items() if axis in _COLOURS]))
    kind = page.photometric.name
    if not (n_channels == 3 and kind != "PALETTE" or n_channels == 4 and kind in ("RGB", "YCBCR")):
        raise ValueError(
            f"{path} has {n_channels} channel(s), photometric {kind}, which is not RGBA or RGB. flagst needs H&E in "
            "RGB or RGBA: convert the image, or choose the H&E image of the slide."
        )
    if series.dtype != np.uint8:
        raise TypeError(f"{path} has pixels of type {series.dtype}; flagst needs uint8, 0 to 255. Convert the image.")
    if page.compression == _APERIO_YCBCR:
        raise ValueError(
            f"{path} is compressed as JPEG 2000 in YCbCr (33003), which would be read with wrong colours. "
            'Read it with OpenSlide: pip install "flagst[wsi]", then read_slide(path, reader="openslide").'
        )


def _recorded_scale(tiff: "TiffFile", series: int) -> Scale | None:
    """The recorded pixel size of an image: from the metadata of its format, else from the resolution tags."""
    page, (height, width) = tiff.series[series].keyframe, _height_width(tiff.series[series])
    if tiff.is_ome and (scale := from_ome(tiff.ome_metadata, (width, height))):
        return scale
    if tiff.is_svs and (scale := from_aperio(page.description)):
        return scale
    tags = [page.tags.valueof(name) for name in ("XResolution", "YResolution", "ResolutionUnit")]
    per_unit = [value[0] / value[1] if value and value[1] else 0.0 for value in tags[:2]]
    if tiff.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", ""))
        return from_unit([1 / n if n else 0.0 for n in per_unit], unit, source="ImageJ's pixel size")
    return from_resolution(per_unit, 1 if tags[2] is None else int(tags[2]))


def _best_chunk(level: "TiffPageSeries") -> tuple[int, int]:
    """Rows and columns of a chunk of whole tiles or strips, about ``CHUNK`` squared pixels."""
    page = level.keyframe
    if page.is_tiled:
        return tuple(max(1, round(CHUNK / side)) * side for side in (page.tilelength, page.tilewidth))
    if level.dataoffset is not None:
        return CHUNK, CHUNK
    strip = min(page.rowsperstrip, page.imagelength)
    rows = max(1, round(CHUNK**2 / (page.imagewidth * strip))) * strip
    return min(rows, page.imagelength), page.imagewidth


class _Segments:
    """Positions of the tiles or strips of one level in the file, and how to decode them.

    tifffile's zarr store does the same with less code, but decodes for one thread at a time.
    """

    def __init__(self, path: str, level: "TiffPageSeries"):
        self.path, self.offset = path, level.dataoffset
        self.stored = (tuple(level.shape), level.axes)
        page = level.keyframe
        self.decode, self.size = page.decode, (page.imagelength, page.imagewidth)
        strip = (min(page.rowsperstrip, page.imagelength), page.imagewidth)
        self.step = (page.tilelength, page.tilewidth) if page.is_tiled else strip
        self.header = page.jpegheader
        declared = page.extrasamples[0].name if page.extrasamples else ""
        self.has_alpha, self.premultiplied = declared in _ALPHA, declared == _ALPHA[0]
        # planar configuration 2: each colour has its own tiles; otherwise a tile has all colours
        self.n_planes = page.samplesperpixel if page.planarconfig == 2 else 1
        pages = [] if self.offset is not None else [page for page in level.pages if page is not None]
        self.pages = [(page.dataoffsets, page.databytecounts, page.jpegtables) for page in pages]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Pixels of a region, (y1 - y0, x1 - x0, 3) uint8. Transparent pixels are white."""
        if self.offset is not None:
            return rgb_on_glass(self._mapped()[y0:y1, x0:x1].copy(), premultiplied=self.premultiplied)
        channels = 4 if self.has_alpha else 3
        out = np.full((y1 - y0, x1 - x0, channels), GLASS, np.uint8)  # scanners leave out tiles without tissue
        with open(self.path, "rb") as file:
            for (number, index), channel in self._overlapping(y0, y1, x0, x1):
                offsets, counts, tables = self.pages[number]
                if index >= len(offsets) or not counts[index]:
                    continue
                file.seek(offsets[index])
                self._paste(out, (y0, x0), file.read(counts[index]), index, tables, channel)
        return rgb_on_glass(out, premultiplied=self.premultiplied)

    def _overlapping(self, y0: int, y1: int, x0: int, x1: int) -> Iterator[tuple[tuple[int, int], int | None]]:
        """Page and index of every tile that overlaps a region, and the colour it has; None for all colours."""
        n_rows, n_columns = (-(-size // step) for size, step in zip(self.size, self.step, strict=True))
        lines = range(y0 // self.step[0], -(-y1 // self.step[0]))
        columns = range(x0 // self.step[1], -(-x1 // self.step[1]))
        for number, plane in product(range(len(self.pages)), range(self.n_planes)):
            channel = None if len(self.pages) == self.n_planes == 1 else number + plane
            if channel is not None and channel > (3 if self.has_alpha else 2):
                continue
            for line, column in product(lines, columns):
                yield (number, (plane * n_rows + line) * n_columns + column), channel

    def _paste(self, out: np.ndarray, corner: tuple, data: bytes, index: int, tables, channel: int | None) -> None:
        known = {"jpegtables": tables, "jpegheader": self.header}
        segment, (_, _, y, x, _), _ = self.decode(data, index, **{k: v for k, v in known.items() if v is not None})
        if segment is None:
            return
        segment, y, x = segment[0], y - corner[0], x - corner[1]
        top, left = max(0, -y), max(0, -x)
        part = segment[top : out.shape[0] - y, left : out.shape[1] - x]
        place = np.s_[y + top : y + top + part.shape[0], x + left : x + left + part.shape[1]]
        if channel is None:
            out[place] = part[..., : out.shape[2]]
        else:
            out[(*place, channel)] = part[..., 0]

    def _mapped(self) -> np.ndarray:
        """Uncompressed, contiguous pixels (rows, columns, 3 or 4) as a memory map."""
        shape, axes = self.stored
        pixels = np.memmap(self.path, np.uint8, "r", self.offset, shape)
        colour = next(axis for axis in axes if axis in _COLOURS and shape[axes.index(axis)] > 1)
        pixels = pixels[tuple(slice(None) if axis in f"YX{colour}" else 0 for axis in axes)]
        order = [axis for axis in axes if axis in f"YX{colour}"]
        return pixels.transpose([order.index(axis) for axis in f"YX{colour}"])[..., : 4 if self.has_alpha else 3]


@lru_cache(maxsize=16)
def _segments(path: str, series: int, level: int, stamp: tuple[int, int]) -> _Segments:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        return _Segments(path, tiff.series[series].levels[level])
