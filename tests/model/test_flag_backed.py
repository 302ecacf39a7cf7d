"""Counts that stay in a file: the same model as in memory, and no more of them read at once than asked for."""

import logging

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from flagst.data import from_anndata, stored

FORMATS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda counts: counts.toarray()}


def _prediction(make, adata, query):
    model = make.model(adata)
    model.train(**make.QUICK)
    return model.predict(query.copy()).layers["flagst"]


def _in_zarr(adata, path):
    """A table whose counts are those of a zarr store, still there."""
    import zarr

    adata.write_zarr(path)
    table = adata.copy()
    table.X = ad.io.sparse_dataset(zarr.open(path, mode="r")["X"])
    return table


@pytest.mark.parametrize("kind", [*FORMATS, "zarr"])
def test_counts_on_disk_train_the_same_model(make, query, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(stored, "ROWS_AT_A_TIME", 50)  # of 120
    adata = make.table()
    expected = _prediction(make, adata.copy(), query)
    if kind == "zarr":
        backed = _in_zarr(adata, tmp_path / "table.zarr")
    else:
        adata.X = FORMATS[kind](adata.X)
        adata.write_h5ad(tmp_path / "table.h5ad")
        backed = ad.read_h5ad(tmp_path / "table.h5ad", backed="r")
    assert not isinstance(backed.X, np.ndarray) and not sp.issparse(backed.X)
    np.testing.assert_array_equal(_prediction(make, backed, query), expected)
    assert not isinstance(backed.X, np.ndarray) and not sp.issparse(backed.X)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_table_on_disk_is_predicted_too(make, trained, tmp_path, kind):
    """Also when it has more genes than the model."""
    genes = trained.genes_
    adata = make.table(names=("X", "Y"), n_genes=len(genes) + 2, n_spots=24, seed=7)
    expected = trained.predict(adata.copy()).layers["flagst"]
    if kind == "zarr":
        query = _in_zarr(adata, tmp_path / "table.zarr")
    else:
        adata.write_h5ad(tmp_path / "table.h5ad")
        query = ad.read_h5ad(tmp_path / "table.h5ad", backed="r")
    predicted = trained.predict(query)
    assert list(predicted.var_names) == genes
    np.testing.assert_array_equal(predicted.layers["flagst"], expected)


def test_counts_are_read_in_parts(make, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(stored, "ROWS_AT_A_TIME", 50)
    adata = make.table()
    adata.write_h5ad(tmp_path / "csr.h5ad")
    parts = list(stored.read_rows(ad.read_h5ad(tmp_path / "csr.h5ad", backed="r").X))
    assert [part.shape[0] for _, part in parts] == [50, 50, 20]
    for rows, part in parts:
        np.testing.assert_array_equal(part.toarray(), adata.X[rows].toarray())
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "csc.h5ad")
    with caplog.at_level(logging.WARNING, logger="flagst"):
        ((_, whole),) = stored.read_rows(ad.read_h5ad(tmp_path / "csc.h5ad", backed="r").X)
    np.testing.assert_array_equal(whole.toarray(), adata.X.toarray())
    assert "stored by genes (csc)" in caplog.text


def test_total_counts_come_from_the_file_where_they_are_not_recorded(make, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "ROWS_AT_A_TIME", 50)
    adata = make.table()
    del adata.obs["total_counts"]
    adata.write_h5ad(tmp_path / "table.h5ad")
    backed = ad.read_h5ad(tmp_path / "table.h5ad", backed="r")
    depth = from_anndata.total_counts(backed, backed.X)
    np.testing.assert_array_equal(depth, adata.X.toarray().sum(axis=1))


def test_contents_are_checked_in_every_part(make, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "ROWS_AT_A_TIME", 50)
    adata = make.table()
    adata.X[110, 0] = 0.5
    adata.write_h5ad(tmp_path / "table.h5ad")
    with pytest.raises(ValueError, match=r"adata.X has non-integer values \(for example 0.5\)"):
        make.model(ad.read_h5ad(tmp_path / "table.h5ad", backed="r"))
