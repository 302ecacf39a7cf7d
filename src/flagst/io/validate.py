"""Check that an object has the SpatialData structure of flagst."""

import logging
import re
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_counts, require_finite, require_key, require_unique
from flagst._keys import LIBRARY, OBS, OBSM, PARAM, SLOT, TABLE, UNS, image_element, shapes_element

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

logger = logging.getLogger("flagst")

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_BUILD = "Build the object with flagst.io.build_sdata, or add it yourself."
_PARAMS = f'adata.uns["{UNS.flagst}"]["{SLOT.params}"]'
#: Coordinates are probably swapped if swapping x and y moves more than this share of the spots onto tissue.
_SWAP_GAIN = 0.1


def check(
    sdata: "SpatialData",
    table_key: str = TABLE,
    *,
    section_key: str = OBS.section,
    require_images: bool = False,
) -> None:
    """Check that an object has the structure described in :func:`flagst.io.build_sdata`. It is not modified.

    Parameters
    ----------
    sdata
        SpatialData to check, with positions ``(n_spots, 2)`` in ``obsm["spatial"]`` and counts ``(n_spots, n_genes)``
        in X. A table without X (a slide without expression) is accepted; its counts are not checked.
    table_key
        Name of the table.
    section_key
        Column of ``obs`` with the section names.
    require_images
        Raise an error if a section has no full-resolution image, even if it has a small one for plots. By default a
        warning is logged.

    Raises
    ------
    KeyError
        A table, column, array, element or coordinate system is missing.
    TypeError
        ``sdata`` is not a SpatialData.
    ValueError
        Names are repeated, or a section name cannot name an element; counts are negative, not integers or not finite;
        spots have no counts; total counts are missing or below the row sums; a section has one spot; the table and the
        shapes have different spots or positions; coordinates lie outside the image, for example because x and y are
        swapped; or micrometres per pixel are not positive.

    Examples
    --------
    >>> flagst.io.check(sdata, require_images=True)
    >>> del sdata.shapes["S1_spots"]
    >>> flagst.io.check(sdata)
    Traceback (most recent call last):
        ...
    KeyError: "sdata.shapes has no 'S1_spots'; found ['S2_spots', 'S3_spots']. ...
    """
    from spatialdata import SpatialData

    if not isinstance(sdata, SpatialData):
        raise TypeError(f"flagst.io.check needs a SpatialData; got {type(sdata).__name__}. {_BUILD}")
    require_key(sdata.tables, table_key, where="sdata.tables", hint=_BUILD)
    adata = sdata.tables[table_key]
    _check_names(adata, section_key)
    _check_counts(adata)
    for section in adata.obs[section_key].unique():
        rows = np.flatnonzero(adata.obs[section_key] == section)
        _check_spots(sdata, adata, section, rows)
        _check_scale(adata, section)
        _check_image(sdata, adata, section, rows, require_images)


def _check_names(adata: "AnnData", section_key: str) -> None:
    counted = () if adata.X is None else (OBS.total_counts,)
    for key in (section_key, *counted, OBS.region, OBS.spot_id):
        require_key(adata.obs, key, where="adata.obs", hint=_BUILD)
    require_key(adata.obsm, OBSM.spatial, where="adata.obsm", hint="Store x, y in pixels there.")
    require_unique(adata.obs_names, where="adata.obs_names", hint="Prefix them with the section name.")
    require_unique(adata.var_names, where="adata.var_names", hint="Call adata.var_names_make_unique() first.")
    coords = np.asarray(adata.obsm[OBSM.spatial])
    if coords.shape != (adata.n_obs, 2):
        raise ValueError(
            f"adata.obsm[{OBSM.spatial!r}] has shape {coords.shape}; expected {(adata.n_obs, 2)}, "
            "x then y in full-resolution pixels."
        )
    hint = "Remove these spots or give them a position."
    require_finite(coords, where=f"adata.obsm[{OBSM.spatial!r}]", hint=hint)
    if adata.n_obs == 0:
        raise ValueError("The table has no spots.")

    labels = adata.obs[section_key]
    if labels.isna().any():
        raise ValueError(f"adata.obs[{section_key!r}] is empty for {int(labels.isna().sum())} spots.")
    sizes = labels.astype(str).value_counts()
    unfit = [name for name in sizes.index if not _NAME.fullmatch(name)]
    if unfit:
        raise ValueError(
            f"Section names {unfit} cannot name SpatialData elements (a space or ':' for example). "
            "Use letters, digits, '_', '-' and '.' only."
        )
    single = sorted(sizes.index[sizes == 1])
    if single:
        raise ValueError(f"Sections {single} have one spot; a section needs two at least. Remove them first.")


