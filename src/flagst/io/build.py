"""Build the SpatialData structure that every part of flagst uses."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_one_of, require_unique
from flagst._keys import LIBRARY, OBS, OBSM, PARAM, SLOT, TABLE, UNS, image_element, shapes_element
from flagst.io.images import CHUNK, thumbnail
from flagst.io.pyramid import CHANNELS, pyramid_element

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

logger = logging.getLogger("flagst")

LAYOUTS = ("square", "hex", "irregular", "other")


@dataclass
class Section:
    """Everything that is known about one tissue section.

    Parameters
    ----------
    name
        Name of the section; letters, digits, ``_``, ``-`` and ``.`` only.
    coords
        (n_spots, 2) float, x then y (column then row), full-resolution pixels.
    counts
        (n_spots, n_genes) non-negative integers, sparse or dense.
    genes
        Names of the n_genes genes, unique.
    spot_diameter_px
        True diameter of a spot, full-resolution pixels.
    um_per_px
        Micrometres per full-resolution pixel.
    obs
        Table with one row per spot. Its index has the names of the spots, unique over all sections; without it, spots
        are named ``{name}_{row}``. A column ``total_counts`` is kept: the counts over all genes, if ``counts`` has only
        some of the genes. Without it, it is the sum of each row of ``counts``.
    layout
        ``"square"`` (also for bins), ``"hex"``, ``"irregular"`` (cells) or ``"other"``.
    image
        (rows, columns, 3) or (3, rows, columns) uint8, 0 to 255, numpy or dask. Or a list of such levels, each smaller
        than the one before (see :func:`flagst.io.lazy_pyramid`). None if there is no image.
    hires
        A small image (rows, columns, 3) uint8, and its factor from full-resolution pixels. By default it is computed
        from ``image``.

    Examples
    --------
    >>> counts = np.array([[1, 0], [2, 3]])
    >>> section = flagst.io.Section("A", np.array([[5, 5], [15, 5]]), counts, ["g1", "g2"], 8, um_per_px=1.0)
    >>> section.layout
    'other'
    """

    name: str
    coords: np.ndarray
    counts: Any
    genes: Sequence[str]
    spot_diameter_px: float
    um_per_px: float
    obs: "pd.DataFrame | None" = None
    layout: str = "other"
    image: Any = None
    hires: "tuple[np.ndarray, float] | None" = None


def build_sdata(sections: Sequence[Section], *, table_key: str = TABLE) -> "SpatialData":
    """Join sections into one SpatialData.

    Parameters
    ----------
    sections
        One :class:`Section` each. The genes are the union over sections, in the order of first appearance. A section
        that lacks a gene has zero counts of it.
    table_key
        Name of the table.

    Returns
    -------
    SpatialData with these elements for each section S, all in full-resolution pixels:

    - image ``S_image``: lazy, multiscale, (3, rows, columns) uint8. It is missing if the section has no image.
    - shapes ``S_spots``: circles with the true diameter of the spots.
    - coordinate system S.

    and with one table for all sections:

    - ``X``: (n_spots, n_genes) csr float32, raw counts.
    - ``obs``: ``section``, ``region``, ``spot_id``, ``total_counts``, and the columns of the sections.
    - ``obsm["spatial"]``: (n_spots, 2) float64, x then y, full-resolution pixels.
    - ``uns["spatial"][S]``: small image and scale factors, as scanpy and squidpy read them.
    - ``uns["flagst"]["params"]``: ``um_per_px`` and ``layout`` of each section.

    Raises
    ------
    ValueError
        There is no section, names of sections, genes or spots are repeated, a layout is unknown, an image is not RGB,
        or sizes do not match.
    TypeError
        An image is not uint8.

    Warns
    -----
    UserWarning
        A section has no image.

    Examples
    --------
    >>> coords, counts = np.array([[5, 5], [15, 5]]), np.array([[1, 0], [2, 3]])
    >>> image = np.full((20, 20, 3), 255, dtype=np.uint8)
    >>> sections = [flagst.io.Section(s, coords, counts, ["g1", "g2"], 8, 1.0, image=image) for s in ("A", "B")]
    >>> built = flagst.io.build_sdata(sections)
    >>> built["table"].shape, sorted(built.images)
    ((4, 2), ['A_image', 'B_image'])
    """
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    sections = list(sections)
    if not sections:
        raise ValueError("sections is empty; pass at least one flagst.io.Section.")
    require_unique([s.name for s in sections], where="section names", hint="Give each section its own name.")
    for section in sections:
        _check_section(section)

    images, shapes = {}, {}
    for section in sections:
        if section.image is None:
            message = f"Section {section.name!r} has no image: it is loaded with counts and spots only."
            logger.warning(message)
            warnings.warn(message, UserWarning, stacklevel=2)
        else:
            images[image_element(section.name)] = _parse_image(section)
    adata = _build_table(sections)
    for section in sections:
        rows = np.asarray(adata.obs[OBS.section] == section.name)
        shapes[shapes_element(section.name)] = _parse_spots(section, adata.obs_names[rows])
    table = TableModel.parse(
        adata,
        region=[shapes_element(s.name) for s in sections],
        region_key=OBS.region,
        instance_key=OBS.spot_id,
    )
    return SpatialData(images=images, shapes=shapes, tables={table_key: table})


def _check_section(section: Section) -> None:
    require_one_of(section.layout, LAYOUTS, name=f"layout of section {section.name!r}")
    where = f"gene names of section {section.name!r}"
    require_unique(section.genes, where=where, hint="Sum or rename the repeated genes first.")
    n_spots, n_genes = section.counts.shape
    found = {
        "coords": np.shape(section.coords) == (n_spots, 2),
        "genes": len(section.genes) == n_genes,
        "obs": section.obs is None or len(section.obs) == n_spots,
    }
    wrong = [name for name, fits in found.items() if not fits]
    if wrong:
        raise ValueError(
            f"Section {section.name!r}: {', '.join(wrong)} do not fit counts of shape {(n_spots, n_genes)}. "
            "coords must be (n_spots, 2), genes n_genes long and obs n_spots long."
        )


def _build_table(sections: Sequence[Section]):
    """AnnData of all sections; genes in the order of first appearance."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    genes = pd.Index(pd.unique(np.concatenate([np.asarray(s.genes, dtype=object) for s in sections])))
    blocks = []
    for section in sections:
        block = sp.coo_matrix(section.counts)
        columns = genes.get_indexer(pd.Index(np.asarray(section.genes, dtype=object)))
        shape = (block.shape[0], len(genes))
        values = block.data.astype(np.float32)
        blocks.append(sp.csr_matrix((values, (block.row, columns[block.col])), shape=shape))
    counts = sp.vstack(blocks, format="csr")
    counts.eliminate_zeros()

    obs = pd.concat([_section_obs(s) for s in sections])
    require_unique(obs.index, where="observation names", hint="Prefix them with the section name.")
    names = [s.name for s in sections]
    obs[OBS.section] = pd.Categorical(obs[OBS.section], categories=names)
    obs[OBS.region] = pd.Categorical(obs[OBS.region], categories=[shapes_element(n) for n in names])
    for column in obs.columns[obs.dtypes == object]:  # noqa: E721, a data type is compared
        if column != OBS.spot_id:
            obs[column] = pd.Categorical(obs[column])
    adata = ad.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=genes.astype(str)))
    adata.obsm[OBSM.spatial] = np.concatenate([np.asarray(s.coords, dtype=np.float64) for s in sections])
    adata.uns[UNS.spatial] = {s.name: _spatial_slot(s) for s in sections}
    adata.uns[UNS.flagst] = {
        SLOT.params: {
            PARAM.um_per_px: {s.name: float(s.um_per_px) for s in sections},
            PARAM.layout: {s.name: s.layout for s in sections},
        }
    }
    return adata


