"""Vectors of genes, for alignment."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_finite, require_key, require_unique
from flagst._keys import EMBEDDINGS, SLOT, UNS, VAR, VARM
from flagst.gfm import GeneEncoder, open_gene_model

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger("flagst")


def gene_embeddings(
    adata: "AnnData",
    source: "GeneEncoder | str | Path",
    *,
    genes: Sequence[str] | None = None,
    key_added: str = VARM.gene,
) -> None:
    """Give genes vectors that :class:`flagst.FLAG` can align to: ``FLAG(adata, gfm="X_gene")``.

    Parameters
    ----------
    adata
        Table of the spots.
    source
        A gene encoder of :mod:`flagst.gfm`; or a file of vectors, or the folder of a gene model, as
        :func:`flagst.gfm.open_gene_model` knows them. Nothing is downloaded.
    genes
        Genes that get a vector; by default the panel (``var["flagst_panel"]``) if there is one, else all.
    key_added
        Name in ``varm``.

    Writes
    ------
    ``varm[key_added]``
        (n_genes, d) float32, zero for genes without a vector.
    ``var["flagst_has_vector"]``
        bool, those that have one in the array written last.
    ``uns["flagst"]["gene_embeddings"][key_added]``
        Encoder, file and its SHA-256 or sections, licence if known, number of genes asked for and found.

    Raises
    ------
    KeyError
        Genes that ``adata`` lacks.
    ValueError
        Repeated gene names, an unreadable file (named), a source that knows less than a tenth of the genes, or one
        that returns values that are not finite or of another shape.
    TypeError
        ``source`` of another type.

    Examples
    --------
    >>> import flagst
    >>> adata = flagst.datasets.simulated_sections(n_sections=1)["table"]
    >>> reference = flagst.datasets.simulated_sections(n_sections=2, seed=7)["table"]
    >>> flagst.pp.gene_embeddings(adata, flagst.gfm.CoExpression(reference, n_components=16))
    >>> adata.varm["X_gene"].shape
    (60, 16)
    """
    if isinstance(source, (str, Path)):
        source = open_gene_model(source)
    if isinstance(source, type) or not isinstance(source, GeneEncoder):
        raise TypeError(
            f"source must be a path or a gene encoder of flagst.gfm, made already; got {type(source).__name__}."
        )
    require_unique(adata.var_names, where="gene names", hint="Run adata.var_names_make_unique().")
    if genes is None:
        panel = adata.var[VAR.panel].to_numpy(bool) if VAR.panel in adata.var else np.ones(adata.n_vars, bool)
        genes = adata.var_names[panel]
    genes = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    require_unique(genes, where="genes=", hint="Name each gene once.")
    if not genes:
        raise ValueError("There are no genes to give vectors to.")
    for gene in genes:
        require_key(adata.var.index, gene, where="adata.var_names", hint="Leave it out of genes=.")
    vectors, known = source.encode(adata, genes)
    vectors, known = np.asarray(vectors, dtype=np.float32), np.asarray(known, dtype=bool)
    if vectors.ndim != 2 or len(vectors) != len(genes) or known.shape != (len(genes),):
        raise ValueError(
            f"{source.name} returned vectors {vectors.shape} and a mask {known.shape} for {len(genes)} genes; "
            "(n_genes, d) and (n_genes,) are needed."
        )
    require_finite(vectors, where=f"The vectors of {source.name}", hint="Mark such genes as not known.")
    rows = adata.var_names.get_indexer(genes)
    written, has_vector = np.zeros((adata.n_vars, vectors.shape[1]), np.float32), np.zeros(adata.n_vars, bool)
    written[rows], has_vector[rows] = np.where(known[:, None], vectors, 0), known
    adata.varm[key_added], adata.var[VAR.has_vector] = written, has_vector
    record = source.provenance() | {EMBEDDINGS.n_genes: len(genes), EMBEDDINGS.n_found: int(known.sum())}
    adata.uns.setdefault(UNS.flagst, {}).setdefault(SLOT.gene_embeddings, {})[key_added] = record
    logger.info("%d of %d genes have a vector of %s in varm[%r].", known.sum(), len(genes), source.name, key_added)
