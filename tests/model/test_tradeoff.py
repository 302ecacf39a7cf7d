"""The accuracy-structure curve: scores against those of predict and evaluate, baselines, nothing written."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import flagst
from flagst import baselines, tl
from flagst.data.graph import moran_graph
from flagst.model.tradeoff import replicate

SCORES = ["pcc", "mse", "gsc", "ssc", "moran_pred", "moran_true"]


@pytest.fixture(scope="module")
def competitors(make):
    table, made = make.table(), []
    for kind in (baselines.Ridge, baselines.CorrelatedGaussian):
        made.append(kind(table))
        made[-1].train()
    return made


def test_scores_are_those_of_predict_and_evaluate(trained, query, state):
    before = state.of(query)
    frame = trained.front(query, structures=(0, 0.5, 1), seed=3, baselines=(), references=False)
    state.assert_unchanged(query, before)
    assert list(frame.columns) == ["method", "structure", "section", *SCORES]
    assert len(frame) == 6 and set(frame["method"]) == {"FLAG"}
    for structure in (0, 0.5, 1):
        table = tl.evaluate(trained.predict(query.copy(), structure=structure, seed=3))
        found = frame[frame["structure"] == structure].set_index("section")[SCORES]
        expected = table.loc[["X", "Y"], SCORES]
        pd.testing.assert_frame_equal(found, expected, check_names=False, atol=1e-6)


def test_scores_of_samples_are_averaged(trained, query):
    frame = trained.front(query, structures=(1,), n_draws=3, seed=2, baselines=(), references=False)
    frame, scores = frame.set_index("section"), []
    for values in trained.sample(query, 3, seed=2):
        query.layers["d"] = values
        query.uns["flagst"]["params"] |= {"target": "lognorm"}
        scores.append(tl.evaluate(query, "d").loc[["X", "Y"], SCORES])
    np.testing.assert_allclose(frame.loc[["X", "Y"], SCORES], sum(scores) / 3, atol=1e-6)


def test_baselines_stand_beside_it(trained, query, competitors):
    frame = trained.front(query, structures=(0, 1), baselines=competitors, seed=5)
    ridge = frame[frame["method"] == "Ridge"]
    assert len(ridge) == 2 and ridge["structure"].isna().all()  # no dial
    noise = frame[frame["method"] == "CorrelatedGaussian"]
    assert sorted(noise["structure"]) == [0, 0, 1, 1]
    table = tl.evaluate(competitors[1].predict(query.copy(), structure=1, seed=5))
    found = noise[noise["structure"] == 1].set_index("section").loc[["X", "Y"], SCORES]
    np.testing.assert_allclose(found, table.loc[["X", "Y"], SCORES], atol=1e-6)


def test_without_baselines_given_those_that_see_the_image_are_trained(trained, query, make):
    frame = trained.front(query, structures=(0, 0.5), seed=1, references=False)
    dials = {"IndependentNoise", "ResidualBootstrap", "CorrelatedGaussian", "BalancedGaussian"}
    assert set(frame["method"]) == {"FLAG", "KNN", "Ridge"} | dials
    given = [getattr(baselines, name)(make.table()) for name in ("KNN", "Ridge", "ResidualBootstrap")]
    for baseline in given:
        baseline.train()
    by_hand = trained.front(query, structures=(0, 0.5), seed=1, baselines=given, references=False)
    kept = frame[frame["method"].isin(set(by_hand["method"]))].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, by_hand)


def test_default_baselines_read_what_the_model_reads(make):
    """The counts are in a layer, spots and features under other names; what was registered for baselines stays."""
    plain, table = make.table(), make.table()
    table.layers["raw"], table.obs["slide"] = table.X.copy(), table.obs["section"].astype(str)
    table.obsm["xy"], table.obsm["h"] = table.obsm["spatial"], table.obsm["X_image"]
    table.X = np.zeros_like(table.X.toarray())
    del table.obs["section"], table.obsm["spatial"], table.obsm["X_image"]
    keys = {"layer": "raw", "section_key": "slide", "spatial_key": "xy", "image_key": "h"}
    baselines.Ridge.setup_anndata(table, genes=list(table.var_names[:4]), **keys)
    fronts = []
    for adata, setup in ((plain, {}), (table, keys)):
        flagst.FLAG.setup_anndata(adata, **setup)
        model = flagst.FLAG(adata, diffusion=False, cross_fit=False)
        model.train()
        fronts.append(model.front(structures=(0.5,)))
    pd.testing.assert_frame_equal(*fronts)
    assert baselines.Ridge(table).genes_ == list(table.var_names[:4])


def test_two_baselines_of_one_kind_are_two_methods(trained, query, make):
    near, far = (baselines.KNN(make.table(), n_nearest=n) for n in (1, 30))
    for baseline in (near, far):
        baseline.train()
    asked = {"structures": (0,), "references": False}
    numbered = trained.front(query, baselines=[near, far], **asked)
    named = trained.front(query, baselines={"nearest": near, "30 nearest": far}, **asked)
    assert list(numbered["method"].unique()) == ["FLAG", "KNN", "KNN 2"]
    assert list(named["method"].unique()) == ["FLAG", "nearest", "30 nearest"]
    pd.testing.assert_frame_equal(numbered.drop(columns="method"), named.drop(columns="method"))
    assert numbered.groupby("method")["pcc"].mean().nunique() == 3


def test_a_method_without_a_dial_has_none_at_the_mean_either(trained, query, competitors):
    frame = trained.front(query, structures=(0,), baselines=competitors).set_index("method")["structure"]
    assert frame["Ridge"].isna().all() and (frame["CorrelatedGaussian"] == 0).all()


def test_the_training_data_by_default(trained):
    frame = trained.front(structures=(0,), baselines=(), references=False)
    assert list(frame["section"]) == ["A", "B", "C"] and "flagst" not in trained.adata.layers


def test_reference_values_are_other_sections_and_the_own_counts(trained, query):
    frame = trained.front(query, structures=(0,)).set_index(["method", "section"])
    replicate, ceiling = frame.loc["replicate"], frame.loc["noise ceiling"]
    assert list(frame.loc["FLAG"].index) == list(replicate.index) == list(ceiling.index) == ["X", "Y"]
    assert replicate[["structure", "pcc", "mse"]].isna().all(axis=None) and ceiling["pcc"].isna().all()
    by_counts = tl.structure_ceiling(query.copy(), target="lognorm")
    train, upper = trained.adata, np.triu_indices(query.n_vars, 1)

    def correlations(table, section):
        counts = table[table.obs["section"] == section].X.toarray().astype(float)
        totals = table.obs.loc[table.obs["section"] == section, "total_counts"].to_numpy()
        return np.corrcoef(np.log1p(1e4 * counts / totals[:, None]).T)[upper]

    for section in ("X", "Y"):
        others = [np.corrcoef(correlations(train, s), correlations(query, section))[0, 1] for s in ("A", "B", "C")]
        np.testing.assert_allclose(replicate.loc[section, "gsc"], np.mean(others), atol=1e-5)
        for score in ("gsc", "ssc"):
            np.testing.assert_allclose(ceiling.loc[section, score], by_counts.loc[section, f"{score}_ceiling"])


def test_sections_of_another_layout_are_no_replicates(trained, query):
    sections = trained._sections(trained.adata, measured=True)
    (rows, sampler), *_ = trained._samplers(query)
    section = sampler.section
    measured = np.log1p(1e4 * query.X.toarray() / query.obs[["total_counts"]].to_numpy())[rows]
    graph = moran_graph(section.coords, section.layout)
    alone = replicate(sections[:1], section, measured, graph)
    mixed = replicate([sections[0], replace(sections[1], layout="irregular")], section, measured, graph)
    assert alone == mixed and all(np.isfinite(value) for value in alone.values())
    other = replicate([replace(sections[0], layout="irregular")], section, measured, graph)
    assert all(np.isnan(value) for value in other.values())


def test_a_replicate_is_told_from_the_section_itself_by_its_spots(trained):
    """Its own spots under another name, or half of them, are no replicate; another section of its name is one."""
    first, second, _ = trained._sections(trained.adata, measured=True)
    graph = moran_graph(first.coords, first.layout)

    def found(known, section=first, rows=slice(None)):
        part = graph if rows == slice(None) else moran_graph(section.coords, section.layout)
        return replicate([known], section, first.target[rows], part)["gsc"]

    half = slice(None, len(first) // 2)
    part = replace(first, coords=first.coords[half], spot_names=first.spot_names[half])
    assert np.isnan(found(first)) and np.isnan(found(replace(first, name="another")))
    assert np.isnan(found(first, part, half))
    changed = replace(first, target=first.target + np.float32(0.01))
    assert np.isnan(found(changed)) and found(replace(changed, name="another")) > 0.99
    moved = replace(second, name=first.name, coords=second.coords + 1e6)
    assert found(moved) == found(second) < 0.99


def test_a_model_without_its_training_data_has_no_replicate(trained, query, tmp_path):
    trained.save(tmp_path / "model", save_anndata=False)
    frame = type(trained).load(tmp_path / "model").front(query, structures=(0,)).set_index("method")
    pd.testing.assert_frame_equal(
        frame.drop("replicate"),
        trained.front(query, structures=(0,), baselines=()).set_index("method").drop("replicate"),
    )
    assert frame.loc["replicate", ["gsc", "ssc"]].isna().all(axis=None)


def test_a_section_is_no_replicate_of_itself(trained):
    own = trained.front(structures=(0,)).set_index(["method", "section"]).loc["replicate"]
    assert list(own.index) == ["A", "B", "C"] and (own["gsc"] < 0.99).all() and own["ssc"].notna().all()


def test_genes_without_a_count_are_left_out_and_order_does_not_matter(trained, query):
    dense = query.X.toarray()
    dense[:, 2] = 0
    query.X = dense
    frame = trained.front(query, structures=(0.5,))
    assert np.isfinite(frame.loc[frame["method"] == "FLAG", SCORES].to_numpy()).all()
    assert np.isfinite(frame[["gsc", "ssc"]].to_numpy()).all()
    pd.testing.assert_frame_equal(trained.front(query[:, ::-1].copy(), structures=(0.5,)), frame)


def test_counts_may_be_in_a_file_in_another_order(trained, query, tmp_path):
    import anndata as ad

    expected = trained.front(query, structures=(0,))
    reordered = query[:, ::-1].copy()
    reordered.X = reordered.X.toarray()
    reordered.write_h5ad(tmp_path / "dense.h5ad")
    found = trained.front(ad.read_h5ad(tmp_path / "dense.h5ad", backed="r"), structures=(0,))
    pd.testing.assert_frame_equal(found, expected)


def test_what_is_no_count_is_no_measurement(trained, query):
    query.var["flagst_measured"] = query.var_names != "g2"
    with pytest.raises(ValueError, match=r"needs all genes measured; adata lacks 1: \['g2'\]"):
        trained.front(query, structures=(0,))
    del query.var["flagst_measured"]
    query.X = query.X.log1p()
    with pytest.raises(ValueError, match="adata.X has non-integer values"):
        trained.front(query, structures=(0,))


def test_bad_requests(trained, query, make, competitors):
    with pytest.raises(ValueError, match="structures must be numbers between 0 and 1; got .*1.5"):
        trained.front(query, structures=(0, 1.5))
    with pytest.raises(ValueError, match="n_draws must be at least 1"):
        trained.front(query, n_draws=0)
    with pytest.raises(ValueError, match=r"adata lacks 1: \['g7'\]"):
        trained.front(query[:, :7].copy())
    with pytest.raises(ValueError, match="scores predictions against measured expression; adata.X is empty"):
        trained.front(trained.prepare_query(query))
    table = make.table()
    with pytest.raises(ValueError, match="Ridge is not trained"):
        trained.front(query, baselines=[baselines.Ridge(table)])
    other = baselines.Mean(table, target="log2")
    other.train()
    with pytest.raises(ValueError, match="Mean has target 'log2'; the model has 'lognorm'"):
        trained.front(query, baselines=[other])
    with pytest.raises(RuntimeError, match="not trained"):
        make.model(make.table()).front(query)
