"""Small tables whose features carry the expression, and models that are trained for a moment.

Nothing here imports torch before a model is made.
"""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

#: Spots of a section that is predicted in windows.
N_SPOTS = 496
SMALL = {"d_context": 16, "denoiser_kwargs": {"width": 32, "n_blocks": 2, "align_block": 1}}
QUICK = {
    "max_epochs": 5,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "datasplitter_kwargs": {"windows_per_epoch": 6},
}


def make_table(names=("A", "B", "C"), n_spots=40, n_genes=8, d_image=6, seed=0):
    """Spots on a jittered grid, rows of the sections interleaved, raw counts driven by the features."""
    rng = np.random.default_rng([seed, 0])
    loadings = 0.6 * np.random.default_rng(1).normal(size=(d_image, n_genes))
    n_obs = n_spots * len(names)
    grid = np.stack(np.meshgrid(np.arange(8.0), np.arange(n_spots // 8)), -1).reshape(-1, 2)
    coords = np.repeat(100 * grid, len(names), axis=0) + rng.uniform(-3, 3, (n_obs, 2)) + 100
    section = np.tile(list(names), n_spots)
    image = rng.normal(size=(n_obs, d_image)) + np.sin(coords / 200) @ rng.normal(size=(2, d_image))
    counts = rng.poisson(np.exp(1 + image @ loadings)).astype(np.float32)
    counts[np.arange(n_obs), rng.integers(n_genes, size=n_obs)] += 1
    obs = pd.DataFrame({"section": pd.Categorical(section)}, index=[f"{s}_{i}" for i, s in enumerate(section)])
    obs["total_counts"] = counts.sum(axis=1) + 20.0
    adata = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))
    adata.obsm["spatial"], adata.obsm["X_image"] = coords, image.astype(np.float32)
    features = {"encoder": "handcrafted", "version": "1", "patch_um": [100.0]}
    adata.uns["flagst"] = {
        "params": {"um_per_px": {name: 0.5 for name in names}, "layout": {name: "square" for name in names}},
        "features": {"X_image": features},
    }
    return adata


def make_model(adata, **kwargs):
    """An untrained model of a table, with small networks."""
    from flagst import FLAG

    FLAG.setup_anndata(adata)
    return FLAG(adata, **{"n_latent": 4, "network": SMALL} | kwargs)
