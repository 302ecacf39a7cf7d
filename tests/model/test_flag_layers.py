"""Several layers in one table: predictions beside each other, raw counts beside X."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc

import flagst
from flagst import FLAG


@pytest.fixture(scope="module")
def log2(make):
    """Trained on the same sections as ``trained``, in another unit."""
    model = make.model(make.table(), target="log2", gfm=None)
    model.train(**make.QUICK)
    return model


def normalised(table):
    """Counts in a layer, X normalised: what scanpy's tutorials make."""
    table.layers["counts"] = table.X.copy()
    sc.pp.normalize_total(table, target_sum=1e4)
    sc.pp.log1p(table)
    return table


@pytest.fixture(scope="module")
def layered(make):
    table = normalised(make.table())
    FLAG.setup_anndata(table, layer="counts")
    model = FLAG(table, n_latent=4, network=make.SMALL)
    model.train(**make.QUICK)
    return model


def test_a_layer_is_scored_in_its_own_unit(trained, log2, query):
    trained.predict(query, layer="mine", quantiles=(0.05, 0.95), n_samples=20)
    alone = {layer: flagst.tl.evaluate(query, layer) for layer in ("mine", "mine_mean", "mine_q95")}
    log2.predict(query, layer="other", structure=1)
    for layer, expected in alone.items():
        # to rounding: the ranks behind "pcc10_train" are the other model's by now, all 8 genes are in it
        np.testing.assert_allclose(flagst.tl.evaluate(query, layer), expected, atol=1e-12)
        assert query.uns["flagst"]["metrics"][layer]["truth"] == "X as lognorm"
    other = flagst.tl.evaluate(query, "other")
    assert other.equals(flagst.tl.evaluate(query, "other", target="log2"))
    made = query.uns["flagst"]["predictions"]
    assert {name: (p["target"], p["structure"], p["model"]) for name, p in made.items()} == {
        "mine": ("lognorm", 0.5, "FLAG"),
        "other": ("log2", 1.0, "FLAG"),
    }
    (figure,) = {ax.figure for ax in flagst.pl.spatial(query, "g0", layer="mine", show=False).ravel()}
    assert any("counts per 10,000" in ax.get_ylabel() for ax in figure.axes)


def test_what_is_known_of_layers_survives_a_file(trained, log2, query, tmp_path):
    trained.predict(query, layer="mine")
    log2.predict(query, layer="other")
    expected = flagst.tl.evaluate(query, "mine")
    query.write_h5ad(tmp_path / "query.h5ad")
    again = ad.read_h5ad(tmp_path / "query.h5ad")
    np.testing.assert_allclose(flagst.tl.evaluate(again, "mine"), expected)


def test_a_baseline_beside_a_prediction_leaves_it_alone(trained, query, make):
    trained.predict(query, quantiles=(0.05, 0.95), n_samples=20)
    before = {name: query.layers[name].copy() for name in query.layers if name is not None}
    columns = query.obs["flagst_ood"].copy(), query.var.copy()
    baseline = flagst.baselines.Mean(make.table())
    baseline.train()
    for _ in range(2):
        baseline.predict(query, layer="average")
        np.testing.assert_array_equal(query.obs["flagst_ood"], columns[0])
        assert query.var["flagst_trained"].equals(columns[1]["flagst_trained"])
        assert "history" in query.uns["flagst"] and "flagst" in query.uns["flagst"]["calibration"]
    for name, values in before.items():
        np.testing.assert_array_equal(query.layers[name], values)
    baseline.predict(query)  # in place of it
    assert "flagst_q05" not in query.layers and "flagst" not in query.uns["flagst"]["calibration"]
    assert "flagst_ood" not in query.obs and "flagst_trained" not in query.var and "history" not in query.uns["flagst"]


def test_counts_may_be_in_a_layer(layered, trained, make, tmp_path):
    query, plain = normalised(make.table(names=("X", "Y"), seed=7)), make.table(names=("X", "Y"), seed=7)
    layered.predict(query)
    trained.predict(plain)
    np.testing.assert_allclose(query.layers["flagst"], plain.layers["flagst"], atol=1e-5)
    np.testing.assert_allclose(flagst.tl.evaluate(query), flagst.tl.evaluate(plain), atol=1e-5)
    assert query.uns["flagst"]["metrics"]["flagst"]["truth"] == "layer counts as lognorm"
    ceilings = [flagst.tl.structure_ceiling(table, n_splits=2) for table in (query, plain)]
    np.testing.assert_allclose(*ceilings, atol=1e-5)
    assert flagst.pl.structure(query, show=False).shape == (2, 3)
    assert flagst.pl.spatial(query, "g0", show=False).shape == (2, 2)
    some = layered.predict(query[:, ["g1", "g0", *layered.genes_[2:]]].copy())
    np.testing.assert_allclose(flagst.tl.evaluate(some), flagst.tl.evaluate(plain), atol=1e-5)
    lacking = layered.predict(query[:, layered.genes_[1:]].copy(), allow_missing=True)
    assert np.isfinite(flagst.tl.evaluate(lacking).loc["mean", "pcc"])
    del query.layers["counts"]
    with pytest.raises(KeyError, match="no 'counts'.*registered with raw counts in this layer"):
        flagst.tl.evaluate(query)
    with pytest.raises(ValueError, match="no raw counts .*the layer that was registered is gone"):
        flagst.tl.structure_ceiling(query)
    assert flagst.pl.spatial(query, "g0", show=False).shape == (2, 1)  # the prediction alone


