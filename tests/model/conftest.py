"""Small tables whose features carry the expression, and models trained for a moment."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

#: Of a section that is predicted in windows.
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
    from flagst import FLAG

    FLAG.setup_anndata(adata)
    return FLAG(adata, **{"n_latent": 4, "network": SMALL} | kwargs)


@pytest.fixture(scope="session")
def make():
    return SimpleNamespace(table=make_table, model=make_model, SMALL=SMALL, QUICK=QUICK)


@pytest.fixture(scope="session")
def trained(make):
    """Trained on three sections; tests must not change it."""
    model = make.model(make.table())
    model.train(**make.QUICK)
    return model


@pytest.fixture
def query(make):
    """Two sections the model has not seen."""
    return make.table(names=("X", "Y"), n_spots=24, seed=7)


@pytest.fixture(scope="module")
def slides(make):
    """Two sections, their rows interleaved."""
    return make.table(names=("X", "Y"), n_spots=N_SPOTS, seed=7)


@pytest.fixture
def small_parts(monkeypatch):
    """Nothing is decoded, looked at or written as a whole."""
    from flagst.data import store
    from flagst.model import slide

    monkeypatch.setattr(slide, "DECODED_VALUES", 8 * 150)
    monkeypatch.setattr(store, "CHUNK_ROWS", 170)


def snapshot(adata):
    """Everything a user owns in a table, copied."""
    return {
        "X": None if adata.X is None else adata.X.copy(),
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "obsm": {key: value.copy() for key, value in adata.obsm.items()},
        "layers": {key: value.copy() for key, value in adata.layers.items() if key is not None},
        "uns": str({key: adata.uns[key] for key in adata.uns}),
    }


def assert_unchanged(adata, before, *, keys=("X", "obs", "var", "obsm", "layers", "uns")):
    after = snapshot(adata)
    for key in ("obs", "var"):
        if key in keys:
            pd.testing.assert_frame_equal(after[key], before[key])
    if "X" in keys and before["X"] is not None:
        a, b = (x.toarray() if sp.issparse(x) else x for x in (after["X"], before["X"]))
        np.testing.assert_array_equal(a, b)
    for key in ("obsm", "layers"):
        if key in keys:
            assert list(after[key]) == list(before[key])
            for name in before[key]:
                np.testing.assert_array_equal(after[key][name], before[key][name])
    if "uns" in keys:
        assert after["uns"] == before["uns"]


@pytest.fixture(scope="session")
def state():
    return SimpleNamespace(of=snapshot, assert_unchanged=assert_unchanged)
