"""Open slides of any format lazily, with their scale."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from flagst._checks import require_key, require_one_of
from flagst._keys import PARAM, SLOT, UNS, image_element
from flagst.data.patches import image_levels
from flagst.io.images import image_file_levels, image_mode
from flagst.io.level import lazy
from flagst.io.ngff import is_ngff, ngff_levels
from flagst.io.openslide import openslide_levels
from flagst.io.pyramid import pyramid_element
from flagst.io.scale import Scale, settle
from flagst.io.tiff import tiff_levels

if TYPE_CHECKING:
    from spatialdata import SpatialData

READERS = ("auto", "openslide")
_TIFF = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".scn")
_PLAIN = (".png", ".jpg", ".jpeg")
#: Endings of several parts, longest first. The rest of the file name is the name of the section.
_ENDINGS = (".ome.tiff", ".ome.tif", ".ome.zarr")
_COLOUR_MODES = ("RGB", "RGBA", "P")


def read_slide(
    path: str | Path,
    *,
    um_per_px: float | None = None,
    section: str | None = None,
    image_key: str | None = None,
    reader: str = "auto",
) -> "SpatialData":
    """Open the image of a slide lazily, for :func:`flagst.pp.tissue_spots`.

    Parameters
    ----------
    path
        TIFF, OME-TIFF or SVS (tiled or not, with or without a pyramid); OME-Zarr; a SpatialData zarr; PNG or JPEG,
        which are decoded as a whole when they are first used. OpenSlide reads other whole-slide formats. The image
        must be RGB or RGBA of uint8. Transparent pixels become white.
    um_per_px
        Micrometres per full-resolution pixel. By default the value that the file records: ``PhysicalSizeX`` of OME,
        ``MPP`` of Aperio and OpenSlide, the scale of OME-Zarr if it has a unit, or the resolution of a TIFF unless it
        describes a screen or a printer.
    section
        Name of the section; by default the name of the file.
    image_key
        Name of the image in a SpatialData zarr with several images.
    reader
        ``"auto"``; or ``"openslide"``, to read also a TIFF or SVS with OpenSlide.

    Returns
    -------
    SpatialData with the image ``S_image`` of the section S: a lazy pyramid (3, rows, columns) uint8 in the coordinate
    system S. ``attrs["flagst"]["params"]["um_per_px"]`` has micrometres per pixel of S. Missing coarse levels are
    averaged from finer ones when they are read.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ImportError
        The format needs OpenSlide, which is not installed.
    KeyError
        A SpatialData zarr has several images, or no image ``image_key``; or a zarr is no image.
    TypeError
        Pixels are not uint8.
    ValueError
        Micrometres per pixel are neither given nor recorded, or are not positive; pixels are not square; the image is
        not RGB; the file cannot be read; the section name cannot name an element; or the reader is unknown.

    Warns
    -----
    UserWarning
        ``um_per_px`` differs from the value that the file records by more than 5 %.

    Examples
    --------
    >>> from PIL import Image
    >>> Image.fromarray(np.full((300, 400, 3), 255, dtype=np.uint8)).save("case_7.png")
    >>> slide = flagst.io.read_slide("case_7.png", um_per_px=0.5)
    >>> list(slide.images), slide.attrs["flagst"]["params"]["um_per_px"]
    (['case_7_image'], {'case_7': 0.5})
    """
    from spatialdata import SpatialData

    path = Path(path).resolve()
    require_one_of(reader, READERS, name="reader")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    name = _section_name(path, section, image_key)
    levels, recorded = _open(path, image_key, reader)
    scale = settle(um_per_px, recorded, where=path.name)
    return SpatialData(
        images={image_element(name): pyramid_element(levels, name)},
        attrs={UNS.flagst: {SLOT.params: {PARAM.um_per_px: {name: scale}}}},
    )


def _section_name(path: Path, section: str | None, image_key: str | None) -> str:
    """The given name; else the name of the image or file, with characters replaced that an element cannot have."""
    if section is not None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", section):
            raise ValueError(f"section={section!r} cannot name an element; use letters, digits, '_', '-' and '.' only.")
        return section
    ending = next((e for e in _ENDINGS if path.name.lower().endswith(e)), path.suffix)
    name = image_key.removesuffix("_image") if image_key else path.name[: len(path.name) - len(ending)]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name) or "slide"


def _open(path: Path, image_key: str | None, reader: str) -> tuple[list, Scale | None]:
    """Levels (3, rows, columns) uint8 as dask arrays, and the recorded scale."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_zarr(path, image_key)
    if suffix in _PLAIN:
        mode = image_mode(path)
        if mode not in _COLOUR_MODES:
            raise ValueError(f"{path} is an image of mode {mode}; flagst needs RGB or RGBA of 8 bits. Convert it.")
        return [lazy(level) for level in image_file_levels(path)], None
    levels, scale = tiff_levels(path) if suffix in _TIFF and reader == "auto" else openslide_levels(path)
    return [lazy(level) for level in levels], scale


def _open_zarr(path: Path, image_key: str | None) -> tuple[list, Scale | None]:
    """An OME-Zarr image, or one of a SpatialData."""
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is a folder but no zarr group: {error}.") from None
    if "images" in group and not is_ngff(group):
        return _of_spatialdata(path, image_key)
    levels, scale = ngff_levels(path, group)
    return [lazy(level) for level in levels], scale


def _of_spatialdata(path: Path, image_key: str | None) -> tuple[list, Scale | None]:
    """One image of a SpatialData, and its scale, from the attributes or from a table."""
    import spatialdata

    sdata = spatialdata.read_zarr(path)
    if image_key is None and len(sdata.images) != 1:
        raise KeyError(f"{path} has {len(sdata.images)} images: {sorted(sdata.images)}. Name one with image_key=.")
    key = next(iter(sdata.images)) if image_key is None else image_key
    require_key(sdata.images, key, where=f"images of {path}", hint="Name one of them with image_key=.")
    slots = [sdata.attrs, *(table.uns for table in sdata.tables.values())]
    known = [slot.get(UNS.flagst, {}).get(SLOT.params, {}).get(PARAM.um_per_px, {}) for slot in slots]
    scale = next((float(of[name]) for of in known for name in of if image_element(name) == key), None)
    levels = [level.pixels for level in image_levels(sdata.images[key])]
    return levels, None if scale is None else Scale(scale, scale, "its own record")
