"""What a prediction leaves in the table, and where the table is."""

import anndata as ad
import numpy as np
import pytest

import flagst
from flagst.data.record import check_request, prediction_layers, record_prediction, table_of

GENES = ["g0", "g1", "g2"]


@pytest.fixture
def table():
    made = ad.AnnData(np.ones((4, 3), np.float32))
    made.var_names = ["g2", "g0", "g1"]
    made.uns["flagst"] = {"params": {"um_per_px": {"A": 0.5}, "structure": 0.1}, "genes": {"flavor": "hmhvg"}}
    return made


def test_columns_are_matched_by_name(table):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    record_prediction(table, {"flagst": values}, params={}, train_pcc=np.array([0.1, 0.2, 0.3]), genes=GENES)
    np.testing.assert_array_equal(table[:, GENES].layers["flagst"], values)
    np.testing.assert_allclose(table.var.loc[GENES, "flagst_train_pcc"], [0.1, 0.2, 0.3])


def test_params_are_added_and_the_rest_stays(table):
    before = table.uns["flagst"]["params"]
    record_prediction(table, {}, params={"structure": 0.5, "target": "log2"}, train_pcc=None, genes=GENES)
    slot = table.uns["flagst"]
    assert slot["params"] == {"um_per_px": {"A": 0.5}, "structure": 0.5, "target": "log2"}
    assert slot["genes"] == {"flavor": "hmhvg"} and slot["version"] == flagst.__version__
    assert before["structure"] == 0.1  # copies of the table may share the old dictionary


def test_a_stale_ranking_of_genes_is_removed(table):
    table.var["flagst_train_pcc"] = 1.0
    record_prediction(table, {}, params={}, train_pcc=None, genes=GENES)
    assert "flagst_train_pcc" not in table.var


def test_requests_out_of_range():
    check_request(structure=1, layer="flagst")
    for structure in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"structure must be between 0 and 1; got {structure}"):
            check_request(structure=structure, layer="flagst")
    with pytest.raises(ValueError, match="layer='a/b' cannot be written.*without '/'"):
        check_request(structure=0.5, layer="a/b")


def test_layer_names():
    assert prediction_layers("flagst") == {"mean": "flagst_mean", "std": "flagst_std"}
    assert prediction_layers("other") == {"mean": "other_mean", "std": "other_std"}


def test_table_of(table):
    class Data:
        tables = {"table": table}

    assert table_of(table) is table and table_of(Data()) is table
    with pytest.raises(KeyError, match=r"no 'cells'; found \['table'\].*table_key="):
        table_of(Data(), "cells")
    with pytest.raises(TypeError, match="AnnData or a SpatialData; got ndarray"):
        table_of(np.ones(3))
