"""What all baselines share: registration, layers, genes by name, errors."""

import subprocess
import sys

import anndata as ad
import numpy as np
import pytest

from flagst import baselines
from flagst.data.targets import to_target

NAMES = sorted(baselines.__all__)
NOISY = ["BalancedGaussian", "CorrelatedGaussian", "IndependentNoise", "ResidualBootstrap"]


def fitted(name: str, adata, **kwargs):
    model = getattr(baselines, name)(adata, **kwargs)
    model.train()
    return model


@pytest.mark.parametrize("name", NAMES)
def test_predict_writes_layers_in_place(name, train, query):
    counts = query.X.copy()
    prediction = fitted(name, train, target="log2").predict(query, structure=0.5, layer="out")
    assert prediction is query
    for layer in ("out", "out_mean"):
        values = query.layers[layer]
        assert values.shape == query.shape and values.dtype == np.float32
        assert np.isfinite(values).all() and values.min() >= 0
    params = query.uns["flagst"]["params"]
    assert params["target"] == "log2" and params["section_key"] == "section"
    assert params["structure"] == 0.5 and params["seed"] == 0 and params["layer"] == "out"
    assert (query.X != counts).nnz == 0


@pytest.mark.parametrize("name", NAMES)
def test_expression_of_the_query_is_not_used(name, train, query):
    model = fitted(name, train)
    with_counts = model.predict(query.copy()).layers["flagst"]
    query.X = query.X * 0
    np.testing.assert_array_equal(model.predict(query).layers["flagst"], with_counts)


@pytest.mark.parametrize("name", NAMES)
def test_spot_order_does_not_matter(name, train, query):
    """A spot's prediction, its noise included, belongs to (seed, section, spot name)."""
    model = fitted(name, train)
    first = model.predict(query.copy(), seed=3)
    order = np.random.default_rng(0).permutation(query.n_obs)
    second = model.predict(query[order].copy(), seed=3)[query.obs_names]
    np.testing.assert_allclose(second.layers["flagst"], first.layers["flagst"], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_seed_changes_the_noise_only(name, train, query):
    model = fitted(name, train)
    first, second, again = (model.predict(query.copy(), structure=1, seed=s) for s in (0, 1, 0))
    np.testing.assert_array_equal(first.layers["flagst"], again.layers["flagst"])
    np.testing.assert_array_equal(first.layers["flagst_mean"], second.layers["flagst_mean"])
    changed = not np.array_equal(first.layers["flagst"], second.layers["flagst"])
    assert changed == (name in NOISY)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(NOISY)))
def test_without_noise_there_is_no_dial(name, train, query):
    model = fitted(name, train)
    low, high = (model.predict(query.copy(), structure=s).layers["flagst"] for s in (0, 1))
    np.testing.assert_array_equal(low, high)


def test_registered_arguments_are_used(train, query):
    for adata in (train, query):
        adata.obs["slide"] = adata.obs.pop("section")
        adata.layers["raw"] = adata.X.copy()
        adata.X = adata.X * 2
        adata.obsm["features"] = adata.obsm.pop("X_image")
        adata.obsm["where"] = adata.obsm.pop("spatial")
    keys = {"section_key": "slide", "layer": "raw", "spatial_key": "where", "image_key": "features"}
    baselines.Mean.setup_anndata(train, genes=["g3", "g1"], **keys)
    model = fitted("Mean", train, target="log2")
    expected = to_target(train.layers["raw"][:, [3, 1]], None, "log2").mean(axis=0)
    prediction = model.predict(query)
    assert list(prediction.var_names) == ["g3", "g1"] and query.n_vars == 10
    np.testing.assert_allclose(prediction.layers["flagst"][0], expected, rtol=1e-5)
    # one registration serves every baseline
    assert fitted("Ridge", train).genes_ == ["g3", "g1"]


def test_what_was_registered_goes_with_copies_and_files(train, tmp_path):
    train.layers["raw"] = train.X.copy()
    baselines.Mean.setup_anndata(train, layer="raw", genes=["g3", "g1"])
    train.write_h5ad(tmp_path / "train.h5ad")
    expected = {"section_key": "section", "layer": "raw", "spatial_key": "spatial", "image_key": "X_image"}
    for table in (train.copy(), ad.read_h5ad(tmp_path / "train.h5ad")):
        assert vars(baselines.Ridge(table).setup_) == expected | {"genes": ["g3", "g1"]}
    baselines.Mean.setup_anndata(train)  # the last registration counts, and X is the default again
    assert baselines.Ridge(train).setup_.layer is None and len(baselines.Ridge(train).genes_) == 10
    baselines.Mean.setup_anndata(train, genes=["g3", "g1"])
    with pytest.raises(KeyError, match="1 genes are not in adata.var_names.*'g3'"):
        baselines.Ridge(train[:, ["g0", "g1"]].copy())


