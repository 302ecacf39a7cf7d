"""Bins and cells as spots: training and prediction on squares, and on points of very uneven density."""

import numpy as np
import pytest

import flagst
from flagst.data.graph import moran_graph


def cells(make, names, n_spots=80, seed=0):
    """The test table with its spots moved: a dense cluster, a sparse field, and two cells on their own."""
    table = make.table(names=names, n_spots=n_spots, seed=seed)
    rng = np.random.default_rng([seed, 9])
    for name in names:
        rows = np.flatnonzero(table.obs["section"] == name)
        n_dense = int(0.7 * len(rows))
        dense, sparse = rng.normal(2000, 50, (n_dense, 2)), rng.uniform(500, 5000, (len(rows) - n_dense, 2))
        sparse[:2] = (-20_000, 0), (0, 30_000)
        table.obsm["spatial"][rows] = np.concatenate([sparse, dense])
    table.uns["flagst"]["params"]["layout"] = dict.fromkeys(names, "irregular")
    return table


@pytest.fixture(scope="module")
def trained_on_cells(make):
    model = make.model(cells(make, ("A", "B", "C")))
    model.train(**make.QUICK)
    return model


def test_cells_train_and_predict(make, trained_on_cells, caplog):
    query = cells(make, ("X", "Y"), n_spots=48, seed=7)
    prediction = trained_on_cells.predict(query, structure=0.5, n_samples=20, return_std=True, quantiles=(0.1, 0.9))
    assert "layout" not in caplog.text
    for layer in ("flagst", "flagst_mean", "flagst_std", "flagst_q10", "flagst_q90"):
        assert np.isfinite(prediction.layers[layer]).all()
    # a cell on its own varies from sample to sample as the others do
    alone = np.abs(query.obsm["spatial"]).max(axis=1) > 10_000
    sd = prediction.layers["flagst_std"].mean(axis=1)
    assert alone.sum() == 4 and 0.3 < sd[alone].mean() / sd[~alone].mean() < 3
    assert "irregular" in trained_on_cells.fitted_.moran


def test_prediction_does_not_depend_on_the_order_of_cells(make, trained_on_cells):
    query = cells(make, ("X", "Y"), n_spots=48, seed=7)
    shuffled = query[np.random.default_rng(0).permutation(query.n_obs)].copy()
    first = trained_on_cells.predict(query, structure=1).to_df(layer="flagst")
    second = trained_on_cells.predict(shuffled, structure=1).to_df(layer="flagst")
    np.testing.assert_allclose(second.loc[first.index], first, atol=1e-4)


def test_scores_use_the_graph_of_the_layout(make, trained_on_cells):
    query = cells(make, ("X",), n_spots=48, seed=7)
    prediction = trained_on_cells.predict(query, structure=0.5)
    scores = flagst.tl.evaluate(prediction)
    graph = moran_graph(prediction.obsm["spatial"], "irregular")
    expected = flagst.metrics.morans_i(np.asarray(prediction.layers["flagst"]), graph).mean()
    assert scores.loc["X", "moran_pred"] == pytest.approx(expected, abs=1e-6)


def test_spacing_of_the_training_sections_is_saved(make, trained, trained_on_cells, tmp_path):
    assert trained.spacing_["layout"] == "square" and trained.spacing_["pitch_um"] == pytest.approx(50, rel=0.05)
    assert trained_on_cells.spacing_["layout"] == "irregular"
    trained_on_cells.save(str(tmp_path / "model"))
    assert flagst.FLAG.load(str(tmp_path / "model")).spacing_ == trained_on_cells.spacing_
