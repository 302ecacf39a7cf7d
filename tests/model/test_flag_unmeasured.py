"""``predict(genes=...)``: the panel is unchanged, genes outside it from their vectors, and clear refusals."""

import anndata
import numpy as np
import pytest

from flagst import FLAG


@pytest.fixture(scope="module")
def aligned(make):
    """Trained on five genes of eight; vectors are the genes' loadings, one gene has none."""
    adata = make.table()
    counts = np.log1p(adata.X.toarray())
    vectors = np.linalg.svd(counts - counts.mean(axis=0), full_matrices=False)[2][:3].T
    adata.varm["X_gene"] = np.vstack([vectors[:7], np.zeros((1, 3))]).astype(np.float32)
    panel = [f"g{i}" for i in range(5)]
    FLAG.setup_anndata(adata, genes=panel)
    model = FLAG(adata, gfm="X_gene", n_latent=4, network=make.SMALL)
    model.train(**make.QUICK)
    return model, make.table(names=("Q",), seed=3)


def test_genes_that_were_not_in_training(aligned):
    model, query = aligned
    genes = ["g6", "g1", "g5"]
    out = model.predict(query.copy(), genes=genes, structure=0.5)
    assert list(out.var_names) == genes
    assert out.var["flagst_trained"].tolist() == [False, True, False]
    assert np.isnan(out.var["flagst_train_pcc"][["g6", "g5"]]).all() and np.isfinite(out.var["flagst_train_pcc"]["g1"])
    for layer in ("flagst", "flagst_mean"):
        values = out.layers[layer]
        assert values.dtype == np.float32 and np.isfinite(values).all() and (values >= 0).all()
        assert (values.std(axis=0) > 0).all()
    # a gene of the panel is what it is without the others
    whole = model.predict(query.copy()[:, model.genes_].copy(), structure=0.5)
    assert whole.var["flagst_trained"].all()
    for layer in ("flagst", "flagst_mean"):
        np.testing.assert_array_equal(out[:, "g1"].layers[layer], whole[:, "g1"].layers[layer])
    # and the sample of a new gene does not depend on what else is asked for
    alone = model.predict(query.copy(), genes="g6", structure=0.5)
    np.testing.assert_array_equal(alone.layers["flagst"][:, 0], out[:, "g6"].layers["flagst"].ravel())


def test_new_genes_are_predicted_better_than_by_chance(aligned):
    """g5 and g6 of the training sections themselves: the answer is in their vectors."""
    model, _ = aligned
    adata = model.adata
    out = model.predict(adata, genes=["g5", "g6"], structure=0)
    measured = np.log1p(adata[:, ["g5", "g6"]].X.toarray() / adata.obs["total_counts"].to_numpy()[:, None] * 1e4)
    pcc = [np.corrcoef(out.layers["flagst"][:, i], measured[:, i])[0, 1] for i in range(2)]
    assert min(pcc) > 0.2
    sd = model.predict(adata, genes=["g5", "g6"], structure=1).layers["flagst"].std(axis=0)
    assert (sd > 1.1 * out.layers["flagst"].std(axis=0)).all()


def test_standard_deviations_work_with_genes(aligned):
    model, query = aligned
    out = model.predict(query.copy(), genes=["g6", "g0"], structure=0.5, return_std=True, n_samples=8)
    assert (out.layers["flagst_std"] > 0).mean() > 0.9


def test_a_saved_model_predicts_them_alike(aligned, tmp_path):
    model, query = aligned
    model.save(tmp_path / "model", overwrite=True)
    again = FLAG.load(tmp_path / "model")
    one, other = (m.predict(query.copy(), genes=["g6", "g5"], structure=1) for m in (model, again))
    np.testing.assert_array_equal(one.layers["flagst"], other.layers["flagst"])


def test_a_query_that_lacks_them(aligned):
    model, query = aligned
    query = query[:, [f"g{i}" for i in range(5)]].copy()
    with pytest.raises(ValueError, match=r"lacks 1 of the requested 2 genes.*g6.*prepare_query\(query, genes="):
        model.predict(query, genes=["g6", "g0"])
    out = model.predict(query, genes=["g6", "g0"], allow_missing=True)
    assert out.var["flagst_measured"].tolist() == [False, True]
    empty = model.prepare_query(query, genes=["g6", "g0"])
    assert empty.X is None and list(empty.var_names) == ["g6", "g0"]
    again = model.predict(empty, genes=["g6", "g0"])
    np.testing.assert_array_equal(again.layers["flagst"], out.layers["flagst"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"genes": ["g7"]}, r"not trained on \['g7'\].*vectors of 2 genes"),
        ({"genes": ["nonsense", "g0"]}, "nonsense"),
        ({"genes": ["g0", "g0"]}, "not unique.*g0"),
        ({"genes": []}, "empty"),
        ({"genes": ["g6"], "quantiles": (0.05, 0.95), "n_samples": 20}, "Leave out quantiles"),
    ],
)
def test_what_cannot_be_predicted_is_refused_and_nothing_is_changed(aligned, arguments, reason):
    model, query = aligned
    query = query.copy()
    with pytest.raises(ValueError, match=reason):
        model.predict(query, **arguments)
    assert not query.layers and "flagst_trained" not in query.var


def test_without_vectors_only_the_panel(trained, make):
    model = trained[0] if isinstance(trained, tuple) else trained
    query = make.table(names=("Q",), seed=3)
    assert isinstance(model.predict(query.copy(), genes=model.genes_[:2]), anndata.AnnData)
    with pytest.raises(ValueError, match="knows vectors of 0 genes"):
        model.predict(query, genes=["other"])


def test_without_a_mean_only_the_whole_panel(aligned, make):
    """``preset="paper"``: the panel by name is fine, anything else is refused for the right reason."""
    adata = aligned[0].adata.copy()
    FLAG.setup_anndata(adata, genes=["g0", "g1", "g2"])
    model = FLAG(
        adata,
        gfm="X_gene",
        preset="paper",
        network={"d_context": 16, "denoiser_kwargs": {"n_blocks": 2, "align_block": 1}},
    )
    model.train(**{**make.QUICK, "max_epochs": 1})
    query = make.table(names=("Q",), seed=3)
    assert list(model.predict(query.copy(), genes=["g0", "g1", "g2"]).var_names) == ["g0", "g1", "g2"]
    for genes in (["g0"], ["g5"]):
        with pytest.raises(ValueError, match="Without a regression mean"):
            model.predict(query.copy(), genes=genes)
