"""Queries whose genes, features or expression differ from the training data."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest


def test_reordered_genes_are_matched_by_name(trained, query):
    reversed_genes = query[:, ::-1].copy()
    assert trained.predict(reversed_genes) is reversed_genes
    trained.predict(query)
    np.testing.assert_array_equal(reversed_genes[:, query.var_names].layers["flagst"], query.layers["flagst"])
    pd.testing.assert_series_equal(
        reversed_genes.var["flagst_train_pcc"][query.var_names], query.var["flagst_train_pcc"]
    )


def test_missing_genes_are_named_and_nothing_is_written(trained, query, state):
    fewer = query[:, [0, 1, 2, 4, 5, 6]].copy()
    before = state.of(fewer)
    with pytest.raises(ValueError, match=r"lacks 2 of the model's 8 genes: \['g3', 'g7'\].*allow_missing=True"):
        trained.predict(fewer)
    state.assert_unchanged(fewer, before)


def test_missing_genes_are_predicted_when_allowed(trained, query, state):
    fewer = query[:, ["g5", "g0"]].copy()
    before = state.of(fewer)
    table = trained.predict(fewer, allow_missing=True)
    trained.predict(query)
    assert list(table.var_names) == trained.genes_
    assert list(table.var_names[table.var["flagst_measured"]]) == ["g0", "g5"]
    np.testing.assert_array_equal(table.layers["flagst"], query.layers["flagst"])
    np.testing.assert_array_equal(table[:, ["g0", "g5"]].X.toarray(), query[:, ["g0", "g5"]].X.toarray())
    state.assert_unchanged(fewer, before)


def test_more_genes_give_a_new_table_and_the_log_says_so(trained, query, state, caplog):
    extra = ad.AnnData(np.ones((query.n_obs, 1), np.float32), obs=query.obs, var=pd.DataFrame(index=["extra"]))
    wider = ad.concat([extra, query], axis=1, merge="first", uns_merge="first")
    wider.obsm.update({key: query.obsm[key] for key in query.obsm})
    before = state.of(wider)
    with caplog.at_level(logging.INFO, logger="flagst"):
        table = trained.predict(wider)
    assert "new AnnData with the 8 predicted genes of 9" in caplog.text
    state.assert_unchanged(wider, before)
    trained.predict(query)
    assert table is not wider and list(table.var_names) == trained.genes_
    np.testing.assert_array_equal(table.layers["flagst"], query.layers["flagst"])
    np.testing.assert_array_equal(table.obsm["spatial"], query.obsm["spatial"])


def test_prepare_query_makes_a_table_without_expression(trained, query):
    slide = ad.AnnData(obs=query.obs, obsm=dict(query.obsm), uns=dict(query.uns))
    assert slide.n_vars == 0
    prepared = trained.prepare_query(slide)
    assert prepared.X is None and list(prepared.var_names) == trained.genes_
    assert trained.predict(prepared) is prepared
    trained.predict(query)
    np.testing.assert_array_equal(prepared.layers["flagst"], query.layers["flagst"])


def test_a_view_is_predicted_without_touching_its_parent(trained, query, state):
    before = state.of(query)
    part = query[query.obs["section"] == "X"]
    with pytest.warns(match="view"):  # anndata's own
        predicted = trained.predict(part)
    assert "flagst" in predicted.layers
    state.assert_unchanged(query, before)


def _other_width(query):
    query.obsm["X_image"] = query.obsm["X_image"][:, :5]


def _other_encoder(query):
    query.uns["flagst"]["features"]["X_image"]["encoder"] = "uni"


def _other_patch(query):
    query.uns["flagst"]["features"]["X_image"]["patch_um"] = [50.0]


def _nan(query):
    query.obsm["X_image"][3, 0] = np.nan


def _lonely(query):
    query.obs["section"] = query.obs["section"].astype(str).where(np.arange(query.n_obs) > 0, "Z")


def _repeated(query):
    query.obs_names = ["same", "same", *query.obs_names[2:]]


BAD = {
    "width": (
        _other_width,
        ValueError,
        "trained on 6 image features; the query has 5.*flagst.pp.image_features",
    ),
    "encoder": (
        _other_encoder,
        ValueError,
        "encoder 'handcrafted'; the query's have 'uni'.*flagst.pp.image_features",
    ),
    "patch": (_other_patch, ValueError, r"patch_um \[100.0\]; the query's have \[50.0\]"),
    "no features": (
        lambda q: q.obsm.pop("X_image"),
        KeyError,
        "no 'X_image'; found.*Run flagst.pp.image_features",
    ),
    "no positions": (lambda q: q.obsm.pop("spatial"), KeyError, "no 'spatial'; found"),
    "no section": (lambda q: q.obs.pop("section"), KeyError, "no 'section'; found"),
    "NaN": (_nan, ValueError, "NaN or infinite values in 1 of 48 rows, first at row 3"),
    "one spot": (_lonely, ValueError, r"\['Z'\] have one spot"),
    "repeated spots": (_repeated, ValueError, "Spot names.*not unique"),
}


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_queries_are_refused_and_left_alone(trained, query, state, case):
    change, error, message = BAD[case]
    change(query)
    before = state.of(query)
    for call in (trained.predict, trained.sample, trained.get_latent_representation):
        with pytest.raises(error, match=message):
            call(query)
    state.assert_unchanged(query, before)


def test_features_under_another_key_are_compared_too(make, query):
    from flagst import FLAG

    def renamed(adata):
        adata.obsm["X_other"] = adata.obsm.pop("X_image")
        slot = adata.uns["flagst"]["features"]
        slot["X_other"] = slot.pop("X_image")
        return adata

    adata = renamed(make.table())
    FLAG.setup_anndata(adata, image_key="X_other")
    model = FLAG(adata, diffusion=False)
    model.train()
    other = renamed(query)
    model.predict(other)
    other.uns["flagst"]["features"]["X_other"]["encoder"] = "uni"
    with pytest.raises(ValueError, match="encoder"):
        model.predict(other)
