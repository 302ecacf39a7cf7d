"""Where a prediction goes: genes by name, in place only when they are the same ones."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from flagst.data.prediction_table import check_features, empty_query, prediction_table

GENES = ["g0", "g1", "g2"]


def _query(genes):
    rng = np.random.default_rng(0)
    table = ad.AnnData(sp.csr_matrix(rng.poisson(2, (5, len(genes))).astype(np.float32)))
    table.obs_names, table.var_names = [f"s{i}" for i in range(5)], genes
    table.obs["section"] = "A"
    table.obsm["spatial"] = rng.normal(size=(5, 2))
    table.obsm["frame"] = pd.DataFrame({"a": np.arange(5)}, index=table.obs_names)
    table.obsm["sparse"] = sp.eye(5, format="csr")
    table.uns["flagst"] = {"params": {"um_per_px": {"A": 0.5}}}
    table.var["length"] = np.arange(len(genes))
    return table


@pytest.mark.parametrize("genes", [GENES, GENES[::-1]])
def test_the_same_genes_in_any_order_are_written_in_place(genes):
    query = _query(genes)
    assert prediction_table(query, GENES, allow_missing=False) is query


def test_more_genes_give_a_new_table(caplog):
    query = _query(["x", "g2", "g0", "y", "g1"])
    with caplog.at_level(logging.INFO, logger="flagst"):
        table = prediction_table(query, GENES, allow_missing=False)
    assert "3 predicted genes of 5" in caplog.text
    assert list(table.var_names) == GENES and not table.is_view
    np.testing.assert_array_equal(table.X.toarray(), query[:, GENES].X.toarray())
    assert list(table.var["length"]) == [2, 4, 1]
    assert query.n_vars == 5 and "flagst_measured" not in table.var


def test_missing_genes_are_named():
    with pytest.raises(ValueError, match=r"lacks 2 of the model's 3 genes: \['g1', 'g2'\].*allow_missing=True"):
        prediction_table(_query(["g0", "x"]), GENES, allow_missing=False)


def test_missing_genes_are_marked_when_allowed(caplog):
    query = _query(["g2", "x"])
    with caplog.at_level(logging.WARNING, logger="flagst"):
        table = prediction_table(query, GENES, allow_missing=True)
    assert "['g0', 'g1']" in caplog.text
    assert list(table.var["flagst_measured"]) == [False, False, True]
    np.testing.assert_array_equal(table.X.toarray()[:, 2], query.X.toarray()[:, 0])
    assert table.X[:, :2].nnz == 0
    empty = ad.AnnData(obs=query.obs, var=query.var)
    assert prediction_table(empty, GENES, allow_missing=True).X is None


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_repeated_genes_are_refused():
    with pytest.raises(ValueError, match="not unique"):
        prediction_table(_query(["g0", "g0", "g1", "g2"]), GENES, allow_missing=False)


def test_an_empty_query_has_the_spots_and_no_expression():
    query = _query(["x"])
    table = empty_query(query, GENES)
    assert table.X is None and list(table.var_names) == GENES
    pd.testing.assert_frame_equal(table.obs, query.obs)
    pd.testing.assert_frame_equal(table.obsm["frame"], query.obsm["frame"])
    assert (table.obsm["sparse"] != query.obsm["sparse"]).nnz == 0
    table.obsm["spatial"][:] = 0
    table.uns["flagst"]["params"]["um_per_px"]["A"] = 9
    assert (query.obsm["spatial"] != 0).all() and query.uns["flagst"]["params"]["um_per_px"]["A"] == 0.5


def _with_features(**changes):
    query = _query(GENES)
    record = {
        "encoder": "handcrafted",
        "version": "1",
        "patch_um": [100.0, 200.0],
        "stain_normalise": "section",
        "encoder_params": {"threshold": 0.1, "levels": [1, 2]},
        "patch_px": 112,
        "source": "image",
    }
    query.uns["flagst"]["features"] = {"X_image": record | changes}
    return query


def test_features_of_another_kind_are_refused():
    expected = _with_features().uns["flagst"]["features"]
    check_features(_with_features(), expected, d_image=4, found=4)
    check_features(_with_features(patch_um=np.array([100.0, 200.0])), expected, d_image=4, found=4)  # after h5ad
    with pytest.raises(ValueError, match="trained on 4 image features; the query has 7. Run flagst.pp.image_features"):
        check_features(_with_features(), expected, d_image=4, found=7)
    check_features(
        _with_features(encoder_params={"threshold": np.float64(0.1), "levels": np.array([1, 2])}),
        expected, d_image=4, found=4,
    )  # fmt: skip
    for change in (
        {"encoder": "uni"},
        {"version": "2"},
        {"patch_um": [50.0]},
        {"stain_normalise": "none"},
        {"encoder_params": {"threshold": 0.2, "levels": [1, 2]}},
        {"patch_px": 224},
    ):
        (key, value), *_ = change.items()
        with pytest.raises(ValueError, match=f"with {key} .*Run flagst.pp.image_features"):
            check_features(_with_features(**change), expected, d_image=4, found=4)


def test_features_of_another_image_are_a_warning(caplog):
    expected = _with_features().uns["flagst"]["features"]
    with caplog.at_level(logging.WARNING, logger="flagst"):
        check_features(_with_features(), expected, d_image=4, found=4)
        assert not caplog.records
        check_features(_with_features(source="hires"), expected, d_image=4, found=4)
    assert "with source 'image'; the query's have 'hires'" in caplog.text


def test_features_without_a_record_are_accepted():
    check_features(_query(GENES), _with_features().uns["flagst"]["features"], d_image=4, found=4)
    check_features(_with_features(encoder="uni"), {}, d_image=4, found=4)


def test_the_key_of_the_features_counts():
    expected = {"X_other": {"encoder": "uni"}}
    query = _query(GENES)
    query.uns["flagst"]["features"] = {"X_other": {"encoder": "handcrafted"}}
    check_features(query, expected, d_image=4, found=4)
    with pytest.raises(ValueError, match="encoder"):
        check_features(query, expected, d_image=4, found=4, image_key="X_other")
