"""Predictions: layers, the dial, seeds, and what must not change them."""

from dataclasses import replace

import numpy as np
import pytest

LAYERS = ("flagst", "flagst_mean")


def test_layers_are_written_in_place(trained, query, make):
    before = query.copy()
    assert trained.predict(query) is query
    for name in LAYERS:
        values = query.layers[name]
        assert values.shape == query.shape and values.dtype == np.float32
        assert np.isfinite(values).all() and values.min() >= 0
    assert not np.array_equal(query.layers["flagst"], query.layers["flagst_mean"])
    params = query.uns["flagst"]["params"]
    assert params["target"] == "lognorm" and params["section_key"] == "section" and params["structure"] == 0.5
    assert params["um_per_px"] == before.uns["flagst"]["params"]["um_per_px"]
    assert query.var["flagst_train_pcc"].between(-1, 1).all()
    np.testing.assert_array_equal(query.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(query.obsm["X_image"], before.obsm["X_image"])


def test_the_mean_follows_the_tissue(trained, query):
    from flagst.data.measured import measured_expression
    from flagst.metrics import pcc

    trained.predict(query)
    assert pcc(query.layers["flagst_mean"], measured_expression(query, target="lognorm")) > 0.3


def test_registered_data_is_the_default(trained):
    predicted = trained.predict()
    assert predicted is trained.adata and "flagst" in predicted.layers
    for name in LAYERS:
        del predicted.layers[name]


def test_structure_zero_is_the_mean(trained, query):
    trained.predict(query, structure=0)
    np.testing.assert_array_equal(query.layers["flagst"], query.layers["flagst_mean"])


def test_the_dial_is_linear_until_it_clips(trained, query):
    layers = {}
    for structure in (0, 0.2, 0.5, 1):
        trained.predict(query, structure=structure)
        layers[structure] = query.layers["flagst"].astype(np.float64)
    inside = (layers[0] > 0) & (layers[1] > 0)
    assert inside.mean() > 0.5
    for structure in (0.2, 0.5):
        expected = layers[0] + structure * (layers[1] - layers[0])
        np.testing.assert_allclose(layers[structure][inside], expected[inside], atol=1e-4)


def test_samples_have_the_morans_i_of_the_training_sections(make):
    """All spots of a section have the same factor of a gene. It brings Moran's I nearer to that in training."""
    from flagst.regression import neighbour_moran

    model, tables, query = make.model(make.table()), {}, make.table(names=("X", "Y"), n_spots=200, seed=7)
    model.train(**make.QUICK)
    for match_moran in (False, True):
        model.settings_ = replace(model.settings_, match_moran=match_moran)
        tables[match_moran] = model.predict(query.copy(), structure=1)
    free, matched = (tables[k].layers["flagst"].astype(float) for k in (False, True))
    np.testing.assert_array_equal(tables[True].layers["flagst_mean"], tables[False].layers["flagst_mean"])
    target = model.fitted_.moran["square"]
    distance = {False: [], True: []}
    for rows, sampler in model._samplers(query):
        near = sampler.section.nearest(4)
        mean = tables[True].layers["flagst_mean"][rows].astype(float)
        inside = (mean > 0) & (free[rows] > 0) & (matched[rows] > 0) & (np.abs(free[rows] - mean) > 0.1)
        factor = np.where(inside, (matched[rows] - mean) / np.where(inside, free[rows] - mean, 1), np.nan)
        np.testing.assert_allclose(np.nanstd(factor, axis=0), 0, atol=1e-2)
        assert np.nanmean(factor, axis=0).std() > 0.05
        for k, values in ((False, free), (True, matched)):
            moran = neighbour_moran(mean + 0.7 * (values[rows] - mean), near) - target
            distance[k].append((moran - moran.mean()).std())
    assert np.mean(distance[True]) < 0.9 * np.mean(distance[False])


def test_out_of_distribution_tissue_has_a_lower_weight(trained, query):
    odd = query.copy()
    odd.obsm["X_image"] = odd.obsm["X_image"] + 50 * np.random.default_rng(0).normal(size=odd.obsm["X_image"].shape[1])
    weights = [[s.moran_weight for _, s in trained._samplers(table)] for table in (query, odd)]
    assert min(weights[0]) > 0.5 and max(weights[1]) == 0


def test_morans_i_says_nothing_about_another_layout(trained, query, caplog):
    hexagonal = query.copy()
    hexagonal.uns["flagst"]["params"]["layout"] = {"X": "hex", "Y": "square"}
    first, second = (s for _, s in trained._samplers(hexagonal))
    assert first.moran is None and second.moran is not None
    assert "Spot layout hex was not among the training sections' (square)" in caplog.text
    residual = first.fitted.latent.decode(*first.decoder_inputs("0/0", first.everything))
    expected = first.fitted.stage.scaler.restore(first.mean_of(first.everything) + residual)
    np.testing.assert_array_equal(first.samples(1, 0)[0], expected.astype(np.float32))


def test_a_prediction_of_structure_one_is_the_first_sample(trained, query):
    trained.predict(query, structure=1, seed=3)
    samples = trained.sample(query, 2, seed=3)
    assert samples.shape == (2, *query.shape) and samples.dtype == np.float32
    np.testing.assert_array_equal(samples[0], query.layers["flagst"])
    assert np.abs(samples[1] - samples[0]).mean() > 0.05


def test_seeds_differ_and_repeat(trained, query):
    first, second, again = (trained.predict(query.copy(), seed=seed).layers["flagst"] for seed in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).mean() > 0.02


def test_standard_deviation_is_that_of_the_samples(trained, query):
    alone = trained.predict(query.copy()).layers["flagst"]
    trained.predict(query, n_samples=4, return_std=True)
    np.testing.assert_array_equal(query.layers["flagst"], alone)  # n_samples does not touch the prediction
    std = query.layers["flagst_std"]
    np.testing.assert_allclose(std, trained.sample(query, 4).std(axis=0, ddof=1), atol=1e-5)
    assert std.dtype == np.float32 and np.isfinite(std).all() and std.mean() > 0.05


def test_reordered_spots_get_the_same_prediction(trained, query):
    order = np.random.default_rng(0).permutation(query.n_obs)
    shuffled = trained.predict(query[order].copy())
    trained.predict(query)
    for name in LAYERS:
        np.testing.assert_allclose(shuffled.layers[name], query[order].layers[name], atol=2e-4)


def test_a_section_is_predicted_alike_alone_and_with_others(trained, query):
    alone = trained.predict(query[query.obs["section"] == "Y"].copy())
    trained.predict(query)
    for name in LAYERS:
        np.testing.assert_array_equal(alone.layers[name], query[alone.obs_names].layers[name])
    samples = trained.sample(query)[:, query.obs["section"] == "Y"]
    np.testing.assert_array_equal(samples, trained.sample(alone))


def test_expression_is_not_needed(trained, query):
    import anndata as ad

    blind = ad.AnnData(obs=query.obs, var=query.var, obsm=dict(query.obsm), uns=dict(query.uns))
    assert blind.X is None
    trained.predict(blind)
    trained.predict(query)
    np.testing.assert_array_equal(blind.layers["flagst"], query.layers["flagst"])
    assert blind.X is None


def test_layer_names(trained, query):
    trained.predict(query, layer="other", n_samples=2, return_std=True)
    assert {"other", "other_mean", "other_std"} == set(k for k in query.layers if k is not None)
    assert query.uns["flagst"]["params"]["layer"] == "other"
    with pytest.raises(ValueError, match="layer"):
        trained.predict(query, layer="a/b")


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_the_history_goes_with_the_prediction(trained, query, tmp_path, container):
    import anndata as ad
    import matplotlib

    matplotlib.use("Agg")
    from flagst import pl

    predicted = trained.predict(query)
    recorded = predicted.uns["flagst"]["history"]
    assert type(recorded) is dict and set(recorded) == set(trained.history_)
    for name, values in recorded.items():
        assert type(values) is list and all(type(value) is float for value in values)
        logged = [value for value in values if np.isfinite(value)]
        np.testing.assert_array_equal(logged, trained.history_[name].iloc[:, 0].dropna())
    path = tmp_path / f"predicted.{container}"
    getattr(predicted, f"write_{container}")(path)
    stored = getattr(ad, f"read_{container}")(path)
    assert set(stored.uns["flagst"]["history"]) == set(recorded)
    for name, values in recorded.items():
        np.testing.assert_array_equal(stored.uns["flagst"]["history"][name], values)
    titles = sorted(ax.get_title() for ax in pl.history(trained, show=False))
    for table in (predicted, stored):
        figure = pl.history(table, return_fig=True)
        panels = {ax.get_title(): ax for ax in figure.axes}
        assert sorted(panels) == titles  # files may change the order
        lines = {line.get_label(): line.get_ydata() for line in panels["loss"].lines}
        np.testing.assert_allclose(lines["train"], trained.history_["train_loss"].iloc[:, 0])
    matplotlib.pyplot.close("all")


def test_latent_representation_is_the_context(trained, query):
    import anndata as ad

    context = trained.get_latent_representation(query)
    assert context.shape == (query.n_obs, 3 * 16) and context.dtype == np.float32 and np.isfinite(context).all()
    blind = ad.AnnData(obs=query.obs, obsm=dict(query.obsm))
    np.testing.assert_array_equal(trained.get_latent_representation(blind), context)
    moved = query.copy()
    moved.obsm["spatial"] = moved.obsm["spatial"][::-1].copy()
    assert not np.allclose(trained.get_latent_representation(moved), context)


def test_values_out_of_range(trained, query):
    with pytest.raises(ValueError, match="structure must be between 0 and 1; got 1.5"):
        trained.predict(query, structure=1.5)
    with pytest.raises(ValueError, match="structure must be between 0 and 1; got auto"):
        trained.predict(query, structure="auto")
    with pytest.raises(ValueError, match="structure"):
        trained.predict(query, structure=float("nan"))
    with pytest.raises(ValueError, match="n_samples of at least 2; got 1"):
        trained.predict(query, return_std=True)
    with pytest.raises(ValueError, match="n_samples must be at least 1; got 0"):
        trained.sample(query, 0)
    with pytest.raises(TypeError, match="AnnData or a SpatialData; got ndarray"):
        trained.predict(np.ones((3, 3)))
    assert "flagst" not in query.layers


def test_a_section_of_two_spots(trained, query):
    pair = query[[0, 2]].copy()
    assert pair.obs["section"].nunique() == 1
    trained.predict(pair, n_samples=2, return_std=True)
    for name in (*LAYERS, "flagst_std"):
        assert np.isfinite(pair.layers[name]).all()


def test_a_new_prediction_drops_what_belonged_to_the_old_one(trained, query):
    trained.predict(query, n_samples=20, return_std=True, quantiles=(0.05,))
    query.layers["flagst_quality"] = query.layers["flagst"].copy()  # a user's own
    trained.predict(query)
    assert {k for k in query.layers if k is not None} == {"flagst", "flagst_mean", "flagst_quality"}
    assert "flagst" not in query.uns["flagst"]["calibration"]
