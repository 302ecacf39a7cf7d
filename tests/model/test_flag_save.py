"""Saved models predict the same in another process; what they write survives h5ad and zarr."""

import subprocess
import sys
import warnings
import zipfile

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from flagst import FLAG

IN_ANOTHER_PROCESS = """
import sys
import anndata, numpy as np
from flagst import FLAG
folder = sys.argv[1]
model = FLAG.load(folder + "/model")
query = anndata.read_h5ad(folder + "/query.h5ad")
model.predict(query, structure=0.7, seed=3)
np.savez(
    folder + "/predicted.npz",
    layer=query.layers["flagst"],
    mean=query.layers["flagst_mean"],
    drawn=model.sample(query, 2),
    context=model.get_latent_representation(query),
)
"""


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    trained.save(str(path))
    return path


def test_a_new_process_predicts_the_same(trained, query, folder):
    query.write_h5ad(folder.parent / "query.h5ad")
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(folder.parent)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    trained.predict(query, structure=0.7, seed=3)
    expected = {
        "layer": query.layers["flagst"],
        "mean": query.layers["flagst_mean"],
        "drawn": trained.sample(query, 2),
        "context": trained.get_latent_representation(query),
    }
    with np.load(folder.parent / "predicted.npz") as found:
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(("names", "n_networks"), [("A", 4), ("ABC", 3), ("ABCDE", 3)])
def test_all_networks_come_back(make, query, tmp_path, names, n_networks):
    adata = make.table(names=tuple(names), n_spots=56)
    model = make.model(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one section
        model.train(**make.QUICK | {"max_epochs": 1})
    model.save(str(tmp_path / "model"))
    for loaded in (FLAG.load(str(tmp_path / "model")), FLAG.load(str(tmp_path / "model"), adata)):
        assert len(loaded.module.networks) == n_networks
        for found, expected in zip(loaded.module.networks, model.module.networks, strict=True):
            own = expected.state_dict()
            for name, values in found.state_dict().items():
                np.testing.assert_array_equal(values.numpy(), own[name].numpy())
        residual = loaded.fitted_.residual
        np.testing.assert_array_equal(residual.jitter, model.fitted_.residual.jitter)
        np.testing.assert_array_equal(residual.noise, model.fitted_.residual.noise)
        assert (loaded.intervals_.n_sections, loaded.intervals_.n_spots) == (len(names), adata.n_obs)
        np.testing.assert_array_equal(loaded.sample(query, 2), model.sample(query, 2))


def test_loading_keeps_what_was_fitted(trained, folder):
    model = FLAG.load(str(folder))
    assert model.adata is None and model.is_trained_
    assert model.genes_ == trained.genes_ and model.settings_ == trained.settings_
    assert model.features_ == trained.features_ and list(model.spots_) == ["A", "B", "C"]
    pd.testing.assert_frame_equal(model.history_["train_loss"], trained.history_["train_loss"])
    with pytest.raises(ValueError, match="loaded without its training data. Pass other data as adata="):
        model.predict()
    with pytest.raises(ValueError, match="loaded without its training data"):
        model.train()


def test_loading_with_the_training_data_goes_on(trained, make, folder):
    model = FLAG.load(str(folder), make.table())
    predicted = model.predict()
    other = make.table()
    trained.predict(other)
    np.testing.assert_array_equal(predicted.layers["flagst"], other.layers["flagst"])
    model.train(**make.QUICK)
    np.testing.assert_array_equal(model.predict().layers["flagst"], other.layers["flagst"])


def test_training_data_saved_with_the_model(make, tmp_path):
    model = make.model(make.table(), diffusion=False)
    model.train()
    model.save(str(tmp_path / "model"), save_anndata=True)
    expected = model.predict().layers["flagst"]
    np.testing.assert_array_equal(FLAG.load(str(tmp_path / "model")).predict().layers["flagst"], expected)


def test_training_genes_in_another_order_are_matched(trained, make, folder, recwarn):
    reordered = make.table()[:, ::-1].copy()
    predicted = FLAG.load(str(folder), reordered).predict()
    assert not [w for w in recwarn if "var_names" in str(w.message)]  # scvi-tools' warning does not apply
    other = make.table()
    trained.predict(other)
    np.testing.assert_array_equal(predicted[:, other.var_names].layers["flagst"], other.layers["flagst"])


def _fewer_genes(adata):
    return adata[:, :6].copy()


def _other_genes(adata):
    adata.var_names = [f"h{i}" for i in range(adata.n_vars)]
    return adata


def _other_sections(adata):
    adata.obs["section"] = adata.obs["section"].cat.rename_categories({"B": "Z"})
    return adata


def _fewer_sections(adata):
    return adata[adata.obs["section"] != "C"].copy()


def _other_spots(adata):
    names = adata.obs_names.to_series()
    names[adata.obs["section"] == "B"] += "_again"
    adata.obs_names = names.to_numpy()
    return adata


def _other_width(adata):
    adata.obsm["X_image"] = adata.obsm["X_image"][:, :5]
    return adata


def _other_encoder(adata):
    adata.uns["flagst"]["features"]["X_image"]["encoder"] = "uni"
    return adata


def _no_features(adata):
    del adata.obsm["X_image"]
    return adata


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_fewer_genes, ValueError, r"trained on a table of 8 genes; adata has 6: missing \['g6', 'g7'\]"),
        (_other_genes, ValueError, r"missing \['g0', .*not expected \['h0'"),
        (
            _other_sections,
            ValueError,
            r"trained on sections \['A', 'B', 'C'\]; adata has .*missing \['B'\], not expected \['Z'\].*\(adata\)",
        ),
        (_fewer_sections, ValueError, r"missing \['C'\], not expected \[\]"),
        (_other_spots, ValueError, r"trained on other spots of sections \['B'\]"),
        (_other_width, ValueError, "trained on 6 image features; the query has 5"),
        (_other_encoder, ValueError, "encoder 'handcrafted'; the query's have 'uni'"),
        (_no_features, KeyError, "no 'X_image'"),
    ],
)
def test_other_data_is_refused_and_left_alone(make, state, folder, change, error, message):
    adata = change(make.table())
    before = state.of(adata)
    with pytest.raises(error, match=message):
        FLAG.load(str(folder), adata)
    state.assert_unchanged(adata, before)


