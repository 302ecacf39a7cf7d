"""Gene vectors from a file with one vector per gene."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._files import guarded
from flagst._keys import EMBEDDINGS
from flagst.gfm._files import file_record, load_pickle
from flagst.gfm.names import aliases_of, match_genes, require_overlap, rows_of

if TYPE_CHECKING:
    from anndata import AnnData


class Table:
    """Gene vectors from a file: GenePT, CellPLM, UCE, scFoundation, or your own.

    Parameters
    ----------
    path
        - ``.csv``, ``.tsv`` (also ``.gz``), with a header, ``.parquet``: one row per gene, its name in the first column
          or the index;
        - ``.npz``: ``genes`` ``(n,)`` text and ``vectors`` ``(n, d)`` float;
        - ``.h5ad``: ``varm[key]``;
        - ``.pkl``, ``.pickle``: dict of gene to vector. Nothing in it is run; what is not plain data is refused.
    key
        Array in ``varm``, for h5ad.
    names
        Dict from gene to its name in the file, or a column of ``adata.var`` with these names.
    licence
        Licence of the vectors, for the record.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ImportError
        A library that reads the file is missing.
    ValueError
        The file is broken or of another kind, or the vectors are not finite or differ in length; the message names the
        file.

    Examples
    --------
    >>> np.savez("vectors.npz", genes=["ERBB2", "GNAS"], vectors=np.eye(2))
    >>> flagst.gfm.Table("vectors.npz").vectors.shape
    (2, 2)
    """

    name = "table"

    def __init__(
        self,
        path: str | Path,
        *,
        key: str | None = None,
        names: str | Mapping[str, str] | None = None,
        licence: str | None = None,
    ):
        self.path, self.key, self.names, self.licence = Path(path), key, names, licence
        kinds = [suffix for suffix in self.path.suffixes if suffix in _READERS]
        if not kinds:
            raise ValueError(f"{self.path.name}: gene vectors are read from {sorted(_READERS)}.")
        genes, vectors = guarded(self.path, lambda: _READERS[kinds[-1]](self.path, key))
        self.genes, self.vectors = [str(gene) for gene in genes], np.asarray(vectors)
        self._check()

    def encode(self, adata: "AnnData", genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Look up the vector of each gene.

        Parameters
        ----------
        adata
            Table of the genes; ``names`` may be a column of its ``var``.
        genes
            Gene names.

        Returns
        -------
        vectors
            ``(n_genes, d)`` float32; zeros for a gene without vector.
        known
            ``(n_genes,)`` bool; true where the gene has a vector.

        Raises
        ------
        KeyError
            ``adata.var`` has no column ``names``.
        ValueError
            The file knows less than a tenth of the genes.

        Examples
        --------
        >>> np.savez("vectors.npz", genes=["ERBB2", "GNAS"], vectors=np.eye(2))
        >>> vectors, known = flagst.gfm.Table("vectors.npz").encode(adata, ["GNAS", "TP53"])
        >>> vectors.tolist(), known.tolist()
        ([[0.0, 1.0], [0.0, 0.0]], [True, False])
        """
        index = match_genes(genes, self.genes, aliases=aliases_of(adata, self.names))
        require_overlap(index, genes, self.genes, where=self.path.name)
        return rows_of(index, self.vectors)

    def provenance(self) -> dict[str, Any]:
        """Describe where the vectors come from.

        Returns
        -------
        Plain values: encoder, file and its SHA-256; ``key`` and licence where they are given.

        Examples
        --------
        >>> np.savez("vectors.npz", genes=["ERBB2", "GNAS"], vectors=np.eye(2))
        >>> flagst.gfm.Table("vectors.npz", licence="CC0").provenance()["licence"]
        'CC0'
        """
        known = {EMBEDDINGS.key: self.key, EMBEDDINGS.licence: self.licence}
        given = {name: value for name, value in known.items() if value is not None}
        return file_record(self.name, self.path) | given

    def _check(self) -> None:
        shape = self.vectors.shape
        if self.vectors.dtype.kind not in "fiu" or len(shape) != 2 or len(self.genes) != shape[0] or not all(shape):
            raise ValueError(
                f"{self.path.name} holds {len(self.genes)} genes and values of shape {shape} and type "
                f"{self.vectors.dtype}; one numeric vector per gene is needed, all of one length."
            )
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
        if len(bad):
            raise ValueError(f"{self.path.name} has values that are not finite, first for gene {self.genes[bad[0]]!r}.")


def _text(path: Path, key: str | None):
    import pandas as pd

    separator = "\t" if ".tsv" in path.suffixes else ","
    head = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    if _is_vector(head[1:].tolist()):
        raise ValueError(f"its first line, {head[0]!r} and numbers, is a gene, not a header; put a header above it")
    frame = pd.read_csv(path, sep=separator, index_col=None, keep_default_na=False, na_values=[""])
    if isinstance(frame.index, pd.MultiIndex):
        raise ValueError(f"its header names {frame.shape[1]} columns, its lines have {frame.index.nlevels} more")
    if not isinstance(frame.index, pd.RangeIndex):  # the gene names, for which R writes no header
        frame = frame.reset_index()
    return frame.iloc[:, 0].astype(str), frame.iloc[:, 1:].to_numpy()


def _is_vector(cells: list[str]) -> bool:
    """Whether the first line holds values: only numbers, and not the column numbers from 0 or 1."""
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError:
        return False
    return len(values) > 0 and not any(np.array_equal(values, np.arange(len(values)) + first) for first in (0, 1))


def _parquet(path: Path, key: str | None):
    import pandas as pd

    frame = pd.read_parquet(path)
    if isinstance(frame.index, pd.RangeIndex):
        frame = frame.set_index(frame.columns[0])
    return frame.index, frame.to_numpy()


def _npz(path: Path, key: str | None):
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["genes"], arrays["vectors"]


def _h5ad(path: Path, key: str | None):
    import anndata

    adata = anndata.read_h5ad(path, backed="r")
    try:
        if key is None or key not in adata.varm:
            raise ValueError(f"varm has {sorted(adata.varm)}; name one with key=, not {key!r}")
        return list(adata.var_names), np.asarray(adata.varm[key])
    finally:
        adata.file.close()


def _pickle(path: Path, key: str | None):
    held = load_pickle(path)
    if not isinstance(held, dict) or not held:
        raise ValueError("it is no dict of gene to vector")
    lengths = {np.size(vector) for vector in held.values()}
    if len(lengths) > 1:
        raise ValueError(f"vectors differ in length: {sorted(lengths)[:5]}")
    return list(held), np.stack([np.ravel(vector) for vector in held.values()])


_READERS: dict[str, Callable] = {
    ".csv": _text,
    ".tsv": _text,
    ".parquet": _parquet,
    ".npz": _npz,
    ".h5ad": _h5ad,
    ".pkl": _pickle,
    ".pickle": _pickle,
}
