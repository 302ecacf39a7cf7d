"""AnnData to sections: the checks of what a user registers, in one place."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from anndata import AnnData

from flagst._checks import (
    first_fraction,
    require_anndata,
    require_counts,
    require_finite,
    require_key,
    require_non_negative,
    require_scales,
    require_unique,
)
from flagst._keys import OBS, OBSM, PARAM, SCALES, VAR
from flagst.data.graph import knn
from flagst.data.measured import counts_name, measured_genes, recorded_params, section_layout, section_rows
from flagst.data.sections import N_NEIGHBOURS, Section
from flagst.data.stored import read_rows, row_sums
from flagst.data.targets import to_target

logger = logging.getLogger(__name__)

#: Spots that it takes to train on.
MIN_TRAINING_SPOTS = 50


def sections_from_anndata(
    adata: AnnData,
    *,
    section_key: str = OBS.section,
    spatial_key: str = OBSM.spatial,
    image_key: str = OBSM.image,
    genes: list[str] | None = None,
    target: str | None = None,
    layer: str | None = None,
) -> list[Section]:
    """One :class:`Section` per value of ``obs[section_key]``, in order of first appearance.

    Parameters
    ----------
    adata
        Spots with ``obsm[spatial_key]``, ``(n_spots, 2)`` full-resolution pixels, and
        ``obsm[image_key]``, ``(n_spots, d_image)``.
    section_key, spatial_key, image_key
        Where to look.
    genes, target
        Which genes in which unit; ``target=None`` leaves expression out.
    layer
        Layer with raw counts; ``None`` for X. Counts may stay in a file: they are read some spots at a time, and only
        the genes asked for are kept.

    Raises
    ------
    KeyError
        A slot is missing.
    ValueError
        Duplicate spot names, non-finite positions or features, a section of one spot, counts that
        are no counts, spots or genes without any count.
    """
    coords, names = _positions(adata, spatial_key), _checked_rows(adata, section_key)
    scales = _scales(adata, names)
    image = _image_features(adata, image_key)
    values = depth = None
    if target is not None:
        values, depth = _expression(adata, genes, target=target, layer=layer)
    sections = []
    for name, rows in names.items():
        micrometres = coords[rows] * scales[name]
        neighbours, distances = knn(micrometres, N_NEIGHBOURS)
        sections.append(
            Section(
                name=name,
                spot_names=adata.obs_names[rows].to_numpy(dtype=str),
                coords=micrometres,
                image=image if len(names) == 1 else image[rows],  # a large slide is not copied
                neighbours=neighbours,
                distances=distances,
                target=None if values is None else values[rows],
                depth=None if depth is None else depth[rows],
                layout=section_layout(adata, name),
            )
        )
    return sections


def panel_genes(adata: AnnData, genes: str | list[str] | None) -> list[str]:
    """The genes given, else those of ``var["flagst_panel"]``, else all that were measured; every one must be present.

    Raises
    ------
    KeyError
        Genes that are not in ``adata.var_names``.
    TypeError
        A SpatialData.
    ValueError
        Duplicate gene names, a gene that is named twice, or an empty panel.
    """
    require_anndata(adata)
    require_unique(adata.var_names, where="Gene names (adata.var_names)", hint="Run adata.var_names_make_unique().")
    if genes is None:
        # of tables that were joined, a gene that one of them lacks may have no value
        panel = adata.var[VAR.panel].isin([True]).to_numpy() if VAR.panel in adata.var else measured_genes(adata)
        genes = adata.var_names[panel]
    genes = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    missing = [gene for gene in genes if gene not in adata.var_names]
    if missing:
        found = [str(gene) for gene in adata.var_names[:5]]
        raise KeyError(f"{len(missing)} genes are not in adata.var_names, for example {missing[:5]}; found {found}.")
    require_unique(genes, where="genes=", hint="Name each gene once.")
    if not genes:
        raise ValueError("The panel has no genes. Run flagst.pp.select_genes, or pass genes=.")
    return genes


def check_registered(
    adata: AnnData, *, section_key: str, spatial_key: str, image_key: str | None, layer: str | None, genes: list[str]
) -> float | None:
    """Refuse what :func:`sections_from_anndata` would refuse, and fewer than 50 spots; nothing is kept.

    Counts are read 4,096 spots at a time, and none of them are copied.

    Parameters
    ----------
    adata, section_key, spatial_key, layer, genes
        As in :func:`sections_from_anndata`.
    image_key
        ``None`` leaves out the image features: the check before they are extracted.

    Returns
    -------
    The first count that is no whole number, ``None`` when all are. Only the target says whether that is an error:
    ``"identity"`` takes any values that are not negative.

    Raises
    ------
    KeyError, ValueError
        As in :func:`sections_from_anndata`.
    """
    if adata.n_obs < MIN_TRAINING_SPOTS:
        raise ValueError(f"FLAG needs at least {MIN_TRAINING_SPOTS} spots; got {adata.n_obs}. Add sections.")
    _positions(adata, spatial_key)
    names = _checked_rows(adata, section_key)
    _scales(adata, names)
    for name in names:
        section_layout(adata, name)
    if image_key is not None:
        _image_features(adata, image_key)
    matrix, columns, where = _counts(adata, genes, layer)
    per_gene, fraction = np.zeros(adata.n_vars), None
    for _, part in read_rows(matrix):
        require_non_negative(part, where=where)
        fraction = first_fraction(part) if fraction is None else fraction
        per_gene += np.asarray(part.sum(axis=0), dtype=np.float64).ravel()
    total_counts(adata, matrix)
    _require_expressed(adata, columns, per_gene[columns] > 0)
    return fraction


def _checked_rows(adata: AnnData, section_key: str) -> dict[str, np.ndarray]:
    """Rows of every section, each of at least two spots with names of their own."""
    require_unique(adata.obs_names, where="Spot names (adata.obs_names)", hint="Run adata.obs_names_make_unique().")
    if adata.n_obs == 0:
        raise ValueError("adata has no spots.")
    rows = section_rows(adata, section_key)
    slashed = [name for name in rows if "/" in name]
    if slashed:  # what is kept per section would come back from a file in parts
        raise ValueError(f"Names of sections {slashed[:5]} have a '/', which h5ad and zarr cannot keep. Rename them.")
    single = [name for name in rows if len(rows[name]) < 2]
    if single:
        raise ValueError(f"Sections {single} have one spot; a section needs neighbours. Remove them.")
    return rows


def _scales(adata: AnnData, sections: Iterable[str]) -> dict[str, float]:
    """Checked micrometres per pixel of every section, 1 where it is not recorded."""
    known = recorded_params(adata).get(PARAM.um_per_px, {})
    scales = {name: float(known.get(name, 1.0)) for name in sections}
    require_scales(scales, where=SCALES, hint="Leave out a section whose scale is not known.")
    return scales


def _positions(adata: AnnData, spatial_key: str) -> np.ndarray:
    """Checked positions ``(n_spots, 2)`` float64."""
    hint = "It must hold x then y in full-resolution pixels."
    require_key(adata.obsm, spatial_key, where="adata.obsm", hint=hint)
    coords = np.asarray(adata.obsm[spatial_key], dtype=np.float64)
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise ValueError(f"adata.obsm[{spatial_key!r}] must be (n_spots, 2); got shape {coords.shape}. {hint}")
    require_finite(coords, where=f"adata.obsm[{spatial_key!r}]", hint="Remove spots without a position.")
    return coords


def _image_features(adata: AnnData, image_key: str) -> np.ndarray:
    """Checked image features ``(n_spots, d_image)`` float32."""
    hint = "Run flagst.pp.image_features first."
    require_key(adata.obsm, image_key, where="adata.obsm", hint=hint)
    image = adata.obsm[image_key]
    image = np.asarray(image.toarray() if hasattr(image, "toarray") else image, dtype=np.float32)
    if image.ndim != 2 or image.shape[1] == 0:
        raise ValueError(f"adata.obsm[{image_key!r}] must be (n_spots, d_image); got shape {image.shape}. {hint}")
    require_finite(image, where=f"adata.obsm[{image_key!r}]", hint="Extract the features again.")
    return image


def _expression(
    adata: AnnData, genes: list[str] | None, *, target: str, layer: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Targets ``(n_spots, n_genes)`` and depths ``(n_spots,)`` after all checks on counts."""
    matrix, columns, where = _counts(adata, genes, layer)
    counts = checked_counts(matrix, columns, target=target, where=where)
    depth = total_counts(adata, matrix)
    _require_expressed(adata, columns, counts.any(axis=0))
    return to_target(counts, depth, target), depth


