"""Convert bins and cells, as the readers of spatialdata-io return them, to the structure that flagst uses."""

import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_key
from flagst._keys import OBS, OBSM, TABLE
from flagst.data.patches import image_levels
from flagst.io.build import Section, build_sdata
from flagst.io.pyramid import with_coarse_levels

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

logger = logging.getLogger("flagst")

#: Shapes of spatialdata-io's Xenium reader: in micrometres, with a transformation to pixels of the morphology image.
_XENIUM_SHAPES = ("cell_circles", "cell_boundaries", "nucleus_boundaries")
_GLOBAL = "global"
#: Diameter of a cell if the table has no areas, micrometres.
_CELL_UM = 10.0
_FEATURE_TYPES, _EXPRESSION = "feature_types", "Gene Expression"
_IN_TISSUE, _CELL_AREA = "in_tissue", "cell_area"


def from_visium_hd(
    data: "SpatialData | Mapping[str, SpatialData]",
    *,
    bin_um: int = 8,
    section: str | None = None,
    image_key: str | None = None,
    table_key: str = TABLE,
) -> "SpatialData":
    """Convert Visium HD data, as returned by ``spatialdata_io.visium_hd``: the bins become spots.

    Parameters
    ----------
    data
        One capture area; or several, as a mapping from section name to SpatialData. Read them with
        ``fullres_image_file``, because bins are too small for the small images.
    bin_um
        Side of the bins, micrometres: 8 or 16. Bins of 2 um exist, but have very few counts.
    section
        Name of the section; by default the name of the data set. Only for one capture area.
    image_key
        Name of the full-resolution H&E image; by default the one that ends in ``_full_image``.
    table_key
        Name of the new table.

    Returns
    -------
    SpatialData as described in :func:`flagst.io.build_sdata`: square layout, (n_spots, n_genes) counts of genes only,
    and spots as wide as a bin. Bins without counts, off the tissue or off the image are left out. ``data`` is not
    modified, and its image is shared.

    Raises
    ------
    KeyError
        A table such as ``square_008um``, its shapes, its coordinates, or the full-resolution image is missing.
    ValueError
        No bin is left, the image is not RGB, or ``section`` is given for several capture areas.
    TypeError
        The image is not uint8.

    Examples
    --------
    >>> hd = spatialdata_io.visium_hd("outs", fullres_image_file="slide.btf")  # doctest: +SKIP
    >>> sdata = flagst.io.from_visium_hd(hd, bin_um=16)  # doctest: +SKIP
    """
    return _join(data, section, table_key, lambda sdata, name: _bins(sdata, name, bin_um, image_key))


def from_xenium(
    data: "SpatialData | Mapping[str, SpatialData]",
    *,
    image_key: str = "he_image",
    section: str | None = None,
    table_key: str = TABLE,
) -> "SpatialData":
    """Convert Xenium data, as returned by ``spatialdata_io.xenium``: the cells become spots.

    Parameters
    ----------
    data
        One region; or several, as a mapping from section name to SpatialData. It needs the H&E image, aligned to the
        morphology image. The reader loads aligned images from the output folder, and
        ``spatialdata_io.xenium_aligned_image`` reads one from a file.
    image_key
        Name of the H&E image. The morphology images are fluorescence images and cannot be used.
    section
        Name of the section; by default ``"xenium"``. Only for one region.
    table_key
        Name of the new table.

    Returns
    -------
    SpatialData as described in :func:`flagst.io.build_sdata`: irregular layout, (n_spots, n_genes) counts of genes
    only, and pixels of the H&E image. Each cell is a circle around its centroid with the area of the median cell.
    Cells without counts or off the image are left out. ``data`` is not modified, and its image is shared.

    Raises
    ------
    KeyError
        The table, its coordinates, the H&E image, or shapes that relate micrometres to pixels are missing.
    ValueError
        No cell is left, the image shares no coordinate system with the cells or is not RGB, or ``section`` is given for
        several regions.
    TypeError
        The image is not uint8.

    Examples
    --------
    >>> xenium = spatialdata_io.xenium("outs")  # doctest: +SKIP
    >>> sdata = flagst.io.from_xenium({"tumour": xenium})  # doctest: +SKIP
    """
    return _join(data, section, table_key, lambda sdata, name: _cells(sdata, name, image_key))


def _join(data, section: str | None, table_key: str, convert: Callable) -> "SpatialData":
    if not isinstance(data, Mapping):
        return build_sdata([convert(data, section)], table_key=table_key)
    if section is not None:
        raise ValueError(f"section={section!r} names one section; the keys of data name {sorted(data)} already.")
    return build_sdata([convert(sdata, name) for name, sdata in data.items()], table_key=table_key)


