"""flagst predict --image: one command from a slide to a complete prediction."""

import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import spatialdata
import tifffile

import flagst
from flagst import datasets
from flagst.__main__ import main

SMALL = {"n_sections": 3, "n_spots": 60, "n_genes": 12}
NETWORK = {"d_context": 16, "denoiser_kwargs": {"width": 32, "n_blocks": 2, "align_block": 1}}
#: Few spots, and little to write.
COARSE = ("--pitch-um", "250", "--without-image")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and a slide of other tissue as OME-TIFF that records its scale."""
    folder = tmp_path_factory.mktemp("slides")
    sdata = datasets.simulated_sections(**SMALL)
    flagst.pp.image_features(sdata, progress=False)
    flagst.FLAG.setup_anndata(sdata["table"])
    model = flagst.FLAG(sdata["table"], gfm=None, n_latent=4, network=NETWORK)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.save(str(folder / "model"))
    other = datasets.simulated_sections(**SMALL | {"n_sections": 1}, seed=5)
    scale = other["table"].uns["flagst"]["params"]["um_per_px"]["S1"]
    image = other.images["S1_image"]["scale0"]["image"].transpose("y", "x", "c").to_numpy()
    size = {f"PhysicalSize{axis}": scale for axis in "XY"}
    kind = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib"}
    tifffile.imwrite(folder / "case.ome.tif", image, metadata={"axes": "YXS", **size}, **kind)
    tifffile.imwrite(folder / "bare.tif", image, **kind)
    tifffile.imwrite(folder / "glass.tif", np.full_like(image, 240), photometric="rgb", compression="zlib")
    (folder / "slide.mrxs").write_text("no slide, whether OpenSlide is there or not")
    return SimpleNamespace(folder=folder, model=str(folder / "model"), image=str(folder / "case.ome.tif"), scale=scale)


def run(files, out, *more, image=None):
    return main(["predict", "--model", files.model, "--image", image or files.image, "--out", str(out), *more])


def test_the_command_gives_the_result_of_its_steps(files, tmp_path, capsys):
    out = tmp_path / "case.zarr"
    assert run(files, out, "--structure", "1", "--std", "--n-samples", "3") == 0
    shown = capsys.readouterr().out
    assert "[4/4] Writing" in shown and f"written to {out}" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["case.zarr"]

    sdata = spatialdata.read_zarr(out)
    flagst.io.check(sdata, require_images=True)
    assert list(sdata.images) == ["case_image"] and sdata.coordinate_systems == ["case"]
    model = flagst.FLAG.load(files.model)
    slide = flagst.io.read_slide(files.image)
    flagst.pp.tissue_spots(slide, model.spacing_["pitch_um"], layout="hex")
    flagst.pp.image_features(slide, progress=False)
    expected = model.predict(model.prepare_query(slide), structure=1, return_std=True, n_samples=3)
    found = sdata["table"]
    assert list(found.obs_names) == list(expected.obs_names) and list(found.var_names) == list(expected.var_names)
    for layer in ("flagst", "flagst_mean", "flagst_std"):
        np.testing.assert_allclose(found.layers[layer], expected.layers[layer], atol=1e-5)
    params = found.uns["flagst"]["params"]
    assert params["um_per_px"] == {"case": pytest.approx(files.scale)} and params["layout"] == {"case": "hex"}


def test_pitch_layout_scale_and_name_can_be_given(files, tmp_path):
    options = ["--um-per-px", str(files.scale), "--pitch-um", "150", "--layout", "square", "--section", "left"]
    assert run(files, tmp_path / "a.zarr", *options, "--without-image", image=str(files.folder / "bare.tif")) == 0
    sdata = spatialdata.read_zarr(tmp_path / "a.zarr")
    flagst.io.check(sdata)
    table = sdata["table"]
    assert not sdata.images and set(table.obs["section"]) == {"left"}
    assert table.uns["flagst"]["params"]["layout"] == {"left": "square"}
    nearest = flagst.data.graph.knn(table.obsm["spatial"], 1)[1]
    np.testing.assert_allclose(nearest * files.scale, 150)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "{folder}/bare.tif", "--out", "{out}.zarr"], "does not say how large its pixels are"),
        (
            ["--image", "{folder}/glass.tif", "--um-per-px", "1", "--out", "{out}.zarr"],
            "No tissue was found on 'glass'",
        ),
        (["--image", "{folder}/none.tif", "--out", "{out}.zarr"], "none.tif does not exist"),
        (["--image", "{image}", "--out", "{out}.h5ad"], "must end in .zarr for a slide"),
        (["--image", "{image}", "--out", "{image}", "--overwrite"], "must end in .zarr"),
        (["--out", "{out}.zarr"], "Pass either DATA"),
        (["{image}", "--image", "{image}", "--out", "{out}.zarr"], "Pass either DATA"),
        (["x.h5ad", "--pitch-um", "5", "--resume", "--out", "{out}.zarr"], "--pitch-um, --resume are for --image"),
        (["--image", "{image}", "--pitch-um", "0.1", "--out", "{out}.zarr"], "below two"),
        (["--image", "{image}", "--pitch-um", "0", "--out", "{out}.zarr"], "pitch_um must be a positive"),
        (["--image", "{folder}/slide.mrxs", "--out", "{out}.zarr"], "slide.mrxs"),
    ],
)
def test_errors_are_one_line_and_leave_no_files(files, options, message, tmp_path, capsys):
    names = {"folder": files.folder, "image": files.image, "out": tmp_path / "new"}
    assert main(["predict", "--model", files.model, *(option.format(**names) for option in options)]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_replaced_only_by_a_complete_result(files, tmp_path, capsys, monkeypatch):
    out = tmp_path / "case.zarr"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert run(files, out) == 1
    assert "already there" in capsys.readouterr().err

    def fail(self, *args, **kwargs):
        self.__class__.written(self, *args, **kwargs)
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(spatialdata.SpatialData, "written", spatialdata.SpatialData.write, raising=False)
        patch.setattr(spatialdata.SpatialData, "write", fail)
        assert run(files, out, "--overwrite", *COARSE) == 1
    assert "no space left" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine"
    assert run(files, out, "--overwrite", *COARSE) == 0
    assert "table" in spatialdata.read_zarr(out).tables and not (out / "notes.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["case.zarr"]


def test_resume_uses_the_features_of_a_stopped_run(files, tmp_path, monkeypatch):
    """Whether it broke in the middle of them or after, and not from those of other pixels or spots."""
    encode, encoded, most = flagst.encoders.Handcrafted.encode, [], [np.inf]

    def counted(self, patches):
        if sum(encoded) > most[0]:
            raise RuntimeError("killed")
        encoded.append(len(patches))
        return encode(self, patches)

    monkeypatch.setattr(flagst.encoders.Handcrafted, "encode", counted)
    out, partial = tmp_path / "case.zarr", tmp_path / ".case.zarr.partial"
    with monkeypatch.context() as patch:
        patch.setattr(flagst.FLAG, "predict", lambda *args, **kwargs: {}["killed"])
        assert run(files, out, *COARSE) == 1
    whole = sum(encoded)
    assert whole and not out.exists() and [path.name for path in partial.iterdir()] == ["features"]
    kept = partial.rename(tmp_path / "kept")

    mirrored = tmp_path / "mirrored.tif"
    tifffile.imwrite(mirrored, tifffile.imread(files.image)[::-1], photometric="rgb", compression="zlib")
    for options, image, expected in (
        (["--resume"], None, 0),
        ([], None, whole),
        (["--resume", "--um-per-px", str(files.scale)], str(mirrored), None),
        (["--resume", "--pitch-um", "300"], None, None),
    ):
        encoded.clear()
        shutil.copytree(kept, partial)
        assert run(files, out, "--overwrite", *COARSE, *options, image=image) == 0
        assert sum(encoded) > 0 if expected is None else sum(encoded) == expected
        assert not partial.exists()

    encoded.clear()
    most[0] = whole / 2
    assert run(files, tmp_path / "case.zarr", "--overwrite", *COARSE) == 1
    most[0], done = np.inf, sum(encoded)
    assert run(files, tmp_path / "case.zarr", "--overwrite", "--resume", *COARSE) == 0
    assert whole <= sum(encoded) < whole + done


def test_a_model_that_does_not_fit_raises_an_error(files, tmp_path, capsys, monkeypatch):
    load = flagst.FLAG.load

    def with_features(change, *args, **kwargs):
        model = load(*args, **kwargs)
        model.features_["X_image"] |= change
        return model

    for change, message in (
        ({"encoder": "mine"}, "made by the encoder 'mine', which is not there; found ["),
        ({"encoder": "uni"}, "On the command line: --encoder-path."),
        ({"version": "0"}, "made by version '0' of the encoder 'handcrafted'"),
        ({"encoder_params": {"threshold": 2}}, "does not take the recorded settings"),
        ({"encoder_params": {"nucleus_threshold": 9.0}}, None),
    ):
        monkeypatch.setattr(flagst.FLAG, "load", partial(with_features, change))
        out = tmp_path / "case.zarr"
        if message is None:
            assert run(files, out, *COARSE) == 0
            made = spatialdata.read_zarr(out)["table"].uns["flagst"]["features"]["X_image"]
            assert made["encoder_params"] == {"nucleus_threshold": 9.0}
        else:
            assert run(files, out) == 1
            assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
