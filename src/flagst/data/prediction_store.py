"""A prediction that is written to zarr piece by piece, goes on after a stop, and is there only when it is complete.

Everything is made in the folder ``<out>.partial`` beside the result: the layers as arrays of their own, latent states,
and a journal that says what they are of and how much is done. The table is written last, and the whole is moved to
``<out>`` in one step.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData

from flagst._keys import SLOT, UNS

logger = logging.getLogger(__name__)

#: Numbers, spots times genes, of a chunk of a layer.
CHUNK_VALUES = 2**22
#: Rows of a chunk at most.
CHUNK_ROWS = 4096


class ArrayFolder:
    """Arrays by name, each in a file of its own that is there only when it is complete; read without loading it.

    Parameters
    ----------
    folder
        Made when the first array comes.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __contains__(self, name: str) -> bool:
        return self._file(name).exists()

    def __getitem__(self, name: str) -> np.ndarray:
        return np.load(self._file(name), mmap_mode="r")

    def __setitem__(self, name: str, values: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / "unfinished.npy"
        np.save(unfinished, values)
        _move(unfinished, self._file(name))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '_')}.npy"


class PredictionStore:
    """Layers of a table, written chunk of rows by chunk of rows.

    Parameters
    ----------
    out
        Folder of the finished zarr store.
    shape
        ``(n_spots, n_genes)``.
    layers
        Their names.
    fingerprint
        Of everything that the numbers follow from: unfinished work of another is never gone on with.

    Attributes
    ----------
    n_done
        Chunks that are complete.
    """

    def __init__(self, out: str | Path, *, shape: tuple[int, int], layers: list[str], fingerprint: str):
        self.out, self.partial = Path(out), partial_of(out)
        self.shape, self.layers, self.n_done = shape, layers, 0
        self.chunk_rows = max(min(CHUNK_ROWS, CHUNK_VALUES // shape[1], shape[0]), 1)
        self.n_chunks = -(-shape[0] // self.chunk_rows)
        self.fingerprint = f"{fingerprint}/{'x'.join(map(str, shape))}/{self.chunk_rows}"
        self._journal, self._folder = self.partial / "journal.json", self.partial / "layers"

    @contextmanager
    def opened(self, *, resume: bool, overwrite: bool) -> Iterator["PredictionStore"]:
        """Go on, or begin; no other process can meanwhile.

        Raises
        ------
        FileExistsError
            There is unfinished work, and neither ``resume`` nor ``overwrite``.
        ValueError
            The unfinished work is of another model, query, or other arguments.
        RuntimeError
            Another process is at it.
        """
        if self.partial.exists() and not (resume or overwrite):
            raise FileExistsError(
                f"{self.partial} was left by a prediction that was interrupted. Pass resume=True to go on with it, or "
                "overwrite=True to start again."
            )
        self.partial.mkdir(parents=True, exist_ok=True)
        with open(self.partial / "lock", "w") as lock:
            _hold(lock, self.partial)
            if overwrite or not self._journal.exists():
                self._begin()
            else:
                self._go_on()
            if not all(self._written(name).exists() for name in self.layers):
                self._begin()  # stopped when the result was in its place already
            yield self

    def rows(self, chunk: int) -> np.ndarray:
        """Rows of a chunk."""
        start = chunk * self.chunk_rows
        return np.arange(start, min(start + self.chunk_rows, self.shape[0]))

    def write(self, chunk: int, values: dict[str, np.ndarray]) -> None:
        """Write one chunk of every layer; chunks come in order."""
        import zarr

        rows = self.rows(chunk)
        for name in self.layers:
            zarr.open_array(self._folder / name, mode="r+")[rows[0] : rows[-1] + 1] = values[name]
        self._note(chunk + 1)

    def finish(self, table: AnnData) -> None:
        """Write the table around the layers and put it in its place.

        Parameters
        ----------
        table
            Without layers; ``layers`` are added to it as they were written.
        """
        import zarr

        made = self.partial / "table.zarr"
        if not made.exists():
            unfinished = self.partial / "unfinished.zarr"
            table.write_zarr(unfinished)
            _move(unfinished, made)
        for name in self.layers:
            if (self._folder / name).exists():
                _move(self._folder / name, made / "layers" / name)
        if zarr.open_group(made, mode="r").metadata.consolidated_metadata is not None:
            zarr.consolidate_metadata(zarr.open_group(made, mode="r+", use_consolidated=False).store)
        if self.out.exists():
            _move(self.out, self.partial / "replaced")
        _move(made, self.out)
        self.discard()

    def discard(self) -> None:
        """Leave nothing to go on with."""
        self._journal.unlink()
        shutil.rmtree(self.partial)

    def states(self, section: int) -> ArrayFolder:
        """Where the latent states of a section are kept."""
        return ArrayFolder(self.partial / "states" / str(section))

    def _begin(self) -> None:
        """Forget what is there, and first of all how far it was."""
        self._journal.unlink(missing_ok=True)
        for path in self.partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        self._make_arrays()
        self._note(0)

    def _go_on(self) -> None:
        """Where the journal ends."""
        found = json.loads(self._journal.read_text())
        if found["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"{self.partial} was begun with another model, other spots or other arguments. Repeat that call, or "
                "pass overwrite=True to start again."
            )
        self.n_done = found["n_done"]

    def _written(self, name: str) -> Path:
        """Where a layer is: by itself, or in the table once that is put together."""
        alone = self._folder / name
        return alone if alone.exists() else self.partial / "table.zarr" / "layers" / name

    def _note(self, n_done: int) -> None:
        unfinished = self._journal.with_suffix(".new")
        unfinished.write_text(json.dumps({"fingerprint": self.fingerprint, "n_done": n_done}))
        _move(unfinished, self._journal)
        self.n_done = n_done

    def _make_arrays(self) -> None:
        """Empty layers."""
        import zarr

        for name in self.layers:
            zarr.create_array(
                self._folder / name,
                shape=self.shape,
                chunks=(self.chunk_rows, self.shape[1]),
                dtype=np.float32,
                fill_value=np.nan,
                zarr_format=anndata.settings.zarr_write_format,
                attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
            )


def _move(source: Path, target: Path) -> None:
    """Put something in its place in one step."""
    os.replace(source, target)


def partial_of(out: str | Path) -> Path:
    """Where an unfinished prediction is."""
    return Path(out).with_name(Path(out).name + ".partial")


def finished_request(out: str | Path) -> str | None:
    """What a finished prediction was made with, as recorded; ``None`` where that is not known."""
    import zarr
    from anndata.io import read_elem

    with suppress(KeyError, ValueError, OSError):
        slot = zarr.open_group(Path(out), mode="r")["uns"][UNS.flagst]
        return str(read_elem(slot[SLOT.request]))
    return None


def _hold(lock, partial: Path) -> None:
    """Keep a file locked until it is closed; where system or file system has no such locks, nothing is kept."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise RuntimeError(f"Another process is writing {partial}. Wait for it, or stop it.") from error
        logger.warning("%s: no locks on this file system; let no two processes write one slide.", partial)