def _section_obs(section: Section) -> "pd.DataFrame":
    """Columns of ``obs`` of one section. Categories become strings, so that sections can be joined."""
    import pandas as pd

    if section.obs is None:
        obs = pd.DataFrame(index=[f"{section.name}_{i}" for i in range(section.counts.shape[0])])
    else:
        obs = section.obs.copy()
        obs.index = obs.index.astype(str)
    for column in obs.columns[[isinstance(t, pd.CategoricalDtype) for t in obs.dtypes]]:
        obs[column] = obs[column].astype(object)
    obs[OBS.section] = section.name
    obs[OBS.region] = shapes_element(section.name)
    obs[OBS.spot_id] = obs.index.to_numpy(dtype=object)
    if OBS.total_counts not in obs:
        obs[OBS.total_counts] = np.asarray(section.counts.sum(axis=1)).ravel()
    obs[OBS.total_counts] = obs[OBS.total_counts].astype(np.float64)
    return obs


def _spatial_slot(section: Section) -> dict:
    """``uns["spatial"][S]``, as scanpy and squidpy read it."""
    slot: dict = {LIBRARY.scalefactors: {LIBRARY.spot_diameter: float(section.spot_diameter_px)}}
    if section.image is not None:
        hires, factor = section.hires or thumbnail(_levels(section))
        slot[LIBRARY.images] = {LIBRARY.hires: np.ascontiguousarray(hires, dtype=np.uint8)}
        slot[LIBRARY.scalefactors][LIBRARY.hires_scale] = float(factor)
    return slot


