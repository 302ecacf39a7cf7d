"""Micrometres per pixel: what files record, and whether that agrees with what the user says."""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

logger = logging.getLogger("flagst")

#: Micrometres per unit of length, as OME, OME-Zarr and ImageJ write units.
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
#: Coarser resolution tags are a screen's or a printer's (300 dots per inch are 85 um), not a scanner's.
_COARSEST_UM = 20.0
#: A given value may differ from the recorded one by this share before that is worth a warning.
_TOLERANCE = 0.05
#: Pixels may be oblong by this share.
_OBLONG = 0.02


@dataclass(frozen=True)
class Scale:
    """Micrometres per pixel along x and y, and where that is written."""

    x: float
    y: float
    source: str


def from_unit(sizes: Sequence[float], unit: str, *, source: str) -> Scale | None:
    """Pixel sizes x, y, or one for both, in a named unit; None where it is no length or they are not positive."""
    factor = _MICROMETRES.get(unit.strip())
    if factor is None or not all(np.isfinite(size) and size > 0 for size in sizes):
        return None
    return Scale(float(sizes[0]) * factor, float(sizes[-1]) * factor, source)


def from_ome(xml: str, size: tuple[int, int] | None = None) -> Scale | None:
    """``PhysicalSizeX`` and ``PhysicalSizeY`` of the first image of OME metadata, or the first of a width and height.

    Not of the n-th: metadata may name images of which the file has no pixels.
    """
    try:
        elements = ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", xml)).iter()
    except ElementTree.ParseError:
        return None
    found = [element.attrib for element in elements if element.tag.rpartition("}")[2] == "Pixels"]
    if size is not None:
        found = [given for given in found if [given.get(key) for key in ("SizeX", "SizeY")] == [str(n) for n in size]]
    given = {"PhysicalSizeXUnit": "µm"} | (found[0] if found else {})
    given = {"PhysicalSizeY": given.get("PhysicalSizeX"), "PhysicalSizeYUnit": given["PhysicalSizeXUnit"]} | given
    try:
        sizes = [float(given[key]) for key in ("PhysicalSizeX", "PhysicalSizeY")]
    except (KeyError, TypeError, ValueError):
        return None
    source = "OME PhysicalSizeX"
    x, y = (
        from_unit([n], given[f"PhysicalSize{axis}Unit"], source=source) for axis, n in zip("XY", sizes, strict=True)
    )
    return None if x is None or y is None else Scale(x.x, y.x, source)


def from_aperio(description: str) -> Scale | None:
    """``MPP`` in the image description of an SVS."""
    fields = dict(part.split("=", 1) for part in description.split("|") if "=" in part)
    found = {name.strip(): value.strip() for name, value in fields.items()}.get("MPP")
    try:
        return None if found is None else from_unit([float(found)] * 2, "um", source="Aperio MPP")
    except ValueError:
        return None


def from_resolution(per_unit: Sequence[float], unit: int) -> Scale | None:
    """Resolution tags of a TIFF, pixels per inch or centimetre; None where they are those of a screen or printer."""
    if unit not in _RESOLUTION_UNITS or not all(np.isfinite(n) and n > 0 for n in per_unit):
        return None
    x, y = (_RESOLUTION_UNITS[unit] / n for n in per_unit)
    return Scale(x, y, "the TIFF's resolution tags") if max(x, y) <= _COARSEST_UM else None


def from_ngff(multiscales: Mapping) -> Scale | None:
    """Scale of the first dataset of OME-Zarr metadata, where its axes have a unit of length."""
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
        What the user says.
    recorded
        What the file says.
    where
        The file, for messages.

    Raises
    ------
    ValueError
        Neither is known, the given value is not positive, or pixels are not square.

    Warns
    -----
    UserWarning
        Both are known and differ by more than 5 %.
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
