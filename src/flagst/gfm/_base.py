"""The protocols of gene and spot encoders, and how one is opened from a file or folder."""

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
    """Gives each gene one vector.

    Any object with this attribute and these methods is a gene encoder.

    Attributes
    ----------
    name
        Written next to the vectors.

    Examples
    --------
    >>> isinstance(flagst.gfm.CoExpression(adata), flagst.gfm.GeneEncoder)
    True
    """

    name: str

    def encode(self, adata: "AnnData", genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return a vector for each gene.

        Parameters
        ----------
        adata
            Table of the genes. An encoder may read other names of genes from its ``var``.
        genes
            Gene names.

        Returns
        -------
        vectors
            ``(n_genes, d)`` float32; zeros for a gene without vector.
        known
            ``(n_genes,)`` bool; true where the gene has a vector.

        Examples
        --------
        >>> vectors, known = flagst.gfm.CoExpression(adata).encode(adata, list(adata.var_names))
        >>> vectors.shape, known.shape
        ((20, 16), (20,))
        """
        ...

    def provenance(self) -> dict[str, Any]:
        """Describe where the vectors come from.

        Returns
        -------
        Plain values: model, files and their SHA-256, settings, licence.

        Examples
        --------
        >>> flagst.gfm.CoExpression(adata).provenance()["encoder"]
        'coexpression'
        """
        ...


@runtime_checkable
class SpotEncoder(GeneEncoder, Protocol):
    """A gene encoder that also looks at spots: it gives each gene a vector per spot, or each spot one vector.

    Examples
    --------
    >>> isinstance(flagst.gfm.CoExpression(adata), flagst.gfm.SpotEncoder)
    False
    """

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
        """Return vectors of genes in spots, or of spots, one batch of spots at a time.

        Neither the batch size nor the order of genes or spots changes the vectors, except for rounding.

        Parameters
        ----------
        adata
            Raw counts of the whole transcriptome, not only of ``genes``: the other genes are the context of a gene.
            Counts are read one batch at a time, so the table may be sparse, or backed by a file.
        genes
            Gene names; used with ``mode="contextual"`` only.
        mode
            ``"contextual"``: a vector per spot and gene. ``"cell"``: a vector per spot.
        layer
            Layer of the counts; ``None`` for ``X``.
        batch_size
            Number of spots per batch.
        device
            Device of the network, as torch names it: ``"cpu"``, ``"cuda:0"``.
        half
            Compute in half precision: bfloat16 on a CPU, float16 elsewhere.

        Returns
        -------
        An iterator over ``rows, vectors, mask`` of a batch. ``rows`` is ``(n_batch,)`` int64, rows of ``adata``.
        Contextual: ``vectors`` is ``(n_batch, n_genes, d)`` float32, and ``mask`` ``(n_batch, n_genes)`` bool, false
        for a gene that the model does not know, that is not expressed in the spot, or that is beyond the length of the
        model. Cell: ``(n_batch, d)`` float32 and ``(n_batch,)`` bool, false for a spot without a gene that the model
        knows. Vectors are zero where the mask is false.

        Examples
        --------
        >>> encoder = flagst.gfm.ScGPT("scGPT_human")  # doctest: +SKIP
        >>> rows, vectors, mask = next(encoder.encode_spots(adata, ["ERBB2", "GNAS"]))  # doctest: +SKIP
        >>> vectors.shape  # doctest: +SKIP
        (8, 2, 512)
        """
        ...

    def provenance(self, mode: str = "static") -> dict[str, Any]:
        """Describe where the vectors come from, as :meth:`GeneEncoder.provenance` does.

        Parameters
        ----------
        mode
            ``"static"``, or a mode of :meth:`encode_spots`, which adds the settings that change its vectors.

        Returns
        -------
        Plain values.

        Examples
        --------
        >>> flagst.gfm.ScGPT("scGPT_human").provenance("cell")["pooling"]  # doctest: +SKIP
        'cls'
        """
        ...


def open_gene_model(path: str | Path, **settings) -> GeneEncoder:
    """Open a gene encoder from a file or folder; the content says which model it is.

    Parameters
    ----------
    path
        Folder of scGPT (it has ``vocab.json``) or Geneformer (``config.json``), or a file for
        :class:`flagst.gfm.Table`.
    **settings
        Settings of :class:`ScGPT`, :class:`Geneformer` or :class:`Table`.

    Returns
    -------
    The gene encoder.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``path``, or a file of the model is missing.
    ValueError
        The folder belongs to neither model, or a file is broken (the message names it).

    Examples
    --------
    >>> np.savez("vectors.npz", genes=["ERBB2", "GNAS"], vectors=np.eye(2))
    >>> flagst.gfm.open_gene_model("vectors.npz").name
    'table'
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
