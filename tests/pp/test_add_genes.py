"""add_genes: empty columns that are not treated as measured, and gene vectors that predict them."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from flagst import FLAG, gfm, pp


@pytest.fixture
def adata():
    var = pd.DataFrame({"flagst_panel": [True, False], "n": [1, 2], "kind": ["x", "y"]}, index=["a", "b"])
    adata = anndata.AnnData(sp.csr_matrix([[1.0, 2.0], [0.0, 3.0], [4.0, 0.0]]), var=var)
    adata.layers["dense"] = np.arange(6.0).reshape(3, 2)
    adata.obsm["spatial"], adata.varm["v"] = np.ones((3, 2)), np.ones((2, 4), np.float32)
    adata.uns = {"flagst": {"params": {"target": "log2"}}, "_scvi_uuid": "1"}
    return adata


def test_columns_are_empty_and_marked(adata):
    wide = pp.add_genes(adata, ["c", "a", "d"])
    assert list(wide.var_names) == ["a", "b", "c", "d"] and list(adata.var_names) == ["a", "b"]
    np.testing.assert_array_equal(wide.X.toarray(), np.hstack([adata.X.toarray(), np.zeros((3, 2))]))
    np.testing.assert_array_equal(wide.layers["dense"], np.hstack([adata.layers["dense"], np.zeros((3, 2))]))
    np.testing.assert_array_equal(wide.varm["v"], np.vstack([np.ones((2, 4)), np.zeros((2, 4))]))
    assert wide.var["flagst_measured"].tolist() == [True, True, False, False]
    assert wide.var["flagst_panel"].tolist() == [True, False, False, False]
    assert wide.var["kind"].tolist()[:2] == ["x", "y"] and wide.var["kind"].isna().tolist()[2:] == [True, True]
    wide.uns["flagst"]["params"]["target"] = "lognorm"
    assert adata.uns["flagst"]["params"]["target"] == "log2" and "_scvi_uuid" not in wide.uns


def test_what_was_not_measured_before_stays_so(adata, tmp_path):
    again = pp.add_genes(pp.add_genes(adata, "c"), ["d"])
    assert again.var["flagst_measured"].tolist() == [True, True, False, False]
    again.write_h5ad(tmp_path / "wide.h5ad")
    assert anndata.read_h5ad(tmp_path / "wide.h5ad").var["flagst_measured"].tolist() == [True, True, False, False]


def test_repeated_names_are_refused(adata):
    with pytest.raises(ValueError, match="Name each gene once"):
        pp.add_genes(adata, ["c", "c"])


def test_a_gene_that_no_table_has_is_predicted_from_its_vector(tmp_path):
    from flagst import datasets

    sdata = datasets.simulated_sections(n_sections=2, n_spots=60, n_genes=12)
    pp.image_features(sdata, progress=False)
    whole = sdata["table"]
    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    np.savez(tmp_path / "v.npz", genes=whole.var_names.to_numpy(str), vectors=vectors)
    hidden = str(whole.var_names[3])
    wide = pp.add_genes(whole[:, whole.var_names != hidden].copy(), [hidden])
    pp.gene_embeddings(wide, gfm.Table(tmp_path / "v.npz"))
    FLAG.setup_anndata(wide)
    model = FLAG(wide, gfm="X_gene", n_latent=2, diffusion=False)
    assert hidden not in model.genes_ and len(model.genes_) == 11
    with pytest.warns(UserWarning, match="spatial blocks"):
        model.train()
    out = model.predict(wide, genes=[hidden], structure=0)
    assert out.layers["flagst"].std() > 0 and not out.var["flagst_trained"].item()
