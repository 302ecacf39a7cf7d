"""Arrays in files that are read by rows. A file has a temporary name until it is complete."""

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._files import drafted, file_name
from flagst._keys import EMBEDDINGS

if TYPE_CHECKING:
    import dask.array as da

logger = logging.getLogger("flagst")

#: Size of the chunks that dask reads, bytes.
CHUNK_BYTES = 2**24
_DTYPE = np.dtype(np.float16)
# Errors of file systems that cannot reserve space for a file.
_NO_ALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class MappedArray:
    """An array in a ``.npy`` file. The file is opened only when rows are read, so that copies and pickles are small.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    OSError, ValueError
        The file is missing or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        held = np.load(self.path, mmap_mode="r", allow_pickle=False)
        self.shape, self.dtype, self.ndim = held.shape, held.dtype, held.ndim

    def __getitem__(self, index) -> np.ndarray:
        return np.load(self.path, mmap_mode="r", allow_pickle=False)[index]

    def __dask_tokenize__(self):
        state = os.stat(self.path)
        return self.path, state.st_size, state.st_mtime_ns


def lazy_array(path: Path) -> "da.Array":
    """A file of :func:`write_array` as a dask array, in chunks of rows."""
    import dask.array as da

    held = MappedArray(path)
    row = math.prod(held.shape[1:]) * held.dtype.itemsize
    rows = max(1, min(held.shape[0], CHUNK_BYTES // max(row, 1)))
    return da.from_array(held, chunks=(rows, *held.shape[1:]))


def array_path(folder: Path, record: dict[str, Any]) -> Path:
    """Path of the file of an array. Its name depends on the model, the settings, the genes and the counts."""
    digest = sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return folder / f"{file_name(record[EMBEDDINGS.encoder])}-{record[EMBEDDINGS.mode]}-{digest[:16]}.npy"


def read_description(path: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """The description beside an array; ``None`` if the array or the description is missing or incomplete."""
    if not _description(path).is_file():
        return None
    try:
        said, held = json.loads(_description(path).read_text(encoding="utf-8")), MappedArray(path)
        whole = {name: said.get(name) for name in record} == record and held.dtype == _DTYPE
        whole &= said.get(EMBEDDINGS.shape) == list(held.shape)
    except Exception:  # noqa: BLE001  a file that was cut, moved or edited can raise any error
        whole = False
    if not whole:
        logger.warning("%s does not match %s; it is made again.", path, _description(path).name)
        return None
    return said


def write_array(
    path: Path, record: dict[str, Any], batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], *, n_spots: int
) -> dict[str, Any]:
    """Write vectors of genes in spots as float16. The name of the file ends in ``.part`` until it is complete.

    Parameters
    ----------
    path
        From :func:`array_path`.
    record
        Description of the content.
    batches
        Rows (n_batch,), vectors (n_batch, n_genes, d_gene), and mask (n_batch, n_genes) bool.
    n_spots
        Number of spots in total.

    Returns
    -------
    The description, as it is written beside the array.

    Raises
    ------
    OSError
        The folder cannot be written to, or the disk has too little space.
    ValueError
        Vectors are too large for float16.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shape, found = None, np.zeros(len(record[EMBEDDINGS.genes]), dtype=bool)
    with drafted(path) as part:
        for rows, vectors, mask in batches:
            if shape is None:
                shape = (n_spots, *vectors.shape[1:])
                _make_room(part, shape)
            with np.errstate(over="ignore"):
                narrow = vectors.astype(_DTYPE)
            if not np.isfinite(narrow).all():
                raise ValueError(
                    f"The vectors of spots {rows[0]} to {rows[-1]} reach {np.abs(vectors).max():g}; the file is of "
                    f"float16, with a maximum of {np.finfo(_DTYPE).max:g}. Have the encoder scale them down."
                )
            # opened for each batch, so that written pages do not stay in memory
            np.load(part, mmap_mode="r+")[rows] = narrow
            found |= mask.any(axis=0)
        said = record | {EMBEDDINGS.shape: list(shape), EMBEDDINGS.n_found: int(found.sum())}
        _description(path).unlink(missing_ok=True)
    with drafted(_description(path)) as part:
        part.write_text(json.dumps(said, indent=1), encoding="utf-8")
    return said


def _make_room(path: Path, shape: tuple[int, ...]) -> None:
    """Create a file of zeros, and reserve its space on the disk."""
    needed, free = math.prod(shape) * _DTYPE.itemsize, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            f"The vectors of {shape[0]} spots and {shape[1]} genes take {needed / 1e9:.1f} GB, and {path.parent} has "
            f"{free / 1e9:.1f} GB left. Name fewer genes, or another folder."
        )
    np.lib.format.open_memmap(path, mode="w+", dtype=_DTYPE, shape=shape)
    if not hasattr(os, "posix_fallocate"):
        return
    # without a reservation, a full disk kills the process: it writes to mapped memory, which cannot raise an error
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise


def _description(path: Path) -> Path:
    return path.with_suffix(".json")
