"""A small predicted table: two sections, one gene constant in one of them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from flagst.data.targets import to_target


@pytest.fixture
def predicted():
    """70 spots (40 + 30, interleaved), 12 genes, raw counts, target log2, a noisy prediction."""
    rng = np.random.default_rng(0)
    n_spots, n_genes = 70, 12
    coords = np.column_stack([np.arange(n_spots) % 10, np.arange(n_spots) // 10]).astype(float)
    programs = np.exp(np.sin(coords @ rng.normal(size=(2, n_genes))))
    counts = rng.poisson(3 * programs).astype(np.float32)
    section = np.where(rng.permutation(n_spots) < 40, "A", "B")
    counts[section == "B", 0] = 2.0
    obs = pd.DataFrame({"section": pd.Categorical(section), "total_counts": counts.sum(1) + 50.0})
    obs.index = [f"{s}_{i}" for i, s in enumerate(section)]
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    adata = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var)
    adata.obsm["spatial"] = coords
    target = to_target(counts, None, "log2")
    adata.layers["flagst"] = target + rng.normal(scale=0.7, size=target.shape).astype(np.float32)
    params = {"target": "log2", "section_key": "section", "layout": {"A": "square", "B": "hex"}}
    adata.uns["flagst"] = {"params": params}
    return adata