def test_a_query_with_counts_in_x_needs_no_layer(layered, make):
    query = make.table(names=("X", "Y"), seed=7)
    layered.predict(query)
    assert "counts_layer" not in query.uns["flagst"]["params"]
    assert flagst.tl.evaluate(query).loc["mean", "pcc"] > 0


@pytest.mark.parametrize("kind", ["wider", "missing"])
def test_the_model_s_layer_is_read_in_a_query_that_records_none(layered, make, kind):
    n_genes = {"wider": 11, "missing": 6}[kind]
    query = make.table(names=("X", "Y"), n_genes=n_genes, seed=7)
    query.layers["counts"], query.X = query.X.copy(), np.ones(query.shape, np.float32)  # X would pass for counts
    del query.obs["total_counts"]
    totals = np.asarray(query.layers["counts"].sum(axis=1)).ravel()
    baseline_data = normalised(make.table())
    flagst.baselines.Ridge.setup_anndata(baseline_data, layer="counts")
    ridge = flagst.baselines.Ridge(baseline_data)
    ridge.train()
    for model in (layered, ridge):
        table = model.predict(query.copy(), allow_missing=kind == "missing")
        np.testing.assert_array_equal(table.obs["total_counts"], totals)
        shared = [gene for gene in query.var_names if gene in table.var_names]
        np.testing.assert_array_equal(
            table[:, shared].layers["counts"].toarray(), query[:, shared].layers["counts"].toarray()
        )
        assert np.isfinite(flagst.tl.evaluate(table).loc["mean", "pcc"])
        assert table.uns["flagst"]["metrics"]["flagst"]["truth"] == "layer counts as lognorm"


def test_raw_counts_are_not_written_over(layered, make):
    query = normalised(make.table(names=("X", "Y"), seed=7))
    with pytest.raises(ValueError, match="would replace the raw counts in layer 'counts'"):
        layered.predict(query, layer="counts")
    baseline = flagst.baselines.Mean
    baseline.setup_anndata(query, layer="counts")
    model = baseline(query)
    model.train()
    with pytest.raises(ValueError, match="would replace the raw counts"):
        model.predict(query, layer="counts")


def test_sections_are_known_from_the_registration_on(make):
    table = make.table()
    table.obs = table.obs.rename(columns={"section": "sample"})
    assert list(flagst.tl.structure_ceiling(table, target="log2", n_splits=2).index) == ["all", "mean"]
    FLAG.setup_anndata(table, section_key="sample")
    assert list(flagst.tl.structure_ceiling(table, target="log2", n_splits=2).index) == ["A", "B", "C", "mean"]


def test_depth_over_all_genes_goes_into_a_narrower_table(trained, make):
    query = make.table(names=("X", "Y"), n_genes=len(trained.genes_) + 3, seed=7)
    del query.obs["total_counts"]
    narrow = trained.predict(query)
    assert "total_counts" not in query.obs
    np.testing.assert_array_equal(narrow.obs["total_counts"], np.asarray(query.X.sum(axis=1)).ravel())
    query.X.data += 0.5  # no counts: then nothing is known of the depth
    assert "total_counts" not in trained.predict(query).obs


def test_tools_read_counts_from_a_file(trained, make, tmp_path):
    query = make.table(names=("X", "Y"), seed=7)
    trained.predict(query)
    expected = flagst.tl.evaluate(query)
    query.write_h5ad(tmp_path / "query.h5ad")
    backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
    np.testing.assert_allclose(flagst.tl.evaluate(backed), expected)
    np.testing.assert_allclose(
        flagst.tl.structure_ceiling(backed, n_splits=2), flagst.tl.structure_ceiling(query, n_splits=2)
    )
    flagst.pp.select_genes(backed, 4)
    flagst.pp.select_genes(query, 4)
    assert backed.var["flagst_panel"].equals(query.var["flagst_panel"])
    wide = make.table(names=("X", "Y"), n_genes=len(trained.genes_) - 1, seed=7)
    wide.write_h5ad(tmp_path / "wide.h5ad")
    lacking = trained.predict(ad.read_h5ad(tmp_path / "wide.h5ad", backed="r"), allow_missing=True)
    np.testing.assert_array_equal(lacking.X[:, :-1].toarray(), wide.X.toarray())
