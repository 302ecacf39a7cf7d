"""Place spots on the tissue of slides that have no expression."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_key, require_one_of
from flagst._keys import LIBRARY, OBS, OBSM, PARAM, SLOT, TABLE, UNS, image_element, shapes_element
from flagst.data.patches import image_levels, thumbnail
from flagst.pp._stain import Overview

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger("flagst")

GRIDS = ("hex", "square")
#: Longest side, in pixels, of the image on which tissue is found, and of the image that plots show.
OVERVIEW_PX, HIRES_PX = 2000, 1000
# Otsu's threshold between glass and tissue is limited to the optical densities of pale tissue. In a section full of
# nuclei the method would otherwise separate the nuclei from everything else.
_DENSITIES = 0.05, 0.15
# Standard deviation of the smoothing before that, in pitches. It joins nuclei and the gaps between them.
_SMOOTH = 0.1
# Specks and holes smaller than this many squared pitches are ignored.
_SPECK = 4.0


def tissue_spots(
    sdata: "SpatialData",
    pitch_um: float,
    *,
    um_per_px: float | Mapping[str, float] | None = None,
    sections: str | Sequence[str] | None = None,
    layout: str = "hex",
    spot_diameter_um: float | None = None,
    least_tissue: float = 0.5,
    table_key: str = TABLE,
) -> None:
    """Place a grid of spots on the tissue of images without expression, for :meth:`flagst.FLAG.predict`.

    Tissue is what is darker than empty glass on a small version of the image: its optical density is above Otsu's
    threshold, small specks are removed, and holes are filled. Pen marks and folds are dark too. Remove such spots
    afterwards.

    Parameters
    ----------
    sdata
        SpatialData with an image ``S_image`` for every section S.
    pitch_um
        Distance between neighbouring spots, micrometres. Use that of the training sections.
    um_per_px
        Micrometres per full-resolution pixel: one number, or one per section. By default the value that
        :func:`flagst.io.read_slide` recorded.
    sections
        Names S of the sections; by default all that have an image.
    layout
        ``"hex"`` (as Visium) or ``"square"``.
    spot_diameter_um
        Diameter of a spot, micrometres; by default half the pitch.
    least_tissue
        Smallest share of a spot that must be tissue, in (0, 1].
    table_key
        Name of the new table.

    Writes
    ------
    ``sdata.shapes["S_spots"]``
        Circles, full-resolution pixels.
    ``sdata.tables[table_key]``
        A table without genes and without X. ``obs``: ``section``, ``region``, ``spot_id``, ``array_row`` and
        ``array_col``. ``obsm["spatial"]``: (n_spots, 2) float64, x then y, full-resolution pixels.
        ``uns["spatial"][S]``: a small image. ``uns["flagst"]["params"]``: micrometres per pixel and layout of each
        section.

    Raises
    ------
    KeyError
        A section has no image, or no micrometres per pixel.
    ValueError
        A length is not positive, the layout is unknown, ``least_tissue`` is out of range, the SpatialData already has a
        table or shapes of that name, an image has no tissue or is not RGB, or the pitch is below two pixels.
    TypeError
        An image is not uint8.

    Source
    ------
    Threshold: Otsu, IEEE Trans. Syst. Man Cybern. 1979, limited to optical densities of 0.05 to 0.15.

    Examples
    --------
    >>> del sdata.tables["table"], sdata.shapes["S1_spots"]
    >>> flagst.pp.tissue_spots(sdata, 100, um_per_px=1.0, sections="S1")
    >>> sdata["table"].obsm["spatial"].shape == (sdata["table"].n_obs, 2)
    True
    >>> list(sdata["table"].uns["spatial"])
    ['S1']
    """
    require_one_of(layout, GRIDS, name="layout")
    diameter_um = pitch_um / 2 if spot_diameter_um is None else spot_diameter_um
    for name, value in (("pitch_um", pitch_um), ("spot_diameter_um", diameter_um)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive length in micrometres; got {value!r}.")
    if not 0 < least_tissue <= 1:
        raise ValueError(f"least_tissue must be above 0 and at most 1; got {least_tissue!r}.")
    names = _sections(sdata, sections)
    for element, where in [(table_key, sdata.tables), *((shapes_element(name), sdata.shapes) for name in names)]:
        if element in where:
            raise ValueError(f"The SpatialData has {element!r} already. Delete it first, or choose other sections.")
    scales = _scales(sdata, names, um_per_px)
    found = {}
    for name in names:
        levels = image_levels(sdata.images[image_element(name)])
        found[name] = _lay(name, levels, pitch_um / scales[name], diameter_um / scales[name], layout, least_tissue)
        logger.info("Placed %d spots on the tissue of %s.", len(found[name][0]), name)
    _write(sdata, found, scales, diameter_um, layout, table_key)


def _sections(sdata: "SpatialData", sections: str | Sequence[str] | None) -> list[str]:
    there = [key.removesuffix("_image") for key in sdata.images if key == image_element(key.removesuffix("_image"))]
    hint = f"Name images S_image, S the section: sdata.images['slide_image'] = ...; found {sorted(sdata.images)}."
    if sections is None:
        if not there:
            raise KeyError(f"There is no image to place spots on. {hint}")
        return there
    names = [sections] if isinstance(sections, str) else [str(name) for name in sections]
    for name in names:
        require_key(sdata.images, image_element(name), where="sdata.images", hint=hint)
    return names


def _scales(sdata: "SpatialData", names: list[str], um_per_px: float | Mapping[str, float] | None) -> dict[str, float]:
    """Micrometres per pixel of every section: the given ones, else those that :func:`flagst.io.read_slide` recorded."""
    if um_per_px is None:
        um_per_px = sdata.attrs.get(UNS.flagst, {}).get(SLOT.params, {}).get(PARAM.um_per_px, {})
    known = um_per_px if isinstance(um_per_px, Mapping) else dict.fromkeys(names, um_per_px)
    for name in names:
        require_key(known, name, where="um_per_px", hint="Give one number, or one per section.")
        if not (np.isfinite(known[name]) and known[name] > 0):
            raise ValueError(f"um_per_px of {name!r} must be positive; got {known[name]!r}.")
    return {name: float(known[name]) for name in names}


def _lay(name: str, levels: list, pitch: float, diameter: float, layout: str, least_tissue: float):
    """Centres (n_spots, 2) and grid positions (n_spots, 2) of the spots on tissue; a small image and its factor."""
    if pitch < 2:
        raise ValueError(f"A pitch of {pitch:.2f} pixels on {name!r} is below two. Is um_per_px right?")
    small = thumbnail(levels, OVERVIEW_PX)
    height, width = levels[0].pixels.shape[1:]
    factor = small.shape[1] / width
    share = _tissue_share(small, factor, pitch, diameter)
    centres, index = _grid(width, height, pitch, layout)
    x, y = np.minimum((centres * factor).astype(int), np.array(small.shape[1::-1]) - 1).T
    kept = share[y, x] >= least_tissue
    if not kept.any():
        raise ValueError(f"No tissue was found on {name!r}: nothing is darker than the background.")
    stride = int(np.ceil(max(small.shape[:2]) / HIRES_PX))
    hires = np.ascontiguousarray(small[::stride, ::stride])
    return centres[kept], index[kept], hires, hires.shape[1] / width


def _tissue_share(small: np.ndarray, factor: float, pitch: float, diameter: float) -> np.ndarray:
    """Share of tissue, (rows, columns) in [0, 1], in a spot around every pixel of a small image."""
    from scipy import ndimage
    from scipy.signal import fftconvolve
    from skimage.filters import threshold_otsu

    density = ndimage.gaussian_filter(Overview.of(small, factor).density, max(1.0, _SMOOTH * pitch * factor))
    if np.ptp(density) < _DENSITIES[0]:
        return np.zeros(density.shape)
    tissue = density > np.clip(threshold_otsu(density), *_DENSITIES)
    speck = int(_SPECK * (pitch * factor) ** 2)
    tissue = ~_without_specks(~_without_specks(tissue, speck), speck)
    radius = diameter * factor / 2
    reach = np.arange(-np.floor(radius), np.floor(radius) + 1)
    disc = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(float)
    # rounded, because the Fourier transform leaves errors in the last digits
    return np.round(fftconvolve(tissue.astype(float), disc / disc.sum(), mode="same"), 6)


def _without_specks(mask: np.ndarray, least: int) -> np.ndarray:
    """A mask without connected parts of fewer than ``least`` pixels."""
    from scipy import ndimage

    part, _ = ndimage.label(mask)
    large = np.bincount(part.ravel()) >= least
    large[0] = False
    return large[part]


def _grid(width: int, height: int, pitch: float, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2), x then y, of a grid over the whole image, and their rows and columns (n, 2)."""
    step = pitch * (np.sqrt(3) / 2 if layout == "hex" else 1.0)
    rows, columns = (np.arange(int(max(0, n - pitch) // d) + 1) for n, d in ((height, step), (width, pitch)))
    row, column = (values.ravel() for values in np.meshgrid(rows, columns, indexing="ij"))
    shift = 0.5 * (row % 2) if layout == "hex" else 0.0
    centres = np.column_stack([(column + 0.5 + shift) * pitch, 0.5 * pitch + row * step])
    inside = (centres[:, 0] < width) & (centres[:, 1] < height)
    return centres[inside], np.column_stack([row, column])[inside]


def _write(sdata: "SpatialData", found: dict, scales: dict, diameter_um: float, layout: str, table_key: str) -> None:
    import pandas as pd
    from anndata import AnnData
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import get_transformation

    tables, shapes, libraries = [], {}, {}
    for name, (centres, index, hires, factor) in found.items():
        spots = pd.Index([f"{name}_{row}x{column}" for row, column in index])
        element, diameter = shapes_element(name), diameter_um / scales[name]
        shapes[element] = ShapesModel.parse(
            centres,
            geometry=0,
            radius=diameter / 2,
            index=spots,
            transformations=get_transformation(sdata.images[image_element(name)], get_all=True),
        )
        columns = {OBS.section: name, OBS.region: element, OBS.spot_id: spots.to_numpy(dtype=object)}
        columns |= {OBS.array_row: index[:, 0], OBS.array_col: index[:, 1]}
        tables.append(pd.DataFrame(columns, index=spots))
        scale = {LIBRARY.spot_diameter: float(diameter), LIBRARY.hires_scale: float(factor)}
        libraries[name] = {LIBRARY.images: {LIBRARY.hires: hires}, LIBRARY.scalefactors: scale}
    obs = pd.concat(tables)
    for column in (OBS.section, OBS.region):
        obs[column] = pd.Categorical(obs[column])
    params = {PARAM.um_per_px: scales, PARAM.layout: dict.fromkeys(found, layout)}
    table = AnnData(
        obs=obs,
        var=pd.DataFrame(index=pd.Index([], dtype=str)),
        obsm={OBSM.spatial: np.concatenate([centres for centres, *_ in found.values()])},
        uns={UNS.spatial: libraries, UNS.flagst: {SLOT.params: params}},
    )
    parsed = TableModel.parse(table, region=list(shapes), region_key=OBS.region, instance_key=OBS.spot_id)
    sdata.shapes.update(shapes)
    sdata.tables[table_key] = parsed
