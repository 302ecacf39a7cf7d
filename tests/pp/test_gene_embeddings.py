"""gene_embeddings of genes: what is written, for which genes, and errors that change nothing."""

import anndata
import numpy as np
import pandas as pd
import pytest

from flagst import gfm, pp

GENES = ["a", "b", "c", "d"]


class Fixed:
    """An encoder of somebody else's."""

    name = "fixed"

    def __init__(self, vectors=None, known=None):
        self.vectors, self.known, self.asked = vectors, known, None

    def encode(self, adata, genes):
        self.asked = list(genes)
        vectors = np.arange(2.0 * len(genes)).reshape(-1, 2) + 1 if self.vectors is None else self.vectors
        return vectors, np.arange(len(genes)) != 1 if self.known is None else self.known

    def provenance(self):
        return {"encoder": self.name, "licence": "none"}


@pytest.fixture
def adata():
    return anndata.AnnData(np.ones((3, 4)), var=pd.DataFrame({"flagst_panel": [True, True, False, True]}, index=GENES))


def test_what_is_written(adata, tmp_path):
    encoder = Fixed()
    pp.gene_embeddings(adata, encoder)
    assert encoder.asked == ["a", "b", "d"]  # the panel
    assert adata.varm["X_gene"].dtype == np.float32
    np.testing.assert_array_equal(adata.varm["X_gene"], [[1, 2], [0, 0], [0, 0], [5, 6]])
    assert adata.var["flagst_has_vector"].tolist() == [True, False, False, True]
    record = adata.uns["flagst"]["gene_embeddings"]["X_gene"]
    assert record == {"encoder": "fixed", "licence": "none", "n_genes": 3, "n_found": 2, "missing": ["b"]}
    for name in ("t.h5ad", "t.zarr"):
        write, read = (
            (adata.write_h5ad, anndata.read_h5ad) if name.endswith("h5ad") else (adata.write_zarr, anndata.read_zarr)
        )
        write(tmp_path / name)
        back = read(tmp_path / name)
        np.testing.assert_array_equal(back.varm["X_gene"], adata.varm["X_gene"])
        found = dict(back.uns["flagst"]["gene_embeddings"]["X_gene"])
        assert found | {"missing": list(found["missing"])} == record


def test_genes_may_be_named_and_without_a_panel_all_are_meant(adata):
    pp.gene_embeddings(adata, Fixed(), genes=["d", "a", "c"], key_added="mine")
    np.testing.assert_array_equal(adata.varm["mine"], [[0, 0], [0, 0], [5, 6], [1, 2]])
    del adata.var["flagst_panel"]
    encoder = Fixed()
    pp.gene_embeddings(adata, encoder)
    assert encoder.asked == GENES and set(adata.uns["flagst"]["gene_embeddings"]) == {"mine", "X_gene"}


def test_a_path_is_opened(adata, tmp_path):
    np.savez(tmp_path / "v.npz", genes=["a", "b"], vectors=np.eye(2))
    pp.gene_embeddings(adata, tmp_path / "v.npz")
    np.testing.assert_array_equal(adata.varm["X_gene"], [[1, 0], [0, 1], [0, 0], [0, 0]])
    assert adata.uns["flagst"]["gene_embeddings"]["X_gene"]["file"] == "v.npz"


@pytest.mark.parametrize(
    ("source", "genes", "error", "reason"),
    [
        (Fixed(), ["a", "x"], KeyError, "no 'x'"),
        (Fixed(), ["a", "a"], ValueError, "genes= are not unique"),
        (Fixed(), [], ValueError, "no genes"),
        (Fixed(vectors=np.ones((2, 2))), None, ValueError, r"fixed returned vectors \(2, 2\).*3 genes"),
        (Fixed(vectors=np.full((3, 2), np.nan)), None, ValueError, "vectors of fixed has NaN"),
        (gfm.CoExpression, None, TypeError, "made already; got"),
        (np.eye(4), None, TypeError, "got ndarray"),
        ("nowhere.csv", None, FileNotFoundError, "nowhere.csv"),
    ],
)
def test_what_cannot_be_right_is_refused_and_nothing_is_changed(adata, source, genes, error, reason):
    with pytest.raises(error, match=reason):
        pp.gene_embeddings(adata, source, genes=genes)
    assert not adata.varm and not adata.uns and list(adata.var) == ["flagst_panel"]


def test_repeated_names(adata):
    adata.var_names = ["a", "a", "b", "c"]
    with pytest.raises(ValueError, match="not unique.*'a'"):
        pp.gene_embeddings(adata, Fixed())


def test_a_model_aligns_to_them(adata):
    """End to end, on simulated sections with co-expression of others."""
    import flagst

    sdata = flagst.datasets.simulated_sections(n_sections=3, n_spots=60, n_genes=20, seed=0)
    other = flagst.datasets.simulated_sections(n_sections=1, n_spots=100, n_genes=20, seed=5)["table"]
    table = sdata["table"]
    table.obsm["X_image"] = np.random.default_rng(0).normal(size=(table.n_obs, 10)).astype(np.float32)
    pp.gene_embeddings(table, gfm.CoExpression(other, n_components=8))
    flagst.FLAG.setup_anndata(table)
    model = flagst.FLAG(table, gfm="X_gene", max_steps=4)
    model.train(accelerator="cpu", enable_progress_bar=False)
    assert np.isfinite(model.history["align_loss_train"].to_numpy(float)).all()