def _check_counts(adata: "AnnData") -> None:
    if adata.X is None:
        return
    totals = adata.obs[OBS.total_counts].to_numpy(dtype=float)
    where = f"adata.obs[{OBS.total_counts!r}]"
    require_counts(adata.X, where="adata.X")
    require_finite(totals, where=where, hint="Store counts over all genes there, before any subsetting.")
    sums = np.asarray(adata.X.sum(axis=1), dtype=np.float64).ravel()
    empty = adata.obs_names[(sums == 0) & (totals == 0)]
    if len(empty):
        raise ValueError(f"{len(empty)} of {adata.n_obs} spots have no counts: {_some(empty)}. Remove them first.")
    short = adata.obs_names[totals < sums * (1 - 1e-6)]
    if len(short):
        raise ValueError(
            f"{where} is smaller than the row sum in {len(short)} of {adata.n_obs} spots: {_some(short)}. "
            "It must hold the counts over all genes, stored before any subsetting."
        )
    silent = np.flatnonzero(np.asarray(adata.X.sum(axis=0)).ravel() == 0)
    if len(silent):  # allowed: they may be on the panel of another section
        logger.warning("%d genes have no counts: %s.", len(silent), _some(adata.var_names[silent]))


def _check_spots(sdata: "SpatialData", adata: "AnnData", section: str, rows: np.ndarray) -> None:
    element = shapes_element(section)
    require_key(sdata.shapes, element, where="sdata.shapes", hint=_BUILD)
    if section not in sdata.coordinate_systems:
        raise KeyError(
            f"sdata has no coordinate system {section!r}; found {sorted(sdata.coordinate_systems)}. "
            f"The elements of a section need a coordinate system with the name of the section. {_BUILD}"
        )
    obs = adata.obs.iloc[rows]
    elsewhere = obs.index[obs[OBS.region].astype(str) != element]
    if len(elsewhere):
        raise ValueError(
            f"adata.obs[{OBS.region!r}] must be {element!r} for section {section!r}; it is not for "
            f"{len(elsewhere)} spots: {_some(elsewhere)}."
        )
    renamed = obs.index[obs[OBS.spot_id].astype(str) != obs.index.astype(str)]
    if len(renamed):
        raise ValueError(
            f"adata.obs[{OBS.spot_id!r}] must equal adata.obs_names; it does not for {len(renamed)} spots of "
            f"section {section!r}: {_some(renamed)}."
        )
    shapes = sdata.shapes[element]
    require_unique(shapes.index, where=f"spots of sdata.shapes[{element!r}]", hint="Name each spot once.")
    lone_rows, lone_shapes = obs.index.difference(shapes.index), shapes.index.difference(obs.index)
    if len(lone_rows) or len(lone_shapes):
        raise ValueError(
            f"Section {section!r}: {len(lone_rows)} spots of the table are not in sdata.shapes[{element!r}] "
            f"({_some(lone_rows)}); {len(lone_shapes)} shapes are not in the table ({_some(lone_shapes)}). "
            "The shapes' index must hold the same names as adata.obs_names."
        )
    centres = shapes.geometry.loc[obs.index].centroid
    coords = np.asarray(adata.obsm[OBSM.spatial])[rows]
    apart = np.abs(np.stack([centres.x, centres.y], axis=1) - coords).max(axis=1) > 1
    if apart.any():
        raise ValueError(
            f"Section {section!r}: sdata.shapes[{element!r}] and adata.obsm[{OBSM.spatial!r}] place "
            f"{apart.sum()} spots more than a pixel apart: {_some(obs.index[apart])}. "
            "Both are x, y in full-resolution pixels."
        )


