"""What a gene encoder is, and how one is found for a file or folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


@runtime_checkable
class GeneEncoder(Protocol):
    """Gives genes vectors.

    Attributes
    ----------
    name
        Written beside the vectors.
    """

    name: str

    def encode(self, adata: "AnnData", genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of ``genes``.

        Parameters
        ----------
        adata
            Table the genes belong to; what an encoder may read further names of genes from.
        genes
            Gene names.

        Returns
        -------
        ``(n_genes, d)`` float32, zero where a gene has no vector, and ``(n_genes,)`` bool, which have one.
        """
        ...

    def provenance(self) -> dict[str, Any]:
        """Where the vectors come from, in plain values: model, files and their SHA-256, settings, licence."""
        ...


def open_gene_model(path: str | Path, **settings) -> GeneEncoder:
    """Gene encoder for a file or folder, told by what is in it.

    Parameters
    ----------
    path
        Folder of scGPT (``vocab.json``) or Geneformer (``config.json``), or a file of
        :class:`flagst.gfm.Table`.
    **settings
        Passed on to the encoder.

    Returns
    -------
    A gene encoder.

    Raises
    ------
    FileNotFoundError
        Nothing there.
    ValueError
        A folder that is neither.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no gene model at {path}.")
    if path.is_file():
        from flagst.gfm.table import Table

        return Table(path, **settings)
    if (path / "vocab.json").is_file():
        from flagst.gfm.scgpt import ScGPT

        return ScGPT(path, **settings)
    if (path / "config.json").is_file():
        from flagst.gfm.geneformer import Geneformer

        return Geneformer(path, **settings)
    found = sorted(p.name for p in path.iterdir())[:10]
    raise ValueError(
        f"{path} is no folder of scGPT (vocab.json) or Geneformer (config.json); found {found}. "
        "For a table of vectors, name the file."
    )
