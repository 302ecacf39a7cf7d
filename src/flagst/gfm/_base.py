"""What a gene encoder is, and how one is found for a file or folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from flagst.gfm.geneformer import Geneformer
from flagst.gfm.scgpt import ScGPT
from flagst.gfm.table import Table

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


@runtime_checkable
class SpotEncoder(GeneEncoder, Protocol):
    """A gene encoder that can also look at spots: it gives a gene another vector in every spot, and spots vectors."""

    def encode_spots(
        self,
        adata: "AnnData",
        genes: Sequence[str],
        *,
        mode: str = "contextual",
        layer: str | None = None,
        batch_size: int = 8,
        device: str = "cpu",
        half: bool = False,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Vectors of genes in spots, or of spots, a batch of spots at a time.

        Neither the batch size nor the order of genes or spots changes them, but for rounding.

        Parameters
        ----------
        adata
            Raw counts of the whole transcriptome, not only of ``genes``: a gene's context is the others. Read a batch
            at a time, so that they stay sparse, or in their file.
        genes
            Gene names; for ``mode="contextual"``.
        mode
            ``"contextual"``, a vector per spot and gene, or ``"cell"``, a vector per spot.
        layer
            Layer with the counts; ``None`` for ``X``.
        batch_size
            Spots per batch.
        device
            As torch names it, such as ``"cpu"`` or ``"cuda:0"``.
        half
            Half precision: bfloat16 on a CPU, else float16.

        Returns
        -------
        Iterator over ``rows``, ``(n_batch,)`` int64, ``vectors`` and ``mask``. Contextual: ``(n_batch, n_genes, d)``
        float32, zero where the mask is false, and ``(n_batch, n_genes)`` bool, false for genes the model does not know,
        that are not expressed in the spot, or that are beyond the model's length. Cell: ``(n_batch, d)`` float32 and
        ``(n_batch,)`` bool, false for spots without a gene that the model knows.
        """
        ...

    def provenance(self, mode: str = "static") -> dict[str, Any]:
        """See :meth:`GeneEncoder.provenance`; with the settings of a mode of :meth:`encode_spots`."""
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
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no gene model at {path}.")
    if path.is_file():
        return Table(path, **settings)
    for file, kind in (("vocab.json", ScGPT), ("config.json", Geneformer)):
        if (path / file).is_file():
            return kind(path, **settings)
    raise ValueError(
        f"{path} is no folder of scGPT (vocab.json) or Geneformer (config.json); found "
        f"{sorted(p.name for p in path.iterdir())[:10]}. For a table of vectors, name the file."
    )
