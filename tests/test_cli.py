"""The command line: the demo on small sections, and train, predict and evaluate with files."""

import io
import logging
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from functools import partial
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata

import flagst
from flagst import datasets
from flagst.__main__ import main
from flagst.cli import console, demo

SMALL = {"n_sections": 3, "n_spots": 60, "n_genes": 20}
FAST = ["--max-epochs", "1"]


@pytest.fixture(scope="module")
def small_simulation():
    """The simulator makes small sections, for the demo too."""
    full = datasets.simulated_sections
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "simulated_sections", partial(full, **SMALL))
        yield


@pytest.fixture(scope="module")
def ran_demo(small_simulation, tmp_path_factory):
    """Output folder of one demo, and what it printed."""
    out, shown = tmp_path_factory.mktemp("cli") / "demo", io.StringIO()
    with redirect_stdout(shown):
        assert main(["demo", "--out", str(out), *FAST]) == 0
    return SimpleNamespace(out=out, shown=shown.getvalue())


@pytest.fixture(scope="module")
def files(small_simulation, tmp_path_factory):
    """Sections as h5ad and as zarr, and a model trained by the command line on two of them."""
    folder = tmp_path_factory.mktemp("files")
    sdata = datasets.simulated_sections()
    sdata.write(folder / "sections.zarr")
    flagst.pp.image_features(sdata, progress=False)
    sdata.tables["table"].write_h5ad(folder / "sections.h5ad")
    model = folder / "model"
    arguments = [
        "train",
        str(folder / "sections.h5ad"),
        "--model",
        str(model),
        "--sections",
        "S1",
        "S2",
        *FAST,
    ]
    assert main(arguments) == 0
    return SimpleNamespace(
        folder=folder,
        h5ad=str(folder / "sections.h5ad"),
        zarr=str(folder / "sections.zarr"),
        model=str(model),
    )


