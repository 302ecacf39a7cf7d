"""Saved models predict the same in another process; what they write survives h5ad and zarr."""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import is_dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

import flagst
from flagst import FLAG
from flagst.model import persistence
from flagst.model.persistence import STATE

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
        residual = loaded.fitted_.latent
        np.testing.assert_array_equal(residual.shared_sd, model.fitted_.latent.shared_sd)
        np.testing.assert_array_equal(residual.noise_sd, model.fitted_.latent.noise_sd)
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


def _document(folder):
    return json.loads((folder / "model.json").read_text())


@pytest.fixture
def copied(folder, tmp_path):
    """A saved model that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.fixture
def rewrite(copied):
    """Change what ``model.json`` holds."""

    def change(**keys):
        (copied / "model.json").write_text(json.dumps(_document(copied) | keys))

    return change


def test_a_saved_model_is_two_files_of_values(folder):
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "model.safetensors"]
    document = _document(folder)
    assert document["format"] == 1 and document["flagst"] == flagst.__version__
    assert document["registry"]["setup_args"]["genes"] == [f"g{i}" for i in range(8)]
    assert document["fitted"]["@class"] == "Fitted"
    assert "flagst." not in (folder / "model.json").read_text()  # no module paths
    with safe_open(folder / "model.safetensors", "np") as file:
        names = set(file.keys())
        assert file.get_tensor("fitted/stage/scaler/mean").dtype == np.float64
    assert "fitted/latent/components" in names
    assert len([name for name in names if name.startswith("network.networks.0.")]) > 10


def _assert_equal(found, expected):
    assert type(found) is type(expected)
    if is_dataclass(expected):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            _assert_equal(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_equal(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.strides == expected.strides
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def test_every_fitted_part_comes_back_exactly(trained, folder):
    model = FLAG.load(str(folder), adata=False)
    for name in STATE:
        _assert_equal(getattr(model, name), getattr(trained, name))


def test_unmeasured_genes_come_back(make, query, tmp_path):
    adata = make.table()
    adata.varm["vectors"] = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    FLAG.setup_anndata(adata, genes=[f"g{i}" for i in range(6)])
    model = FLAG(adata, n_latent=4, network=make.SMALL, gfm="vectors")
    model.train(**make.QUICK)
    model.save(tmp_path / "model")
    loaded = FLAG.load(tmp_path / "model")
    _assert_equal(loaded.unmeasured_, model.unmeasured_)
    tables = [m.predict(query.copy(), genes=["g7", "g0"]) for m in (loaded, model)]
    np.testing.assert_array_equal(*(table.layers["flagst"] for table in tables))


def test_the_format_of_another_version_is_named(copied, rewrite):
    rewrite(format=2, flagst="9.8.7")
    with pytest.raises(ValueError, match=r"saved by flagst 9.8.7 in format 2; .*reads format 1.*flagst==9.8.7"):
        FLAG.load(copied)


def test_a_model_of_before_the_first_release_is_refused_unread(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    with pytest.raises(ValueError, match=r"model.pt by a development version.*before its first release.*train the mod"):
        FLAG.load(tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"fitted": {"@class": "Popen", "fields": {}}}, "the class 'Popen' is unknown"),
        ({"fitted": {"@class": "TargetScaler", "fields": {"mean": 0}}}, r"a TargetScaler has the fields \['mean'\]"),
        ({"spacing": {"@code": "1"}}, "the tag '@code' is unknown"),
        ({"spacing": {"@array": "nowhere"}}, "the array nowhere is missing"),
    ],
)
def test_contents_that_no_model_has_are_refused(copied, rewrite, keys, message):
    rewrite(**keys)
    with pytest.raises(ValueError, match=f"model.json cannot be read: {message}"):
        FLAG.load(copied)


def test_damaged_files_are_named(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match="model.json"):
        FLAG.load(str(tmp_path / "nowhere"))
    document = _document(copied)
    del document["fitted"]
    (copied / "model.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"model.json cannot be read: it lacks \['fitted'\]"):
        FLAG.load(copied)
    for text, message in (("no model at all", "model.json cannot be read"), ("[]", "it is no saved model")):
        (copied / "model.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            FLAG.load(copied)


def test_damaged_arrays_are_named(copied):
    file = copied / "model.safetensors"
    values = file.read_bytes()
    file.write_bytes(values[:-1] + bytes([values[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"model.safetensors is not the file that model.json was saved with"):
        FLAG.load(copied)
    file.write_bytes(values[: len(values) // 2])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        FLAG.load(copied)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        FLAG.load(copied)


def test_weights_that_are_not_finite_are_refused(make, tmp_path):
    model = make.model(make.table())
    with torch.no_grad():
        next(model.module.parameters())[0] = np.nan
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="model.safetensors has values in networks.*not finite"):
        FLAG.load(tmp_path / "model")


def test_a_save_that_fails_leaves_the_model_that_was_there(trained, make, query, copied, monkeypatch):
    expected = FLAG.load(copied).predict(query.copy()).layers["flagst"]
    model = make.model(make.table())
    model.features_ = {"X_image": object()}
    with pytest.raises(TypeError, match="cannot hold features/X_image, a object"):
        model.save(copied, overwrite=True)
    model.features_ = {}
    monkeypatch.setattr(persistence, "sha256_of", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save(copied, overwrite=True)
    with pytest.raises(ZeroDivisionError):
        model.save(copied.parent / "new")
    monkeypatch.undo()
    assert sorted(file.name for file in copied.parent.iterdir()) == ["copied"]  # no drafts, no half of a model
    np.testing.assert_array_equal(FLAG.load(copied).predict(query).layers["flagst"], expected)


def test_saving_again(make, tmp_path):
    model = make.model(make.table())
    model.save(tmp_path / "model", save_anndata=True)
    with pytest.raises(ValueError, match="already exists. Name another folder, or pass overwrite=True"):
        model.save(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    model.save(tmp_path / "model", prefix="second_", overwrite=True)
    assert FLAG.load(tmp_path / "model").adata is not None
    assert FLAG.load(tmp_path / "model", prefix="second_").adata is None
    model.save(tmp_path / "model", overwrite=True)
    assert FLAG.load(tmp_path / "model").adata is None  # the data of the model that was replaced is gone
    names = {"model.json", "model.safetensors", "notes.txt", "second_model.json", "second_model.safetensors"}
    assert {file.name for file in (tmp_path / "model").iterdir()} == names


def test_arguments_of_scvi_tools_that_have_no_meaning(trained, folder, tmp_path):
    for given in ({"save_kwargs": {"pickle_protocol": 4}}, {"legacy_mudata_format": True}, {"datamodule": object()}):
        with pytest.raises(ValueError, match=f"{list(given)[0]}.*no meaning"):
            trained.save(tmp_path / "model", **given)
    with pytest.raises(ValueError, match="backup_url.*no meaning"):
        FLAG.load(folder, backup_url="https://example.org/model.pt")
    with pytest.raises(ValueError, match="loaded without its training data"):
        FLAG.load(folder).save(tmp_path / "model", save_anndata=True)
    assert FLAG.load(folder, accelerator="cpu", device=1).device == torch.device("cpu")


def test_models_of_other_classes_are_asked_for(copied, rewrite):
    rewrite(registry=_document(copied)["registry"] | {"model_name": "Mine"})
    with pytest.raises(ValueError, match="of the class Mine"):
        FLAG.load(copied)
    assert FLAG.load(copied, allowed_classes_names_list=["Mine"]).is_trained_


def test_what_was_registered_is_shown(folder, capsys):
    assert FLAG.load_registry(folder)["setup_args"]["image_key"] == "X_image"
    FLAG.view_setup_args(folder)
    assert "'section_key': 'section'" in capsys.readouterr().out
