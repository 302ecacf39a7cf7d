"""Image and spot centres of each section, from a SpatialData or an AnnData."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_finite, require_key, require_scales
from flagst._keys import LIBRARY, OBSM, PARAM, SCALES, SLOT, UNS, image_element
from flagst.data.measured import recorded_params, section_rows
from flagst.data.patches import Level, image_levels

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

logger = logging.getLogger("flagst")


@dataclass(frozen=True)
class SectionImage:
    """One section's image and the spots on it.

    Parameters
    ----------
    name
        Section.
    rows
        (n_spots,) int64, rows of the table.
    levels
        The image, finest level first.
    centres
        (n_spots, 2) float64, x then y, pixels of the finest level.
    um_per_px
        Micrometres per pixel of the finest level.
    """

    name: str
    rows: np.ndarray
    levels: list[Level]
    centres: np.ndarray
    um_per_px: float


def um_per_px(adata: "AnnData", sections) -> dict[str, float]:
    """Micrometres per full-resolution pixel of every section."""
    hint = f"Set {SCALES} = {{section: micrometres per full-resolution pixel}}."
    params = recorded_params(adata)
    require_key(params, PARAM.um_per_px, where=f'adata.uns["{UNS.flagst}"]["{SLOT.params}"]', hint=hint)
    known = params[PARAM.um_per_px]
    for section in sections:
        require_key(known, section, where=SCALES, hint=hint)
    scales = {section: float(known[section]) for section in sections}
    require_scales(scales, where=SCALES)
    return scales


def from_spatialdata(sdata: "SpatialData", adata: "AnnData", section_key: str) -> list[SectionImage]:
    """Images and spots of a SpatialData. Rows of the table are matched to the shapes by name, not by order.

    Parameters
    ----------
    sdata
        Images ``S_image``, and the shapes that the table annotates.
    adata
        Its table.
    section_key
        Column of ``obs`` with the section names.

    Returns
    -------
    One :class:`SectionImage` per section.

    Raises
    ------
    KeyError
        Shapes, columns or micrometres per pixel are missing.
    ValueError
        Sections have no image, or rows have no shape.
    """
    rows = section_rows(adata, section_key)
    _require_images([s for s in rows if image_element(s) not in sdata.images], rows, "an image S_image in sdata.images")
    scales = um_per_px(adata, rows)
    sections = []
    for name, spots in rows.items():
        levels = image_levels(sdata.images[image_element(name)])
        centres = _shape_centres(sdata, adata, name, spots)
        sections.append(SectionImage(name, spots, levels, centres, scales[name]))
    return sections


def from_anndata(adata: "AnnData", section_key: str) -> list[SectionImage]:
    """Small images and spots of an AnnData with ``uns["spatial"]``.

    Parameters
    ----------
    adata
        ``obsm["spatial"]`` in full-resolution pixels; ``uns["spatial"][S]`` with the image ``hires`` and its scale
        factor.
    section_key
        Column of ``obs`` with the section names.

    Returns
    -------
    One :class:`SectionImage` per section, in pixels of the small image.

    Raises
    ------
    KeyError
        Coordinates, columns or micrometres per pixel are missing.
    ValueError
        Sections have no image, or coordinates are not finite.
    """
    hint = "Store x, y in full-resolution pixels there."
    require_key(adata.obsm, OBSM.spatial, where="adata.obsm", hint=hint)
    rows = section_rows(adata, section_key)
    libraries = adata.uns.get(UNS.spatial, {})
    without = [s for s in rows if LIBRARY.hires not in libraries.get(s, {}).get(LIBRARY.images, {})]
    wanted = f'adata.uns["{UNS.spatial}"][S]["{LIBRARY.images}"]["{LIBRARY.hires}"]'
    _require_images(without, rows, f"{wanted} (S is the section's name)")
    scales = um_per_px(adata, rows)
    coords = np.asarray(adata.obsm[OBSM.spatial], dtype=np.float64)
    require_finite(coords, where=f"adata.obsm[{OBSM.spatial!r}]", hint="Remove these spots or give them a position.")
    sections = []
    for name in rows:
        factors = libraries[name].get(LIBRARY.scalefactors, {})
        where = f'adata.uns["{UNS.spatial}"]["{name}"]["{LIBRARY.scalefactors}"]'
        require_key(factors, LIBRARY.hires_scale, where=where, hint="It maps full-resolution to hires pixels.")
        factor = float(factors[LIBRARY.hires_scale])
        hires = np.asarray(libraries[name][LIBRARY.images][LIBRARY.hires])
        if np.issubdtype(hires.dtype, np.floating) and hires.max() <= 1:
            hires = np.round(hires * 255).astype(np.uint8)  # scanpy reads Visium images as floats
        centres = coords[rows[name]] * factor
        sections.append(SectionImage(name, rows[name], image_levels(hires), centres, scales[name] / factor))
    return sections


def _require_images(without: list[str], rows: dict, wanted: str) -> None:
    if without:
        raise ValueError(
            f"{len(without)} of {len(rows)} sections have no image: {without}. "
            f"Add {wanted}, or leave these sections out of the table."
        )


def _shape_centres(sdata: "SpatialData", adata: "AnnData", section: str, rows: np.ndarray) -> np.ndarray:
    """Centres (n_spots, 2), x then y, pixels of the finest level of the image."""
    from spatialdata.models import get_table_keys
    from spatialdata.transformations import get_transformation

    _, region_key, instance_key = get_table_keys(adata)
    image = sdata.images[image_element(section)]
    regions = adata.obs[region_key].astype(str).to_numpy()[rows]
    names = adata.obs[instance_key].to_numpy()[rows]
    centres = np.full((len(rows), 2), np.nan)
    for region in np.unique(regions):
        hint = "The spots' coordinates come from the shapes that the table annotates."
        require_key(sdata.shapes, region, where="sdata.shapes", hint=hint)
        shapes, mine = sdata.shapes[region], regions == region
        missing = np.setdiff1d(names[mine], shapes.index.to_numpy())
        if len(missing):
            raise ValueError(
                f"{len(missing)} spots of section {section!r} are not in sdata.shapes[{region!r}], "
                f"for example {missing[0]!r}. Its index must hold the table's {instance_key!r}."
            )
        system = _shared_system(shapes, image, section)
        points = shapes.geometry.loc[names[mine]].centroid
        # The same as spatialdata's get_centroids, without dask: an affine map of a centroid is the mapped centroid.
        to_system = get_transformation(shapes, system).to_affine_matrix(("x", "y"), ("x", "y"))
        to_pixels = get_transformation(image, system).inverse().to_affine_matrix(("x", "y"), ("x", "y"))
        matrix = to_pixels @ to_system
        centres[mine] = np.column_stack([points.x, points.y]) @ matrix[:2, :2].T + matrix[:2, 2]
    require_finite(centres, where=f"centres of section {section!r}", hint="Give these shapes a position.")
    return centres


def _shared_system(shapes, image, section: str) -> str:
    """Coordinate system that spots and image share; if there are several, the one named like the section."""
    from spatialdata.transformations import get_transformation

    shared = sorted(set(get_transformation(shapes, get_all=True)) & set(get_transformation(image, get_all=True)))
    if not shared:
        raise ValueError(f"Spots and image of section {section!r} share no coordinate system.")
    return section if section in shared else shared[0]
