"""Micrometres per pixel: read the value that a file records, and compare it with the given one."""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

logger = logging.getLogger("flagst")

#: Unit of length, as OME, OME-Zarr and ImageJ write it -> micrometres.
_MICROMETRES = {
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3,
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "\\u00B5m": 1.0,  # as ImageJ writes it
    "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3,
    "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4,
    "inch": 25400.0, "in": 25400.0,
}  # fmt: skip
#: ``ResolutionUnit`` of a TIFF -> micrometres.
_RESOLUTION_UNITS = {2: 25400.0, 3: 1e4}
#: Coarser resolution tags describe a screen or a printer (300 dots per inch are 85 um), not a scanner.
_COARSEST_UM = 20.0
#: A warning is given if the given value differs from the recorded one by more than this share.
_TOLERANCE = 0.05
#: Width and height of a pixel may differ by this share.
_OBLONG = 0.02


@dataclass(frozen=True)
class Scale:
    """Micrometres per pixel along x and y, and the source of the values."""

    x: float
    y: float
    source: str


def from_unit(sizes: Sequence[float], unit: str, *, source: str) -> Scale | None:
    """From pixel sizes x, y, or one for both, in a unit; None if it is not a length or a size is not positive."""
    factor = _MICROMETRES.get(unit.strip())
    if factor is None or not all(np.isfinite(size) and size > 0 for size in sizes):
        return None
    return Scale(float(sizes[0]) * factor, float(sizes[-1]) * factor, source)


def from_ome(xml: str, size: tuple[int, int] | None = None) -> Scale | None:
    """From ``PhysicalSizeX`` and ``PhysicalSizeY`` of the first image in OME metadata, or the first of the given size.

    Images are matched by width and height, not by index: metadata may list images that are not in the file.
    """
    try:
        elements = ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", xml)).iter()
    except ElementTree.ParseError:
        return None
    images = [element.attrib for element in elements if element.tag.rpartition("}")[2] == "Pixels"]
    if size is not None:
        images = [image for image in images if (image.get("SizeX"), image.get("SizeY")) == tuple(map(str, size))]
    image = images[0] if images else {}
    size_x, unit_x = image.get("PhysicalSizeX"), image.get("PhysicalSizeXUnit", "µm")
    size_y, unit_y = image.get("PhysicalSizeY", size_x), image.get("PhysicalSizeYUnit", unit_x)
    source = "OME PhysicalSizeX"
    try:
        x, y = (from_unit([float(n)], unit, source=source) for n, unit in ((size_x, unit_x), (size_y, unit_y)))
    except (TypeError, ValueError):
        return None
    return None if x is None or y is None else Scale(x.x, y.x, source)


def from_aperio(description: str) -> Scale | None:
    """From ``MPP`` in the image description of an SVS."""
    fields = dict(part.split("=", 1) for part in description.split("|") if "=" in part)
    found = {name.strip(): value.strip() for name, value in fields.items()}.get("MPP")
    try:
        return None if found is None else from_unit([float(found)] * 2, "um", source="Aperio MPP")
    except ValueError:
        return None


def from_resolution(per_unit: Sequence[float], unit: int) -> Scale | None:
    """From the resolution tags of a TIFF, pixels per inch or centimetre; None if they describe a screen or printer."""
    if unit not in _RESOLUTION_UNITS or not all(np.isfinite(n) and n > 0 for n in per_unit):
        return None
    x, y = (_RESOLUTION_UNITS[unit] / n for n in per_unit)
    return Scale(x, y, "the TIFF's resolution tags") if max(x, y) <= _COARSEST_UM else None


def from_ngff(multiscales: Mapping) -> Scale | None:
    """From the first dataset of OME-Zarr metadata; None if its axes have no unit of length."""
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in multiscales.get("axes", [])]
    at = {axis["name"]: row for row, axis in enumerate(axes)}
    if not {"x", "y"} <= set(at):
        return None
    parts = [*multiscales["datasets"][0].get("coordinateTransformations", [])]
    parts += multiscales.get("coordinateTransformations", [])
    factors = np.prod([part["scale"] for part in parts if part.get("type") == "scale"], axis=0)
    if np.ndim(factors) != 1:
        return None
    unit = str(axes[at["x"]].get("unit", ""))
    return from_unit([factors[at["x"]], factors[at["y"]]], unit, source="OME-Zarr's scale")


def settle(given: float | None, recorded: Scale | None, *, where: str) -> float:
    """Micrometres per pixel: the given value, else the recorded one.

    Parameters
    ----------
    given
        Value given by the user.
    recorded
        Value recorded in the file.
    where
        The file, for messages.

    Raises
    ------
    ValueError
        Both are missing, the given value is not positive, or pixels are not square.

    Warns
    -----
    UserWarning
        The two differ by more than 5 %.
    """
    if given is not None and not (np.isfinite(given) and given > 0):
        raise ValueError(f"um_per_px must be a positive number; got {given!r}.")
    if recorded is not None and abs(recorded.x / recorded.y - 1) > _OBLONG:
        raise ValueError(
            f"{where} records pixels of {recorded.x:.4g} x {recorded.y:.4g} um ({recorded.source}); flagst needs "
            "square ones. Resample the image, or correct its metadata."
        )
    if given is None and recorded is None:
        raise ValueError(
            f"{where} does not say how large its pixels are. Pass um_per_px= (--um-per-px), micrometres per "
            "full-resolution pixel: about 0.25 for a scan at 40x, 0.5 at 20x."
        )
    if given is None:
        logger.info("%s: %.4g um per pixel, from %s.", where, recorded.x, recorded.source)
        return recorded.x
    if recorded is not None and abs(given / recorded.x - 1) > _TOLERANCE:
        message = (
            f"um_per_px={given:g} differs from what {where} records, {recorded.x:.4g} ({recorded.source}). "
            "The given value is used."
        )
        warnings.warn(message, UserWarning, stacklevel=4)
    return float(given)
