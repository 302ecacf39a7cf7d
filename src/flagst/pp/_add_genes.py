"""Add genes that were not measured to a table."""

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_anndata, require_unique
from flagst._keys import SCVI_PREFIX, VAR
from flagst.data.measured import measured_genes

if TYPE_CHECKING:
    from anndata import AnnData


def add_genes(adata: "AnnData", genes: Sequence[str]) -> "AnnData":
    """Add genes that were not measured to a table, so that a model can predict them.

    A targeted panel, or the array of another species, lacks genes that a gene model has vectors of. This function adds
    an empty column for each of them and marks it as not measured. Gene selection, scores and training then ignore these
    columns instead of treating them as genes without expression. A model predicts such a gene from its gene vector
    (:func:`flagst.pp.gene_embeddings`).

    Parameters
    ----------
    adata
        Table of spots.
    genes
        Names of genes. Genes that the table already has are left unchanged.

    Returns
    -------
    A new table with the genes of ``adata`` first, then the new ones.

    - ``X`` and ``layers``: (n_spots, n_genes), zero for the new genes.
    - ``var["flagst_measured"]``: bool, False for the new genes. Other columns of ``var`` are missing for them, and
      columns of bool are False.
    - ``varm``: zero rows for the new genes.
    - ``obs``, ``obsm``, ``obsp``, ``uns``: copies of those of ``adata``.

    Raises
    ------
    TypeError
        ``adata`` is a SpatialData.
    ValueError
        Gene names of ``adata``, or names in ``genes``, are repeated.

    Examples
    --------
    >>> wider = flagst.pp.add_genes(adata, ["ESR1"])
    >>> wider.n_vars - adata.n_vars, bool(wider.var.loc["ESR1", "flagst_measured"])
    (1, False)
    """
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    require_anndata(adata)
    genes = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    require_unique(adata.var_names, where="gene names", hint="Run adata.var_names_make_unique().")
    require_unique(genes, where="genes=", hint="Name each gene once.")
    new = [gene for gene in genes if gene not in adata.var_names]
    n_new = len(new)

    def wider(values):
        """``values`` with a column of zeros for each new gene."""
        if sp.issparse(values):
            return sp.hstack([values, sp.csr_matrix((adata.n_obs, n_new), dtype=values.dtype)], format="csr")
        return np.pad(np.asarray(values), ((0, 0), (0, n_new)))

    var = adata.var.reindex([*adata.var_names, *new])
    for name, column in adata.var.items():  # reindexing made them object
        if column.dtype == bool:
            var[name] = var[name].isin([True])
    var[VAR.measured] = np.append(measured_genes(adata), np.zeros(n_new, dtype=bool))
    var.index = pd.Index(var.index.astype(str), name=adata.var_names.name)
    return anndata.AnnData(
        X=None if adata.X is None else wider(adata.X),
        obs=adata.obs.copy(),
        var=var,
        # without the identifiers by which scvi-tools recognises a registered table
        uns={key: deepcopy(value) for key, value in adata.uns.items() if not key.startswith(SCVI_PREFIX)},
        obsm={key: value.copy() for key, value in adata.obsm.items()},
        obsp={key: value.copy() for key, value in adata.obsp.items()},
        varm={key: np.pad(np.asarray(value), ((0, n_new), (0, 0))) for key, value in adata.varm.items()},
        # newer versions of anndata list X among the layers, under the name None
        layers={key: wider(value) for key, value in adata.layers.items() if key is not None},
    )
