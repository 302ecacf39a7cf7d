"""tl.evaluate: numbers are those of the metric functions, records survive storage, errors are clear."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.data.targets import to_target
from flagst.tl import evaluate


def section_parts(adata, section):
    rows = (adata.obs["section"] == section).to_numpy()
    measured = to_target(adata.X[rows], None, "log2")
    graph = moran_graph(adata.obsm["spatial"][rows], {"A": "square", "B": "hex"}[section])
    return adata.layers["flagst"][rows], measured, graph


def test_numbers_are_those_of_the_metric_functions(predicted):
    table = evaluate(predicted)
    assert list(table.index) == [*predicted.obs["section"].unique(), "mean"]
    for section in "AB":
        p, m, graph = section_parts(predicted, section)
        row = table.loc[section]
        for name in ("pcc", "mse", "mae", "ccc", "gsc"):
            assert row[name] == pytest.approx(getattr(metrics, name)(p, m)), name
        assert row["corr_rmse"] == pytest.approx(metrics.correlation_rmse(p, m))
        assert row["ssc"] == pytest.approx(metrics.ssc(p, m, graph))
        assert row["moran_rmse"] == pytest.approx(metrics.moran_rmse(p, m, graph))
        kept = np.ptp(m, axis=0) > 0
        assert row["moran_pred"] == pytest.approx(metrics.morans_i(p, graph)[kept].mean())
        assert row["moran_true"] == pytest.approx(metrics.morans_i(m, graph)[kept].mean())
        assert row["n_spots"] == len(p) and row["n_genes"] == kept.sum()
    assert table.loc["B", "n_genes_constant"] == 1 and table.loc["A", "n_genes_constant"] == 0
    np.testing.assert_allclose(table.loc["mean"], table.loc[["A", "B"]].mean())


def test_top_genes_on_test_and_on_training_data(predicted):
    predicted.var["flagst_train_pcc"] = np.r_[np.nan, np.linspace(1, 0, 11)]  # g1 best; g0 never scored
    table = evaluate(predicted, n_top=(3, 50))
    p, m, _ = section_parts(predicted, "B")
    per_gene = metrics.per_gene_pcc(p, m)
    assert table.loc["B", "pcc3"] == pytest.approx(np.sort(per_gene[1:])[-3:].mean())
    assert table.loc["B", "pcc3_train"] == pytest.approx(per_gene[1:4].mean())
    assert table.loc["B", "pcc50"] == pytest.approx(table.loc["B", "pcc"])  # fewer than 50: all of them
    definitions = predicted.uns["flagst"]["metrics"]["flagst"]["definitions"]
    assert "this very data" in definitions["pcc3"] and "training data" in definitions["pcc3_train"]


def test_without_training_scores_there_is_no_training_ranking(predicted):
    table = evaluate(predicted)
    assert {"pcc10", "pcc50"} <= set(table.columns)
    assert not [c for c in table.columns if c.endswith("_train")]
    assert set(predicted.uns["flagst"]["metrics"]["flagst"]["definitions"]) == set(table.columns[:-3])


def test_record(predicted):
    table = evaluate(predicted)
    record = predicted.uns["flagst"]["metrics"]["flagst"]
    assert record["mean"] == table.loc["mean"].to_dict()
    assert record["sections"]["A"] == table.loc["A"].to_dict()
    assert record["graph"] == {"A": {"layout": "square", "k": 4}, "B": {"layout": "hex", "k": 6}}
    assert record["n_genes_constant"] == {"A": 0, "B": 1}
    assert record["truth"] == "X as log2"
    assert predicted.uns["flagst"]["params"]["target"] == "log2"  # what was there stays


def test_per_gene_columns_average_where_the_gene_varies(predicted):
    evaluate(predicted)
    scores = {s: metrics.per_gene_pcc(*section_parts(predicted, s)[:2]) for s in "AB"}
    assert predicted.var["flagst_pcc"]["g0"] == pytest.approx(scores["A"][0])
    assert predicted.var["flagst_pcc"]["g1"] == pytest.approx((scores["A"][1] + scores["B"][1]) / 2)
    morans = {s: metrics.morans_i(*section_parts(predicted, s)[1:]) for s in "AB"}
    assert predicted.var["flagst_moran_true"]["g3"] == pytest.approx((morans["A"][3] + morans["B"][3]) / 2)
    assert predicted.var["flagst_moran_pred"].notna().all()


def unmeasured(adata, genes):
    """As a prediction leaves a query without these genes: an empty column and the mark."""
    counts = adata.X.toarray()
    counts[:, adata.var_names.get_indexer(genes)] = 0
    adata.X = sp.csr_matrix(counts)
    adata.var["flagst_measured"] = ~adata.var_names.isin(genes)


@pytest.mark.parametrize("target", ["log2", "identity"])
def test_genes_that_were_not_measured_are_left_out(predicted, target):
    predicted.var["flagst_train_pcc"] = np.linspace(0, 1, 12)
    kept = predicted.var_names.difference(["g2", "g11"], sort=False)
    expected = evaluate(predicted[:, kept].copy(), target=target)
    genes = ["g2", "g11"]
    unmeasured(predicted, genes)
    table = evaluate(predicted, target=target)
    assert (table.pop("n_genes_unmeasured") == 2).all()
    pd.testing.assert_frame_equal(table, expected)  # not counted as constant either
    record = predicted.uns["flagst"]["metrics"]["flagst"]
    assert record["n_genes_unmeasured"] == 2 and record["n_genes_constant"] == {"A": 0, "B": 1}
    for column in ("flagst_pcc", "flagst_moran_pred", "flagst_moran_true"):
        assert list(predicted.var_names[predicted.var[column].isna()]) == genes


def test_a_given_truth_measures_every_gene(predicted):
    measured = to_target(predicted.X, None, "log2")
    expected = evaluate(predicted, truth=measured).copy()
    unmeasured(predicted, ["g2"])
    pd.testing.assert_frame_equal(evaluate(predicted, truth=measured), expected)
    assert predicted.uns["flagst"]["metrics"]["flagst"]["n_genes_unmeasured"] == 0


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_the_mark_survives_storage(predicted, tmp_path, container):
    unmeasured(predicted, ["g5"])
    expected = evaluate(predicted)
    path = tmp_path / f"predicted.{container}"
    getattr(predicted, f"write_{container}")(path)
    pd.testing.assert_frame_equal(evaluate(getattr(ad, f"read_{container}")(path)), expected)


@pytest.mark.parametrize("kind", ["layer", "array", "sparse", "frame"])
def test_truth_may_be_given(predicted, kind):
    expected = evaluate(predicted).copy()
    measured = to_target(predicted.X, None, "log2")
    del predicted.uns["flagst"]["params"]["target"]
    predicted.layers["measured"] = measured
    frame = pd.DataFrame(measured, index=predicted.obs_names, columns=predicted.var_names).iloc[::-1, ::-1]
    truth = {"layer": "measured", "array": measured, "sparse": sp.csr_matrix(measured), "frame": frame}[kind]
    predicted.X = None
    pd.testing.assert_frame_equal(evaluate(predicted, truth=truth), expected)


def test_lognorm_uses_stored_totals(predicted):
    totals = predicted.obs["total_counts"].to_numpy()
    table = evaluate(predicted, target="lognorm")
    expected = evaluate(predicted, truth=np.log1p(1e4 * predicted.X.toarray() / totals[:, None]))
    np.testing.assert_allclose(table, expected, rtol=1e-5)


def test_spot_order_does_not_matter(predicted):
    order = np.random.default_rng(3).permutation(predicted.n_obs)
    shuffled = evaluate(predicted[order].copy())
    pd.testing.assert_frame_equal(shuffled.sort_index(), evaluate(predicted).sort_index())


def test_one_section_without_column(predicted):
    one = predicted[predicted.obs["section"] == "A"].copy()
    expected = evaluate(one).loc["A"]
    del one.obs["section"], one.uns["flagst"]["params"]["section_key"]
    table = evaluate(one, layout="square")
    assert list(table.index) == ["all", "mean"]
    np.testing.assert_allclose(table.loc["all"], expected)


def test_view_leaves_its_parent_alone(predicted):
    with pytest.warns(UserWarning):  # anndata says that the view becomes a copy
        evaluate(predicted[:, :6])
    assert "metrics" not in predicted.uns["flagst"] and "flagst_pcc" not in predicted.var


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_what_is_written_survives_storage(predicted, tmp_path, container):
    evaluate(predicted)
    predicted.layers["flagst_mean"] = predicted.layers["flagst"] * 0.5
    evaluate(predicted, "flagst_mean")
    path = tmp_path / f"predicted.{container}"
    getattr(predicted, f"write_{container}")(path)
    stored = getattr(ad, f"read_{container}")(path)
    for layer in ("flagst", "flagst_mean"):
        before, after = (a.uns["flagst"]["metrics"][layer] for a in (predicted, stored))
        assert before["mean"] == pytest.approx(dict(after["mean"]))
        assert after["definitions"] == before["definitions"] and after["graph"]["B"]["k"] == 6
    np.testing.assert_array_equal(stored.var["flagst_pcc"], predicted.var["flagst_pcc"])
    evaluate(stored)  # and again on what was read


def test_errors_name_what_is_missing_and_change_nothing(predicted):
    with pytest.raises(KeyError, match="no 'flagst_std'; found .*'flagst'.*predict"):
        evaluate(predicted, "flagst_std")
    with pytest.raises(KeyError, match="no 'where'"):
        evaluate(predicted, spatial_key="where")
    with pytest.raises(KeyError, match="no 'slide'.*section_key="):
        evaluate(predicted, section_key="slide")
    with pytest.raises(KeyError, match="no 'truth'"):
        evaluate(predicted, truth="truth")
    with pytest.raises(ValueError, match=r"truth must be .*\(70, 12\); got \(70, 3\)"):
        evaluate(predicted, truth=np.zeros((70, 3)))
    with pytest.raises(KeyError, match="lacks 12 spot or gene names"):
        evaluate(predicted, truth=pd.DataFrame(np.zeros((70, 2)), index=predicted.obs_names))
    with pytest.raises(ValueError, match="n_top must be positive"):
        evaluate(predicted, n_top=(0,))
    with pytest.raises(ValueError, match="layout must be one of"):
        evaluate(predicted, layout="visium")
    with pytest.raises(ValueError, match="target must be one of"):
        evaluate(predicted, target="cpm")
    assert "metrics" not in predicted.uns["flagst"] and "flagst_pcc" not in predicted.var


def test_missing_measurement(predicted):
    no_target = predicted.copy()
    del no_target.uns["flagst"]
    with pytest.raises(KeyError, match="no 'target'.*target= or truth="):
        evaluate(no_target)
    no_totals = predicted.copy()
    del no_totals.obs["total_counts"]
    with pytest.raises(KeyError, match="total_counts.*over all genes"):
        evaluate(no_totals, target="lognorm")
    fractions = predicted.copy()
    fractions.X = fractions.X * 0.3
    with pytest.raises(ValueError, match="non-integer"):
        evaluate(fractions)
    predicted.X = None
    with pytest.raises(ValueError, match="no measured expression. Pass truth="):
        evaluate(predicted)


def test_unusable_sections(predicted):
    predicted.obs["section"] = predicted.obs["section"].astype(str)
    broken = predicted.copy()
    broken.obs.iloc[:2, broken.obs.columns.get_loc("section")] = "C"
    with pytest.raises(ValueError, match="Section 'C'.*2 spots"):
        evaluate(broken)
    broken.obs.iloc[:1, broken.obs.columns.get_loc("section")] = None
    with pytest.raises(ValueError, match="missing for 1 spots"):
        evaluate(broken)
    holes = predicted.copy()
    holes.layers["flagst"][5, 2] = np.nan
    with pytest.raises(ValueError, match="Section .*predicted has NaN"):
        evaluate(holes)


def test_spatialdata_is_refused_in_words():
    class Sdata:
        tables: dict = {}

    with pytest.raises(TypeError, match="got a SpatialData. Pass one of its tables"):
        evaluate(Sdata())


def test_moran_and_depth_scores(predicted):
    table = evaluate(predicted)
    depth = predicted.obs["total_counts"].to_numpy()
    for section in "AB":
        p, m, graph = section_parts(predicted, section)
        own = depth[(predicted.obs["section"] == section).to_numpy()]
        row = table.loc[section]
        assert row["moran_mae"] == pytest.approx(metrics.moran_mae(p, m, graph))
        assert row["moran_ccc"] == pytest.approx(metrics.moran_ccc(p, m, graph))
        assert row["gsc_depth_residual"] == pytest.approx(metrics.gsc_depth_residual(p, m, own))
        kept = np.ptp(m, axis=0) > 0
        x = np.log1p(own)
        fits = [np.corrcoef(np.polyval(np.polyfit(x, gene, 2), x), gene)[0, 1] for gene in m[:, kept].T]
        assert row["pcc_depth_only"] == pytest.approx(np.mean(fits), abs=1e-5)
    # the depth-only PCC says nothing about the prediction, and is there for every target
    predicted.layers["other"] = predicted.layers["flagst"] * 0 + 1
    assert evaluate(predicted, "other").loc["mean", "pcc_depth_only"] == table.loc["mean", "pcc_depth_only"]
    assert "pcc_depth_only" in evaluate(predicted, target="lognorm")


@pytest.mark.parametrize("case", ["broken", "truth", "identity"])
def test_without_usable_total_counts_there_are_no_depth_scores(predicted, case, caplog):
    options = {"broken": {}, "truth": {"truth": to_target(predicted.X, None, "log2")}, "identity": {"target": case}}[
        case
    ]
    expected = evaluate(predicted, **options)
    if case == "broken":
        predicted.obs.iloc[3, predicted.obs.columns.get_loc("total_counts")] = np.nan
    else:
        del predicted.obs["total_counts"]
    table = evaluate(predicted, **options)
    assert list(expected.columns.difference(table.columns)) == ["gsc_depth_residual", "pcc_depth_only"]
    pd.testing.assert_frame_equal(table, expected[table.columns])
    assert ("no depth scores" in caplog.text) == (case == "broken")


def test_without_total_counts_depth_is_the_sum_of_the_counts_that_are_there(predicted):
    predicted.obs["total_counts"] = np.asarray(predicted.X.sum(axis=1)).ravel()
    expected = evaluate(predicted)
    del predicted.obs["total_counts"]
    pd.testing.assert_frame_equal(evaluate(predicted), expected)
    assert "pcc_depth_only" in expected


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_intervals_and_nulls_are_recorded(predicted, tmp_path, container):
    plain = evaluate(predicted).copy()
    assert not {"intervals", "nulls"} & set(predicted.uns["flagst"]["metrics"]["flagst"])
    pd.testing.assert_frame_equal(evaluate(predicted, intervals=True, permutations=99, seed=4), plain)
    path = tmp_path / f"predicted.{container}"
    getattr(predicted, f"write_{container}")(path)
    record = getattr(ad, f"read_{container}")(path).uns["flagst"]["metrics"]["flagst"]
    for section, n_blocks in (("A", 8), ("B", 6)):  # 40 and 30 spots, 5 or more in a block
        p, m, graph = section_parts(predicted, section)
        coords = predicted.obsm["spatial"][predicted.obs["section"] == section]
        for name in ("pcc", "gsc", "ssc"):
            found = record["intervals"][section][name]
            assert found["estimate"] == pytest.approx(plain.loc[section, name])
            assert found["low"] < found["estimate"] < found["high"] and found["n_blocks"] == n_blocks
        expected = metrics.jackknife(lambda r, p=p, m=m: metrics.gsc(p[r], m[r]), coords, n_blocks=n_blocks)
        assert record["intervals"][section]["gsc"]["standard_error"] == pytest.approx(expected.standard_error)
        expected = metrics.ssc_permutation_test(p, m, graph, n_permutations=99, seed=4)
        assert record["nulls"][section]["ssc"]["p_value"] == pytest.approx(expected.p_value)
        assert record["nulls"][section]["gsc"]["observed"] == pytest.approx(plain.loc[section, "gsc"])


def test_too_few_spots_for_intervals(predicted):
    predicted.obs["section"] = np.where(np.arange(70) < 9, "small", "large")
    predicted.uns["flagst"]["params"]["layout"] = {}
    evaluate(predicted)
    with pytest.raises(ValueError, match="Section 'small': intervals need at least 10 spots; got 9"):
        evaluate(predicted, intervals=True)
    with pytest.raises(ValueError, match="permutations must be 0 or more"):
        evaluate(predicted, permutations=-1)
