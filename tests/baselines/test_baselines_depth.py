"""The depth oracle recovers what depth alone decides, and says what it needs."""

import numpy as np
import pytest

from flagst import baselines


@pytest.fixture
def by_depth(train, query):
    """Expression that is an exact linear function of log1p(total counts)."""
    for adata in (train, query):
        adata.obs["total_counts"] = np.random.default_rng(adata.n_obs).integers(1000, 50_000, adata.n_obs).astype(float)
        slope = np.linspace(0.1, 1.0, adata.n_vars)
        adata.layers["exact"] = np.log1p(adata.obs["total_counts"].to_numpy())[:, None] * slope + 0.5
    return train, query


def test_depth_driven_data_are_recovered(by_depth):
    train, query = by_depth
    baselines.DepthOracle.setup_anndata(train, layer="exact")
    model = baselines.DepthOracle(train, target="identity")
    model.train()
    np.testing.assert_allclose(model.predict(query).layers["flagst"], query.layers["exact"], rtol=1e-4)


def test_image_is_not_used(by_depth):
    train, query = by_depth
    model = baselines.DepthOracle(train, target="log2")
    model.train()
    first = model.predict(query.copy()).layers["flagst"]
    query.obsm["X_image"] = query.obsm["X_image"][::-1].copy()
    np.testing.assert_array_equal(model.predict(query).layers["flagst"], first)


def test_measured_depth_is_needed(by_depth):
    train, query = by_depth
    model = baselines.DepthOracle(train)
    model.train()
    broken = query.copy()
    broken.obs.loc[broken.obs_names[2], "total_counts"] = -1.0
    with pytest.raises(ValueError, match="negative"):
        model.predict(broken)
    del query.obs["total_counts"]
    with pytest.raises(KeyError, match="total_counts"):
        model.predict(query)