def _counts(adata: AnnData, genes: list[str] | None, layer: str | None) -> tuple[Any, np.ndarray, str]:
    """Raw counts, wherever they are stored; the columns of the genes; and how to call the counts in messages."""
    require_unique(adata.var_names, where="Gene names (adata.var_names)", hint="Run adata.var_names_make_unique().")
    where = counts_name(layer)
    if layer is not None:
        require_key(adata.layers, layer, where="adata.layers", hint="Name the layer with raw counts.")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise ValueError(f"{where} is empty: training needs measured counts.")
    columns = np.arange(adata.n_vars) if genes is None else adata.var_names.get_indexer(genes)
    gone = [gene for gene, column in zip(genes or [], columns, strict=False) if column < 0]
    if gone:
        raise KeyError(f"{len(gone)} genes of the panel are no longer in adata.var_names, for example {gone[:5]}.")
    return matrix, columns, where


def _require_expressed(adata: AnnData, columns: np.ndarray, expressed: np.ndarray) -> None:
    """Raise a ``ValueError`` for genes without any count."""
    empty = np.flatnonzero(~expressed)
    if len(empty):
        shown = [str(adata.var_names[columns[i]]) for i in empty[:5]]
        raise ValueError(
            f"{len(empty)} genes have no count in any spot, for example {shown}. "
            "Remove them (sc.pp.filter_genes) or choose the panel with flagst.pp.select_genes."
        )