def test_demo_prints_what_it_saves(ran_demo):
    scores = pd.read_csv(ran_demo.out / "scores.csv", index_col=0)
    methods = ["DepthOracle", "Ridge", "CorrelatedGaussian, structure 0.5", "CorrelatedGaussian, structure 1"]
    methods += ["FLAG, structure 0", "FLAG, structure 0.5", "FLAG, structure 1", "perfect model"]
    assert list(scores.index) == methods
    for method in methods:
        assert f"{scores.loc[method, 'gsc']:.3f}" in ran_demo.shown
    assert "S3: 60 spots, 20 genes, target lognorm" in ran_demo.shown
    for name in ("spatial", "structure", "history"):
        assert (ran_demo.out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_demo_leaves_a_working_model_and_prediction(ran_demo):
    sdata = spatialdata.read_zarr(ran_demo.out / "prediction.zarr")
    flagst.io.check(sdata, require_images=True)
    saved = sdata.tables["table"]
    scores = pd.read_csv(ran_demo.out / "scores.csv", index_col=0)
    recorded = saved.uns["flagst"]["metrics"]["flagst"]["mean"]["gsc"]
    assert recorded == pytest.approx(scores.loc["FLAG, structure 0.5", "gsc"], rel=1e-6)
    expected = saved.layers["flagst"].copy()
    again = flagst.FLAG.load(str(ran_demo.out / "model")).predict(saved, structure=0.5, seed=0)
    np.testing.assert_allclose(again.layers["flagst"], expected, atol=1e-6)


def test_demo_writes_again_into_its_own_folder(tmp_path):
    paths = demo.prepare_folder(tmp_path / "new", overwrite=False)
    paths["model"].mkdir()
    (paths["model"] / "model.json").touch()
    paths["spatial"].touch()
    assert demo.prepare_folder(tmp_path / "new", overwrite=False) == paths
    assert [p.name for p in (tmp_path / "new").iterdir()] == [demo.MARKER]


def test_demo_spares_folders_of_others(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "was not made by flagst demo" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    paths = demo.prepare_folder(tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine" and paths["model"].parent == tmp_path
    with pytest.raises(FileExistsError):
        demo.prepare_folder(tmp_path / "notes.txt", overwrite=False)


def test_demo_on_real_sections_holds_one_out(her2st_dir):
    """No training: the panel does not see C5, and C5 is what is held out."""
    sdata = demo.load_sections(SimpleNamespace(data="her2st", data_dir=her2st_dir, seed=0))
    training, held_out = demo.split(sdata)
    assert list(training.tables["table"].obs["section"].unique()) == ["C2", "C3", "C4"]
    assert list(held_out.tables["table"].obs["section"].unique()) == ["C5"]
    genes = held_out.tables["table"].uns["flagst"]["genes"]
    assert list(genes["sections"]) == ["C2", "C3", "C4"] and len(genes["names"]) == 200
    assert held_out.tables["table"].var["flagst_panel"].sum() == 200


def test_predict_and_evaluate_h5ad(files, capsys):
    out = files.folder / "predicted.h5ad"
    arguments = ["predict", files.h5ad, "--model", files.model, "--out", str(out), "--structure", "1"]
    assert main(arguments) == 0
    predicted = anndata.read_h5ad(out)
    expected = flagst.FLAG.load(files.model).predict(anndata.read_h5ad(files.h5ad), structure=1)
    np.testing.assert_allclose(predicted.layers["flagst"], expected.layers["flagst"], atol=1e-6)
    assert main(arguments) == 1
    assert "already there" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0

    scores = files.folder / "scores.csv"
    assert main(["evaluate", str(out), "--out", str(scores)]) == 0
    table = pd.read_csv(scores, index_col=0)
    assert list(table.index) == ["S1", "S2", "S3", "mean"]
    pd.testing.assert_frame_equal(table, flagst.tl.evaluate(expected), check_names=False, atol=1e-5)
    printed = capsys.readouterr().out
    assert f"{table.loc['mean', 'pcc']:.3f}" in printed
    assert "PCC of depth" in printed and f"{table.loc['mean', 'pcc_depth_only']:.3f}" in printed


def test_predict_with_quantiles_at_a_given_structure(files):
    out = files.folder / "quantiles.h5ad"
    arguments = ["predict", files.h5ad, "--model", files.model, "--out", str(out), "--structure", "0.3"]
    assert main([*arguments, "--std", "--quantiles", "0.05", "0.95", "--n-samples", "20"]) == 0
    predicted = anndata.read_h5ad(out)
    expected = flagst.FLAG.load(files.model).predict(
        anndata.read_h5ad(files.h5ad), structure=0.3, n_samples=20, return_std=True, quantiles=(0.05, 0.95)
    )
    for name in ("flagst", "flagst_std", "flagst_q05", "flagst_q95"):
        np.testing.assert_allclose(predicted.layers[name], expected.layers[name], atol=1e-5)
    assert predicted.uns["flagst"]["params"]["structure"] == expected.uns["flagst"]["params"]["structure"]
    with pytest.raises(SystemExit):
        main([*arguments[:-1], "much"])


def test_predict_zarr_extracts_features(files):
    """A SpatialData without features comes out with features and prediction, scored like the h5ad."""
    out = files.folder / "predicted.zarr"
    assert main(["predict", files.zarr, "--model", files.model, "--out", str(out)]) == 0
    table = spatialdata.read_zarr(out).tables["table"]
    expected = flagst.FLAG.load(files.model).predict(anndata.read_h5ad(files.h5ad))
    np.testing.assert_allclose(table.layers["flagst"], expected.layers["flagst"], atol=1e-4)
    assert "flagst" not in spatialdata.read_zarr(files.zarr).tables["table"].layers
    assert main(["evaluate", str(out)]) == 0


def test_features_are_made_by_the_encoder_of_the_training_data(files, tmp_path, monkeypatch, capsys):
    load = flagst.FLAG.load

    def changed(change, *args, **kwargs):
        model = load(*args, **kwargs)
        model.features_["X_image"] |= change
        return model

    arguments = ["predict", files.zarr, "--model", files.model, "--out", str(tmp_path / "out.zarr")]
    change = {"encoder_params": {"nucleus_threshold": 9.0}, "stain_normalise": "none"}
    monkeypatch.setattr(flagst.FLAG, "load", partial(changed, change))
    assert main(arguments) == 0
    made = spatialdata.read_zarr(tmp_path / "out.zarr").tables["table"].uns["flagst"]["features"]["X_image"]
    assert made["encoder_params"] == {"nucleus_threshold": 9.0} and made["stain_normalise"] == "none"
    monkeypatch.setattr(flagst.FLAG, "load", partial(changed, {"encoder": "uni"}))
    assert main([*arguments, "--overwrite"]) == 1
    assert "'uni' needs its weights" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--encoder-path", str(tmp_path / "gone.bin")]) == 1
    assert "gone.bin" in capsys.readouterr().err


def test_predict_genes_that_were_not_measured(files, capsys):
    blank = anndata.read_h5ad(files.h5ad)[:, :0].copy()
    blank.X = None
    blank.write_h5ad(files.folder / "blank.h5ad")
    out = files.folder / "filled.h5ad"
    arguments = ["predict", str(files.folder / "blank.h5ad"), "--model", files.model, "--out", str(out)]
    assert main(arguments) == 1
    assert "lacks 20 of the model's 20 genes" in capsys.readouterr().err
    assert main([*arguments, "--allow-missing"]) == 0
    filled = anndata.read_h5ad(out)
    expected = flagst.FLAG.load(files.model).predict(anndata.read_h5ad(files.h5ad))
    names = list(filled.var_names)
    np.testing.assert_allclose(filled.layers["flagst"], expected[:, names].layers["flagst"], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["predict", "{h5ad}", "--model", "{model}", "--out", "{folder}/new.csv"],
            "must end in .h5ad or .zarr",
        ),
        (["predict", "{h5ad}", "--model", "{model}", "--out", "{folder}/new.zarr"], "is an h5ad"),
        (["predict", "{h5ad}", "--model", "{model}", "--out", "{h5ad}", "--overwrite"], "is the input"),
        (
            ["predict", "{folder}/none.h5ad", "--model", "{model}", "--out", "{folder}/new.h5ad"],
            "does not exist",
        ),
        (["train", "{h5ad}", "--model", "{folder}/new", "--sections", "S9"], "found ['S1', 'S2', 'S3']"),
        (["train", "{h5ad}", "--model", "{model}"], "already there"),
        (["evaluate", "{h5ad}"], "no 'flagst'"),
    ],
)
def test_errors_are_one_line(files, arguments, message, capsys):
    before = sorted(p.name for p in files.folder.iterdir())
    filled = [a.format(h5ad=files.h5ad, model=files.model, folder=files.folder) for a in arguments]
    assert main(filled) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith(f"flagst {arguments[0]}: ") and "Traceback" not in error
    assert sorted(p.name for p in files.folder.iterdir()) == before


def test_warnings_of_flagst_are_shown(files, caplog):
    """Two sections are few: the model says so by a warning, and nobody else's warning comes with it."""
    arguments = ["train", files.h5ad, "--model", str(files.folder / "two"), "--sections", "S1", "S2", *FAST]
    assert main(arguments) == 0
    shown = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(shown) == 1 and shown[0].startswith("With 2 section(s), validation")


def test_only_warnings_of_flagst_are_shown_and_once(caplog):
    def warn(text, category=UserWarning, module="flagst.cli.files"):
        warnings.warn_explicit(text, category, "file.py", 1, module=module)

    before = warnings.showwarning, list(warnings.filters)
    with console.quiet(verbose=False):
        warn("ours")
        warn("theirs", module="spatialdata.io")
        warn("theirs", module="flagstone")
        warn("deprecated", FutureWarning)
        logging.getLogger("flagst").warning("both")
        warn("both")
    assert [r.getMessage() for r in caplog.records] == ["ours", "both"]
    assert (warnings.showwarning, list(warnings.filters)) == before
    logging.getLogger("flagst").warning("ours")
    assert len(caplog.records) == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "x.h5ad"), "[Errno 13] Permission denied: 'x.h5ad'"),
        (KeyError("adata.obs has no 'x'."), "adata.obs has no 'x'."),
        (RuntimeError("The model is not trained."), "The model is not trained."),
        (ImportError("OpenSlide is needed."), "OpenSlide is needed."),
    ],
)
def test_errors_of_every_kind_are_readable(error, message, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setattr("flagst.cli.files.evaluate", fail)
    assert main(["evaluate", "x.h5ad"]) == 1
    assert capsys.readouterr().err == f"flagst evaluate: {message}\n"
    with pytest.raises(type(error)):
        main(["evaluate", "x.h5ad", "-v"])


def test_help_is_fast():
    """Neither ``--help`` nor building the parser imports anything heavy."""
    program = (
        "import sys; from flagst.__main__ import build_parser; build_parser().format_help(); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "scvi", "anndata", "matplotlib", "pandas"} & set(result.stdout.split())
    help_text = subprocess.run([sys.executable, "-m", "flagst", "--help"], capture_output=True, text=True, check=True)
    assert all(command in help_text.stdout for command in ("demo", "train", "predict", "evaluate"))


def test_train_on_counts_in_a_layer(files, tmp_path, capsys):
    table = anndata.read_h5ad(files.folder / "sections.h5ad")
    table.layers["counts"] = table.X.copy()
    table.X = np.log1p(table.X)
    table.write_h5ad(tmp_path / "layered.h5ad")
    data, model, out = (str(tmp_path / name) for name in ("layered.h5ad", "model", "predicted.h5ad"))
    arguments = ["train", data, "--model", model, "--n-genes", "8", *FAST]
    assert main(arguments) == 1 and "adata.X has non-integer values" in capsys.readouterr().err
    assert main([*arguments, "--layer", "counts"]) == 0
    assert main(["predict", data, "--model", model, "--out", out]) == 0
    assert main(["evaluate", out]) == 0
    assert anndata.read_h5ad(out).uns["flagst"]["params"]["counts_layer"] == "counts"
