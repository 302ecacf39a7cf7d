"""The spots of a file, without their expression."""

from pathlib import Path

import numpy as np
from anndata import AnnData

from flagst._checks import require_key
from flagst._keys import TABLE


def read_spots(path: str | Path, *, spatial_key: str, image_key: str, table_key: str = TABLE) -> AnnData:
    """Read what a prediction needs of a file: no expression, no layers, no other arrays.

    Parameters
    ----------
    path
        ``.h5ad``, or a folder: the zarr store of an AnnData or of a SpatialData.
    spatial_key, image_key
        Arrays of ``obsm`` that are read, whole; image features as float32.
    table_key
        Table of a SpatialData.

    Returns
    -------
    AnnData ``(n_spots, 0)`` with ``obs``, ``uns`` and the two arrays.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    KeyError
        It lacks one of the arrays, or the table.
    ValueError
        It is something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. Pass an h5ad file, or the zarr store of a table or SpatialData."
        )
    if path.is_dir():
        import zarr

        return _spots(_table(zarr.open_group(path, mode="r"), path, table_key), path, spatial_key, image_key)
    import h5py

    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no h5ad file. Pass an h5ad file, or the zarr store of a table or SpatialData.")
    with h5py.File(path, "r") as file:
        return _spots(file, path, spatial_key, image_key)


def _table(group, path: Path, table_key: str):
    """The group of a table; that of an AnnData is its own."""
    if "tables" in group and "obs" not in group:
        require_key(group["tables"], table_key, where=f"{path}/tables", hint="Name the table with table_key=.")
        return group["tables"][table_key]
    return group


def _spots(group, path: Path, spatial_key: str, image_key: str) -> AnnData:
    from anndata.io import read_elem

    if "obs" not in group or "obsm" not in group:
        raise ValueError(f"{path} holds no table with obs and obsm; found {sorted(group)}.")
    require_key(group["obsm"], spatial_key, where=f"{path}/obsm", hint="It must hold x then y in pixels.")
    require_key(group["obsm"], image_key, where=f"{path}/obsm", hint="Run flagst.pp.image_features first.")
    image = np.asarray(read_elem(group["obsm"][image_key]), dtype=np.float32)
    return AnnData(
        obs=read_elem(group["obs"]),
        obsm={spatial_key: np.asarray(read_elem(group["obsm"][spatial_key])), image_key: image},
        uns=read_elem(group["uns"]) if "uns" in group else {},
    )