def checked_counts(matrix, columns: np.ndarray, *, target: str, where: str) -> np.ndarray:
    """Some columns of raw counts, wherever they are stored.

    Parameters
    ----------
    matrix
        ``(n_spots, n_genes)``, see :func:`flagst.data.stored.read_rows`.
    columns
        ``(n_columns,)`` int.
    target
        With ``"identity"`` anything that is not negative will do: predictions are clipped at 0.
    where
        What the matrix is called, for the message.

    Returns
    -------
    ``(n_spots, n_columns)`` float32.

    Raises
    ------
    ValueError
        Values that are no counts, in any column.
    """
    counts = np.empty((matrix.shape[0], len(columns)), dtype=np.float32)
    for rows, part in read_rows(matrix):
        (require_non_negative if target == "identity" else require_counts)(part, where=where)
        kept = part[:, columns]
        counts[rows] = kept.toarray() if hasattr(kept, "toarray") else kept
    return counts


def total_counts(adata: AnnData, matrix) -> np.ndarray:
    """Total counts per spot over all genes."""
    if OBS.total_counts in adata.obs:
        depth = adata.obs[OBS.total_counts].to_numpy(dtype=np.float64)
        require_finite(depth, where=f"adata.obs[{OBS.total_counts!r}]", hint="It holds a spot's total counts.")
    else:
        depth = row_sums(matrix)
        logger.warning("adata.obs has no %r; using the sum over the %d genes present.", OBS.total_counts, adata.n_vars)
    empty = np.flatnonzero(depth <= 0)
    if len(empty):
        shown = [str(adata.obs_names[i]) for i in empty[:5]]
        raise ValueError(
            f"{len(empty)} spots have no count at all, for example {shown}. "
            "Remove them: sc.pp.filter_cells(adata, min_counts=1)."
        )
    return depth