@pytest.fixture
def evaluated(trained, query):
    import flagst

    trained.predict(query, n_samples=2, return_std=True)
    flagst.tl.evaluate(query)
    return query


def _assert_same(found, expected):
    for name in ("flagst", "flagst_mean", "flagst_std"):
        np.testing.assert_array_equal(found.layers[name], expected.layers[name])
    pd.testing.assert_frame_equal(found.var, expected.var, check_dtype=False)
    assert set(found.uns["flagst"]) == set(expected.uns["flagst"])
    for key, value in expected.uns["flagst"]["params"].items():
        assert found.uns["flagst"]["params"][key] == value
    assert set(found.uns["flagst"]["metrics"]) == set(expected.uns["flagst"]["metrics"])


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_round_trips(evaluated, tmp_path, kind):
    path = tmp_path / f"predicted.{kind}"
    getattr(evaluated, f"write_{kind}")(path)
    _assert_same(getattr(ad, f"read_{kind}")(path), evaluated)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_round_trips_without_expression(trained, query, tmp_path, kind):
    table = trained.predict(trained.prepare_query(query))
    path = tmp_path / f"predicted.{kind}"
    getattr(table, f"write_{kind}")(path)
    found = getattr(ad, f"read_{kind}")(path)
    assert found.X is None
    np.testing.assert_array_equal(found.layers["flagst"], table.layers["flagst"])


def test_a_table_read_from_disk_is_predicted_alike(trained, query, tmp_path):
    query.write_h5ad(tmp_path / "query.h5ad")
    found = trained.predict(ad.read_h5ad(tmp_path / "query.h5ad"))
    np.testing.assert_array_equal(found.layers["flagst"], trained.predict(query).layers["flagst"])


def test_untrained_models_are_saved_as_such(make, tmp_path, query):
    make.model(make.table()).save(str(tmp_path / "model"))
    with pytest.raises(RuntimeError, match="not trained"):
        FLAG.load(str(tmp_path / "model")).predict(query)


def test_a_model_without_its_data_stays_as_it_is_when_it_cannot_train(folder, query):
    model = FLAG.load(str(folder))
    expected = model.predict(query.copy()).layers["flagst"]
    with pytest.raises(ValueError, match=r"loaded without its training data.*FLAG.load\(dir_path, adata=...\)"):
        model.train(max_epochs=1)
    np.testing.assert_array_equal(model.predict(query).layers["flagst"], expected)
    assert FLAG.load(str(folder), adata=False).is_trained_


def test_unknown_arguments_of_training_change_nothing(make, query):
    model = make.model(make.table())
    model.train(**make.QUICK)
    expected = model.predict(query.copy()).layers["flagst"]
    with pytest.raises(TypeError, match=r"train\(\) has no argument \['batch_size', 'train_size'\]"):
        model.train(**make.QUICK, batch_size=32, train_size=0.9)
    np.testing.assert_array_equal(model.predict(query).layers["flagst"], expected)


def test_a_trained_model_can_be_pickled(make, query):
    import pickle

    model = make.model(make.table())
    model.train(**make.QUICK, gradient_clip_val=1.0)
    again = pickle.loads(pickle.dumps(model))
    expected = model.predict(query.copy()).layers["flagst"]
    np.testing.assert_array_equal(again.predict(query).layers["flagst"], expected)


class Shout:
    def __reduce__(self):
        return (print, ("this must never be seen",))


def test_a_model_file_with_code_is_refused_and_nothing_runs(folder, tmp_path, capfd):
    bad = tmp_path / "bad"
    bad.mkdir()
    held = torch.load(folder / "model.pt", weights_only=False)
    held["attr_dict"]["note"] = Shout()
    torch.save(held, bad / "model.pt")
    with pytest.raises(ValueError, match="model.pt cannot be read: it asks for builtins.print, which no model"):
        FLAG.load(str(bad))
    assert "never" not in capfd.readouterr().out
    assert FLAG.load(str(bad), trusted=True).is_trained_
    assert "never" in capfd.readouterr().out  # it would have run: the check above checks something


@pytest.mark.parametrize(
    ("module", "name"),
    [("flagst.model.predict_to_zarr", "predict_to_zarr"), ("flagst._files", "Path"), ("torch.hub", "load"), ("os", "system")],
)
def test_a_model_file_names_no_function(tmp_path, module, name):
    """Of flagst only its own dataclasses are made, not its functions nor what its modules import."""
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as file:
        file.writestr("archive/data.pkl", f"c{module}\n{name}\n.".encode())
        file.writestr("archive/version", "3\n")
    with pytest.raises(ValueError, match=f"it asks for {module}.{name}"):
        FLAG.load(str(tmp_path))


def test_a_broken_model_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.pt"):
        FLAG.load(str(tmp_path))
    (tmp_path / "model.pt").write_bytes(b"no model at all")
    with pytest.raises(ValueError, match="model.pt cannot be read"):
        FLAG.load(str(tmp_path))