def test_a_refused_table_is_left_alone(train):
    with pytest.raises(KeyError, match="'nope'"):
        baselines.Mean.setup_anndata(train, genes=["nope"])
    assert "flagst" not in train.uns


def test_counts_are_whole_but_for_identity(train):
    train.X = train.X / 2
    for target in ("lognorm", "log2"):
        with pytest.raises(ValueError, match="adata.X has non-integer values"):
            baselines.Mean(train, target=target)
    assert baselines.Mean(train, target="identity").genes_ == list(train.var_names)


def test_panel_is_the_default(train):
    train.var["flagst_panel"] = train.var_names.isin(["g0", "g7"])
    assert baselines.Ridge(train).genes_ == ["g0", "g7"]


def test_query_genes_are_matched_by_name(train, query):
    model = fitted("Ridge", train)
    straight = model.predict(query.copy())
    reordered = model.predict(query[:, ::-1].copy())
    assert list(reordered.var_names) == list(query.var_names[::-1])
    np.testing.assert_array_equal(reordered[:, query.var_names].layers["flagst"], straight.layers["flagst"])
    with pytest.raises(ValueError, match="'g9'"):
        model.predict(query[:, :9].copy())
    assert model.predict(query[:, :9].copy(), allow_missing=True).n_vars == 10


def test_survives_h5ad(train, query, tmp_path):
    prediction = fitted("CorrelatedGaussian", train).predict(query)
    prediction.write_h5ad(tmp_path / "p.h5ad")
    again = ad.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(again.layers["flagst"], prediction.layers["flagst"])


def test_training_rank_follows_the_last_prediction(train, query):
    """``flagst_train_pcc`` is there for baselines with a cross-fitted mean, and never left over."""
    fitted("Ridge", train).predict(query)
    assert query.var["flagst_train_pcc"].between(-1, 1).all()
    fitted("Mean", train).predict(query)
    assert "flagst_train_pcc" not in query.var


def test_errors(train, query):
    with pytest.raises(ValueError, match="target must be one of"):
        baselines.Ridge(train, target="log")
    with pytest.raises(RuntimeError, match="Ridge is not trained"):
        baselines.Ridge(train).predict(query)
    model = fitted("Ridge", train)
    with pytest.raises(ValueError, match="structure must be between 0 and 1; got 1.5"):
        model.predict(query, structure=1.5)
    with pytest.raises(ValueError, match="structure must be between 0 and 1; got auto"):
        model.predict(query, structure="auto")  # FLAG's alone
    with pytest.raises(ValueError, match="layer='a/b' cannot be written to h5ad or zarr"):
        model.predict(query, layer="a/b")
    wide = query.copy()
    wide.obsm["X_image"] = np.hstack([wide.obsm["X_image"]] * 2)
    with pytest.raises(ValueError, match="trained on 6 image features; the query has 12"):
        model.predict(wide)
    assert not set(wide.layers.keys()) & {"flagst", "flagst_mean"}
    del query.obsm["X_image"]
    with pytest.raises(KeyError, match="flagst.pp.image_features"):
        model.predict(query)
    with pytest.raises(ValueError, match="at least 50 spots"):
        baselines.Ridge(train[:40].copy())
    with pytest.raises(ValueError, match="at least 1"):
        baselines.KNN(train, n_nearest=0)
    with pytest.raises(TypeError, match="AnnData"):
        baselines.Ridge(np.zeros((60, 3)))


def test_features_of_another_encoder_are_refused(train, query):
    for adata, name in ((train, "handcrafted"), (query, "uni")):
        adata.uns["flagst"] = {"features": {"X_image": {"encoder": name, "version": "1"}}}
    with pytest.raises(ValueError, match="encoder 'handcrafted'"):
        fitted("Ridge", train).predict(query)


def test_no_torch():
    heavy = ("torch", "scvi", "lightning", "spatialdata")
    program = f"import sys, flagst.baselines; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
