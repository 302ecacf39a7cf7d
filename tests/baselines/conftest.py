"""Small sections whose genes follow the image, the library size and a shared residual program."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

N_GENES = 10


def make_table(names: list[str], *, seed: int = 0, n_side: int = 7) -> ad.AnnData:
    """Square arrays of ``n_side ** 2`` spots, 10 genes, 6 image features, a gene program no feature sees."""
    rng = np.random.default_rng(0)
    to_genes, program = rng.normal(size=(6, N_GENES)), rng.normal(size=N_GENES)
    rng = np.random.default_rng(seed + 1)
    grid = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=-1).reshape(-1, 2) * 100.0
    parts = []
    for name in names:
        image = rng.normal(size=(len(grid), 6))
        rate = np.exp(0.3 * image @ to_genes + 0.6 * rng.normal(size=(len(grid), 1)) * program + 1.5)
        counts = rng.poisson(rate).astype(np.float32)
        counts[0] += 1
        obs = pd.DataFrame({"section": name}, index=[f"{name}_{i}" for i in range(len(grid))])
        obs["total_counts"] = counts.sum(axis=1) + 20.0
        part = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))
        part.obsm["spatial"], part.obsm["X_image"] = grid.copy(), image.astype(np.float32)
        parts.append(part)
    table = ad.concat(parts)
    table.obs["section"] = table.obs["section"].astype("category")
    return table


@pytest.fixture(scope="session")
def _train():
    return make_table(["A", "B", "C"])


@pytest.fixture
def train(_train) -> ad.AnnData:
    """Three sections of 49 spots."""
    return _train.copy()


@pytest.fixture
def query() -> ad.AnnData:
    """One more section."""
    return make_table(["Q"], seed=5)