def _bins(sdata: "SpatialData", name: str | None, bin_um: int, image_key: str | None) -> Section:
    """The bins of one capture area, of one size."""
    key = f"square_{bin_um:03d}um"
    require_key(sdata.tables, key, where="sdata.tables", hint="Choose bin_um= among the bins that were read.")
    table = sdata.tables[key]
    shapes_key = next((shapes for shapes in sdata.shapes if shapes.endswith(key)), key)
    require_key(sdata.shapes, shapes_key, where="sdata.shapes", hint="They give the size of a bin on the image.")
    dataset = shapes_key.removesuffix(key).rstrip("_") or "visium_hd"
    hint = "Read with visium_hd(..., fullres_image_file=...), or name the image with image_key=."
    image_key = image_key or f"{dataset}_full_image"
    require_key(sdata.images, image_key, where="sdata.images", hint=hint)
    bins = sdata.shapes[shapes_key]
    side = 2 * bins["radius"].median() if "radius" in bins else np.sqrt(bins.geometry.area.median())
    require_key(
        table.obsm, OBSM.spatial, where=f"sdata.tables[{key!r}].obsm", hint="Read with spatialdata_io.visium_hd."
    )
    kept = np.asarray(table.obs[_IN_TISSUE]) == 1 if _IN_TISSUE in table.obs else True
    coords, image = np.asarray(table.obsm[OBSM.spatial], dtype=float), sdata.images[image_key]
    geometry = {"diameter_px": side, "um_per_px": bin_um / side, "layout": "square"}
    return _section(_element_name(name or dataset), table, coords, image, kept=kept, **geometry)


def _cells(sdata: "SpatialData", name: str | None, image_key: str) -> Section:
    """The cells of one region."""
    from spatialdata.transformations import get_transformation

    require_key(sdata.tables, TABLE, where="sdata.tables", hint="Read with spatialdata_io.xenium.")
    hint = "Read the aligned H&E with spatialdata_io.xenium_aligned_image, or name it with image_key=."
    require_key(sdata.images, image_key, where="sdata.images", hint=hint)
    table, image = sdata.tables[TABLE], sdata.images[image_key]
    known = next((key for key in _XENIUM_SHAPES if key in sdata.shapes), _XENIUM_SHAPES[0])
    require_key(sdata.shapes, known, where="sdata.shapes", hint="Read cells or their boundaries as shapes.")
    steps = [get_transformation(element, get_all=True) for element in (sdata.shapes[known], image)]
    if not all(_GLOBAL in step for step in steps):
        raise ValueError(f"Cells and the image {image_key!r} share no coordinate system {_GLOBAL!r}; align the image.")
    to_global, of_image = (step[_GLOBAL].to_affine_matrix(("x", "y"), ("x", "y")) for step in steps)
    to_pixels = np.linalg.inv(of_image) @ to_global
    require_key(table.obsm, OBSM.spatial, where="The table's obsm", hint="Read with spatialdata_io.xenium.")
    coords = np.asarray(table.obsm[OBSM.spatial], dtype=float) @ to_pixels[:2, :2].T + to_pixels[:2, 2]
    um_per_px = 1 / np.sqrt(abs(np.linalg.det(to_pixels[:2, :2])))
    area = np.asarray(table.obs[_CELL_AREA], dtype=float) if _CELL_AREA in table.obs else np.array([])
    diameter_um = 2 * np.sqrt(np.nanmedian(area) / np.pi) if np.isfinite(area).any() else _CELL_UM
    geometry = {"diameter_px": diameter_um / um_per_px, "um_per_px": um_per_px, "layout": "irregular"}
    return _section(_element_name(name or "xenium"), table, coords, image, **geometry)


def _section(
    name: str,
    table: "AnnData",
    coords: np.ndarray,
    image,
    *,
    kept: np.ndarray | bool = True,
    diameter_px: float,
    um_per_px: float,
    layout: str,
) -> Section:
    """A section of the spots that have counts and lie on the image; features that are not genes are left out."""
    genes = np.ones(table.n_vars, bool)
    if _FEATURE_TYPES in table.var:
        genes = (table.var[_FEATURE_TYPES].astype(str) == _EXPRESSION).to_numpy()
    counts = table.X[:, genes]
    totals = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    levels = with_coarse_levels([level.pixels for level in image_levels(image)])
    height, width = levels[0].shape[1:]
    inside = ((coords >= 0) & (coords < [width, height])).all(axis=1)
    left = kept & inside & (totals > 0)
    if not left.any():
        raise ValueError(
            f"Section {name!r}: of {len(left)} spots {int((totals > 0).sum())} have counts and {int(inside.sum())} lie "
            f"on the image of {width} x {height} pixels; none is left. Is the image the one the table was aligned to?"
        )
    if not left.all():
        logger.warning(
            "Section %r: left out %d of %d spots: %d without counts, %d off the image, the others off the tissue.",
            name, int((~left).sum()), len(left), int((totals == 0).sum()), int((~inside).sum()),
        )  # fmt: skip
    obs = table.obs[left].copy()
    obs.index = [f"{name}_{spot}" for spot in table.obs_names[left]]
    obs[OBS.total_counts] = totals[left]
    return Section(
        name=name,
        coords=coords[left],
        counts=counts[left],
        genes=table.var_names[genes].astype(str).tolist(),
        spot_diameter_px=float(diameter_px),
        um_per_px=float(um_per_px),
        obs=obs,
        layout=layout,
        image=levels,
    )


def _element_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