def _check_scale(adata: "AnnData", section: str) -> None:
    params = adata.uns.get(UNS.flagst, {}).get(SLOT.params, {})
    for key in (PARAM.um_per_px, PARAM.layout):
        require_key(params, key, where=_PARAMS, hint=_BUILD)
        require_key(params[key], section, where=f'{_PARAMS}["{key}"]', hint=_BUILD)
    um_per_px = params[PARAM.um_per_px][section]
    if not (np.isfinite(um_per_px) and um_per_px > 0):
        raise ValueError(f'{_PARAMS}["{PARAM.um_per_px}"][{section!r}] is {um_per_px}; it must be positive.')


def _check_image(sdata: "SpatialData", adata: "AnnData", section: str, rows: np.ndarray, require_images: bool) -> None:
    element = image_element(section)
    slot = adata.uns.get(UNS.spatial, {}).get(section, {})
    coords = np.asarray(adata.obsm[OBSM.spatial])[rows]
    if element in sdata.images:
        _check_inside(_image_shape(sdata.images[element]), coords, adata.obs_names[rows], section)
    elif require_images:
        require_key(sdata.images, element, where="sdata.images", hint=f"Section {section!r} needs its image.")
    else:
        logger.warning("Section %r has no image; it cannot be used for image features.", section)
    if LIBRARY.images in slot:
        _warn_if_off_tissue(slot, coords, section)


def _check_inside(shape: tuple[int, int], coords: np.ndarray, names: "pd.Index", section: str) -> None:
    height, width = shape
    outside = _outside(coords, width, height)
    if not outside.any():
        return
    if not _outside(coords[:, ::-1], width, height).any():
        advice = f"With x and y swapped all are inside: swap the columns of adata.obsm[{OBSM.spatial!r}]."
    else:
        advice = "Coordinates must be full-resolution pixels, x (column) then y (row)."
    raise ValueError(
        f"Section {section!r}: {outside.sum()} of {len(coords)} spots lie outside the image, {width} "
        f"pixels wide and {height} high: {_some(names[outside])}. {advice}"
    )


def _warn_if_off_tissue(slot: dict, coords: np.ndarray, section: str) -> None:
    """Detect swapped x and y: on a nearly square image such spots lie inside the image, but off the tissue."""
    hires = np.asarray(slot[LIBRARY.images][LIBRARY.hires])
    factor = slot[LIBRARY.scalefactors][LIBRARY.hires_scale]
    given, swapped = on_tissue(hires, coords * factor), on_tissue(hires, coords[:, ::-1] * factor)
    if swapped.mean() > given.mean() + _SWAP_GAIN:
        logger.warning(
            "Section %r: %.0f %% of the spots lie on tissue, but %.0f %% would with x and y swapped.",
            section, 100 * given.mean(), 100 * swapped.mean(),
        )  # fmt: skip


def on_tissue(image: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """Positions on pixels that are darker than the background of the slide.

    Parameters
    ----------
    image
        (rows, columns, 3) uint8, 0 to 255.
    coords
        (n_spots, 2) float, x then y, pixels of ``image``. Positions outside the image are background.

    Returns
    -------
    (n_spots,) bool. The background is the 95th percentile of the green channel, in which both stains are dark. Tissue
    is at least 5 % darker.
    """
    green = image[..., 1]
    rounded = np.floor(coords).astype(int)
    inside = ~_outside(coords, green.shape[1], green.shape[0])
    dark = np.zeros(len(coords), dtype=bool)
    dark[inside] = green[rounded[inside, 1], rounded[inside, 0]] < 0.95 * np.percentile(green, 95)
    return dark


def _outside(coords: np.ndarray, width: int, height: int) -> np.ndarray:
    return ((coords < 0) | (coords >= [width, height])).any(axis=1)


def _image_shape(element) -> tuple[int, int]:
    """Height and width of an image element at full resolution; single-scale or multiscale."""
    array = element if hasattr(element, "dims") and hasattr(element, "shape") else element["scale0"]["image"]
    return array.sizes["y"], array.sizes["x"]


def _some(names, n: int = 5) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "") if names else "none"
