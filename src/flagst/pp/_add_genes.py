"""Genes that a table has no counts of, but that shall be predicted."""

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
    """A table with further genes that were not measured: give them vectors, and a model can predict them.

    Targeted panels and other species' arrays lack genes that a gene model has vectors of. Their columns are empty here
    and marked, so that no panel, score or training takes them for genes without expression.

    Parameters
    ----------
    adata
        Table of spots.
    genes
        Names; those that the table has stay as they are.

    Returns
    -------
    A new table: the genes of ``adata``, then the others with nothing in ``X`` and layers, and
    ``var["flagst_measured"]`` False. ``obs``, ``obsm``, ``obsp`` and ``uns`` are copies of those of
    ``adata``; other columns of ``var`` are missing for the new genes (flags False), ``varm`` has zeros.

    Raises
    ------
    ValueError
        Repeated names.

    Examples
    --------
    >>> import flagst
    >>> adata = flagst.datasets.simulated_sections(n_sections=1)["table"]
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
        """More columns, all zero."""
        if sp.issparse(values):
            return sp.hstack([values, sp.csr_matrix((adata.n_obs, n_new), dtype=values.dtype)], format="csr")
        return np.pad(np.asarray(values), ((0, 0), (0, n_new)))

    var = adata.var.reindex([*adata.var_names, *new])
    for name, column in adata.var.items():  # flags stay flags
        if column.dtype == bool:
            var[name] = var[name].isin([True])
    var[VAR.measured] = np.append(measured_genes(adata), np.zeros(n_new, dtype=bool))
    var.index = pd.Index(var.index.astype(str), name=adata.var_names.name)
    return anndata.AnnData(
        X=None if adata.X is None else wider(adata.X),
        obs=adata.obs.copy(),
        var=var,
        # but what scvi-tools knows the other table by
        uns={key: deepcopy(value) for key, value in adata.uns.items() if not key.startswith(SCVI_PREFIX)},
        obsm={key: value.copy() for key, value in adata.obsm.items()},
        obsp={key: value.copy() for key, value in adata.obsp.items()},
        varm={key: np.pad(np.asarray(value), ((0, n_new), (0, 0))) for key, value in adata.varm.items()},
        # newer anndata has X among the layers, as None
        layers={key: wider(value) for key, value in adata.layers.items() if key is not None},
    )