def _levels(section: Section) -> list:
    """Levels of the image, (rows, columns, 3) uint8, full resolution first."""
    levels = list(section.image) if isinstance(section.image, (list, tuple)) else [section.image]
    oriented = []
    for level in levels:
        if level.ndim == 3 and level.shape[2] in (3, 4):
            oriented.append(level[..., :3])
        elif level.ndim == 3 and level.shape[0] in (3, 4):
            oriented.append(level[:3].transpose(1, 2, 0))
        else:
            raise ValueError(
                f"Image of section {section.name!r} has shape {tuple(level.shape)}. "
                "flagst needs an RGB image, (rows, columns, 3) or (3, rows, columns)."
            )
        if level.dtype != np.uint8:
            raise TypeError(f"Image of section {section.name!r} has dtype {level.dtype}; flagst needs uint8, 0 to 255.")
    return oriented


def _parse_image(section: Section):
    """Multiscale image element. Levels of the section are used instead of averaged ones."""
    import dask.array as da
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity

    levels = [da.asarray(level).transpose(2, 0, 1) for level in _levels(section)]
    levels = [level.rechunk((3, CHUNK, CHUNK)) for level in levels]
    sizes = [level.shape[1:] for level in levels]
    if any(not (0 < min(small) and max(small) < max(large)) for large, small in pairwise(sizes)):
        raise ValueError(
            f"Image levels of section {section.name!r} have sizes {sizes}. "
            "Each level must be smaller than the one before."
        )
    if len(levels) > 1:
        return pyramid_element(levels, section.name)
    return Image2DModel.parse(
        levels[0],
        dims=("c", "y", "x"),
        c_coords=CHANNELS,
        scale_factors=[2] * max(1, min(3, int(np.log2(max(2, min(sizes[0]) / 256))))),
        transformations={section.name: Identity()},
        chunks=CHUNK,
    )


def _parse_spots(section: Section, names):
    """Circles with the true diameter of the spots, indexed by the names of the spots."""
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    return ShapesModel.parse(
        np.asarray(section.coords, dtype=np.float64),
        geometry=0,
        radius=float(section.spot_diameter_px) / 2,
        index=names,
        transformations={section.name: Identity()},
    )
