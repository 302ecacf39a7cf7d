"""What a prediction leaves in the table, and where the table is."""

import anndata as ad
import numpy as np
import pytest

import flagst
from flagst._keys import prediction_layers
from flagst.data.prediction_record import check_request, record_prediction, table_of, write_prediction

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


def test_requests_for_samples():
    check_request(structure=0, layer="x", n_samples=20, return_std=True, quantiles=(0.05, 0.95))
    for request, message in (
        ({"n_samples": 1, "return_std": True}, "return_std=True needs n_samples of at least 2; got 1"),
        ({"n_samples": 50, "quantiles": (0.05, 1)}, r"quantiles must lie between 0 and 1.*got \[0.05, 1\]"),
        ({"n_samples": 50, "quantiles": (float("nan"),)}, "quantiles must lie"),
        ({"n_samples": 19, "quantiles": (0.5,)}, "at least 20; got 19. Pass n_samples=50"),
        ({"structure": "auto"}, "structure must be between 0 and 1; got auto"),
    ):
        with pytest.raises(ValueError, match=message):
            check_request(**{"structure": 0.5, "layer": "x"} | request)


def test_parts_become_layers_and_the_rest_its_slots(table):
    parts = {part: np.full((4, 3), value, np.float32) for value, part in enumerate(("draw", "mean", "q05"))}
    given = {"params": {"seed": 3}, "train_pcc": None, "genes": GENES, "quantiles": (0.05,)}
    score, record = np.arange(4.0), {"levels": [0.05]}
    found = write_prediction(table, table, table, parts, layer="p", ood=score, calibration=record, **given)
    assert found is table and set(table.layers) - {None} == {"p", "p_mean", "p_q05"}
    assert (table.layers["p_q05"] == 2).all() and (table.layers["p_mean"] == 1).all()
    np.testing.assert_array_equal(table.obs["flagst_ood"], score)
    params = table.uns["flagst"]["params"]
    assert params["layer"] == "p" and params["seed"] == 3 and params["um_per_px"] == {"A": 0.5}
    assert table.uns["flagst"]["calibration"] == {"p": record}
    write_prediction(table, table, table, parts, layer="o", calibration={"levels": []}, **given)
    assert set(table.uns["flagst"]["calibration"]) == {"p", "o"}


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
