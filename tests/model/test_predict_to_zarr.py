"""Predictions that are streamed to zarr: the same numbers, and nothing half done."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from slides import assert_close, layers_of, shaken

from flagst import FLAG
from flagst.data import prediction_store as store
from flagst.module import FlagModule


@pytest.fixture(scope="module")
def model(make):
    return shaken(make.model(make.table()), make)


@pytest.mark.parametrize("source", ["table", "h5ad", "zarr", "sdata"])
def test_a_store_holds_what_predict_gives(model, slides, small_parts, tmp_path, source):
    expected = model.predict(slides.copy(), window_spots=100, seed=3)
    query = slides.copy()
    if source == "h5ad":
        slides.write_h5ad(query := tmp_path / "slide.h5ad")
    elif source == "zarr":
        slides.write_zarr(query := tmp_path / "slide.zarr")
    elif source == "sdata":
        spatialdata = pytest.importorskip("spatialdata")
        spatialdata.SpatialData(tables={"table": slides.copy()}).write(query := tmp_path / "slide.zarr")
    out = model.predict_to_zarr(query, tmp_path / "out.zarr", window_spots=100, seed=3, progress=False)
    assert out == tmp_path / "out.zarr" and [p.name for p in tmp_path.glob("*partial*")] == []
    found = ad.read_zarr(out)
    for name, values in layers_of(expected).items():
        np.testing.assert_array_equal(found.layers[name], values)
    assert list(found.obs_names) == list(slides.obs_names) and list(found.var_names) == model.genes_
    np.testing.assert_array_equal(found.obs["section"].astype(str), slides.obs["section"].astype(str))
    np.testing.assert_array_equal(found.obs["flagst_ood"], expected.obs["flagst_ood"])
    np.testing.assert_array_equal(found.obsm["spatial"], slides.obsm["spatial"])
    np.testing.assert_array_equal(found.var["flagst_train_pcc"], expected.var["flagst_train_pcc"])
    assert found.uns["flagst"]["params"]["structure"] == 0.5 and found.uns["flagst"]["params"]["seed"] == 3
    assert found.X is None and "X_image" not in found.obsm


def test_chunks_of_a_store_are_rows_of_it(model, slides, small_parts, tmp_path):
    import zarr

    out = model.predict_to_zarr(slides, tmp_path / "out.zarr", progress=False)
    array = zarr.open_group(out, mode="r")["layers"]["flagst"]
    assert array.chunks == (170, 8) and array.dtype == np.float32 and array.nchunks == 6


def test_a_store_with_standard_deviations_and_quantiles(model, slides, small_parts, tmp_path):
    query = slides[::4].copy()
    asked = {"structure": 0.5, "n_samples": 20, "return_std": True, "quantiles": (0.05, 0.95)}
    expected = model.predict(query.copy(), window_spots=100, **asked)
    out = model.predict_to_zarr(query, tmp_path / "out.zarr", window_spots=100, progress=False, **asked)
    found = ad.read_zarr(out)
    assert_close(layers_of(found), layers_of(expected), atol=1e-5)
    slot = found.uns["flagst"]
    assert slot["calibration"]["flagst"]["n_spots"] == expected.uns["flagst"]["calibration"]["flagst"]["n_spots"]
    assert slot["params"]["structure"] == expected.uns["flagst"]["params"]["structure"]


def test_the_query_is_left_alone(model, slides, tmp_path, state):
    query = slides.copy()
    query.layers["flagst"] = np.ones(query.shape, np.float32)
    query.uns["flagst"]["metrics"] = {"flagst": {"mean": {"pcc": 1.0}}}
    before = state.of(query)
    out = model.predict_to_zarr(query, tmp_path / "out.zarr", progress=False)
    state.assert_unchanged(query, before)
    assert not ad.read_zarr(out).uns["flagst"]["metrics"]  # they were of another prediction


KILLED = """
import os, signal, sys
import zarr
from flagst import FLAG
from flagst.data import prediction_store
from flagst.sampling import sampler

sampler.DECODED_VALUES, prediction_store.CHUNK_ROWS = 8 * 150, 170
opened, calls = zarr.open_array, []

def open_array(*args, **kwargs):
    calls.append(args)
    if len(calls) == 6:  # the third chunk of the second layer; that of the first layer is written
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(*args, **kwargs)

zarr.open_array = open_array
model, query, out = sys.argv[1:]
FLAG.load(model).predict_to_zarr(query, out, window_spots=100, progress=False)
"""


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_no_table(partial):
    for path in (partial, *(path for path in partial.iterdir() if path.is_dir() and path.name != "table.zarr")):
        with pytest.raises(Exception):  # noqa: B017  whatever anndata raises for what is no table
            ad.read_zarr(path)


def stop_at(monkeypatch, where, name, n):
    """The n-th call of a function ends the prediction, as nothing catches it."""
    function, calls = getattr(where, name), []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == n:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(where, name, stopping)


@pytest.mark.slow
def test_a_killed_prediction_goes_on_to_the_same_bytes(model, slides, small_parts, tmp_path):
    model.save(str(tmp_path / "model"))
    slides.write_h5ad(tmp_path / "slide.h5ad")
    query, out, partial = tmp_path / "slide.h5ad", tmp_path / "out.zarr", tmp_path / "out.zarr.partial"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "model"), str(query), str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert not out.exists() and json.loads((partial / "journal.json").read_text())["n_done"] == 2
    assert_no_table(partial)
    loaded = FLAG.load(str(tmp_path / "model"))
    loaded.predict_to_zarr(query, out, window_spots=100, resume=True, progress=False)
    whole = loaded.predict_to_zarr(query, tmp_path / "whole.zarr", window_spots=100, progress=False)
    assert bytes_of(out) == bytes_of(whole) and not partial.exists()


@pytest.mark.parametrize(
    ("where", "name", "n", "n_done"),
    [
        (FlagModule, "solve", 2, 0),  # the first section is solved, the second is not
        (store.ArrayFolder, "__setitem__", 2, 0),
        (store.PredictionStore, "write", 6, 5),
        (ad.AnnData, "write_zarr", 1, 6),
        (store.PredictionStore, "finish", 1, 6),
    ],
)
def test_wherever_it_stops_it_goes_on_to_the_same_bytes(
    model, slides, small_parts, tmp_path, monkeypatch, where, name, n, n_done
):
    out, partial = tmp_path / "out.zarr", tmp_path / "out.zarr.partial"
    with monkeypatch.context() as patch:
        stop_at(patch, where, name, n)
        with pytest.raises(KeyboardInterrupt):
            model.predict_to_zarr(slides, out, progress=False)
    assert not out.exists() and json.loads((partial / "journal.json").read_text())["n_done"] == n_done
    assert_no_table(partial)
    model.predict_to_zarr(slides, out, resume=True, progress=False)
    assert bytes_of(out) == bytes_of(model.predict_to_zarr(slides, tmp_path / "whole.zarr", progress=False))


@pytest.mark.parametrize("n_moved", range(5))
def test_a_stop_while_the_table_is_put_together(model, slides, tmp_path, monkeypatch, n_moved):
    """Every move of the last step may be the last one."""
    query, out, move, calls = slides[::4].copy(), tmp_path / "out.zarr", store._move, []

    def moved(source, target):
        if Path(target).suffix == ".zarr" or Path(target).parent.name == "layers":
            calls.append(target)
            if len(calls) > n_moved:
                raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_move", moved)
        if n_moved < 4:  # the table, two layers, the whole
            with pytest.raises(KeyboardInterrupt):
                model.predict_to_zarr(query, out, progress=False)
            assert not out.exists()
        else:
            model.predict_to_zarr(query, out, progress=False)
    model.predict_to_zarr(query, out, resume=True, progress=False)
    assert bytes_of(out) == bytes_of(model.predict_to_zarr(query, tmp_path / "whole.zarr", progress=False))


def interrupted(model, slides, out, monkeypatch, **options):
    """A prediction that ends with its first chunk."""
    with monkeypatch.context() as patch:
        patch.setattr(store.PredictionStore, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.predict_to_zarr(slides, out, progress=False, **options)


def test_unfinished_work_is_gone_on_with_only_when_asked_and_only_if_it_is_the_same(
    model, slides, tmp_path, monkeypatch
):
    out = tmp_path / "out.zarr"
    interrupted(model, slides, out, monkeypatch, seed=1)
    with pytest.raises(FileExistsError, match="resume=True"):
        model.predict_to_zarr(slides, out, seed=1, progress=False)
    with pytest.raises(ValueError, match="other arguments"):
        model.predict_to_zarr(slides, out, seed=2, resume=True, progress=False)
    moved = slides.copy()
    moved.obsm["X_image"][0, 0] += 1
    with pytest.raises(ValueError, match="other spots"):
        model.predict_to_zarr(moved, out, seed=1, resume=True, progress=False)
    assert not out.exists()
    model.predict_to_zarr(slides, out, seed=2, overwrite=True, progress=False)
    expected = model.predict(slides.copy(), seed=2).layers["flagst"]
    np.testing.assert_allclose(ad.read_zarr(out).layers["flagst"], expected, atol=1e-4)


def test_what_is_complete_is_not_touched(model, slides, tmp_path):
    query, out = slides[::4].copy(), tmp_path / "out.zarr"
    model.predict_to_zarr(query, out, resume=True, progress=False)
    before = bytes_of(out)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.predict_to_zarr(query, out, progress=False)
    with pytest.raises(FileExistsError, match="other arguments"):
        model.predict_to_zarr(query, out, seed=5, resume=True, progress=False)
    other = query.copy()
    other.obsm["X_image"][0, 0] += 1
    with pytest.raises(FileExistsError, match="other spots or features"):
        model.predict_to_zarr(other, out, resume=True, progress=False)
    query.write_h5ad(tmp_path / "query.h5ad")
    model.predict_to_zarr(tmp_path / "query.h5ad", out, structure=0.5, resume=True, progress=False)  # the same spots
    assert bytes_of(out) == before
    model.predict_to_zarr(query, out, seed=5, overwrite=True, progress=False)
    assert bytes_of(out) != before


def test_what_is_no_prediction_is_never_replaced(model, slides, tmp_path):
    slides.write_zarr(tmp_path / "slide.zarr")
    before = bytes_of(tmp_path / "slide.zarr")
    with pytest.raises(ValueError, match="the slide itself"):
        model.predict_to_zarr(tmp_path / "slide.zarr", tmp_path / "slide.zarr", overwrite=True)
    with pytest.raises(FileExistsError, match="no prediction"):
        model.predict_to_zarr(slides, tmp_path / "slide.zarr", overwrite=True)
    assert bytes_of(tmp_path / "slide.zarr") == before and not list(tmp_path.glob("*.partial"))


def test_a_result_that_another_process_finishes_meanwhile_stays(model, slides, tmp_path, monkeypatch):
    query, out, make = slides[::4].copy(), tmp_path / "out.zarr", FLAG._samplers

    def slow(*args, **kwargs):
        monkeypatch.setattr(FLAG, "_samplers", make)
        model.predict_to_zarr(query, out, seed=7, progress=False)
        return make(*args, **kwargs)

    monkeypatch.setattr(FLAG, "_samplers", slow)
    with pytest.raises(FileExistsError, match="already there"):
        model.predict_to_zarr(query, out, progress=False)
    assert ad.read_zarr(out).uns["flagst"]["params"]["seed"] == 7 and not list(tmp_path.glob("*.partial"))


def test_starting_again_forgets_first_how_far_it_was(model, slides, small_parts, tmp_path, monkeypatch):
    """Killed while the old work is removed: nothing of it may count as done."""
    out = tmp_path / "out.zarr"
    with monkeypatch.context() as patch:
        stop_at(patch, store.PredictionStore, "write", 6)
        with pytest.raises(KeyboardInterrupt):
            model.predict_to_zarr(slides, out, progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, store.shutil, "rmtree", 2)
        with pytest.raises(KeyboardInterrupt):
            model.predict_to_zarr(slides, out, overwrite=True, progress=False)
    model.predict_to_zarr(slides, out, resume=True, progress=False)
    assert bytes_of(out) == bytes_of(model.predict_to_zarr(slides, tmp_path / "whole.zarr", progress=False))


def test_what_a_stop_leaves_beside_the_result_is_nothing_to_go_on_with(model, slides, tmp_path, monkeypatch):
    query, out = slides[::4].copy(), tmp_path / "out.zarr"
    with monkeypatch.context() as patch:
        stop_at(patch, store.PredictionStore, "discard", 1)
        with pytest.raises(KeyboardInterrupt):
            model.predict_to_zarr(query, out, progress=False)
    before = bytes_of(out)
    model.predict_to_zarr(query, out, resume=True, progress=False)
    assert bytes_of(out) == before
    shutil.rmtree(out)
    model.predict_to_zarr(query, out, resume=True, progress=False)
    assert bytes_of(out) == before and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks(model, slides, tmp_path, monkeypatch, caplog, code):
    fcntl = pytest.importorskip("fcntl", reason="file locks are those of POSIX")

    def flock(*_):
        raise OSError(getattr(errno, code), "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level("WARNING", logger="flagst"):
        model.predict_to_zarr(slides[::4].copy(), tmp_path / "out.zarr", structure=0, progress=False)
    assert "no locks" in caplog.text and ad.read_zarr(tmp_path / "out.zarr").n_obs == slides[::4].n_obs


def test_one_process_at_a_time(model, slides, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="file locks are those of POSIX")
    out = tmp_path / "out.zarr"
    interrupted(model, slides, out, monkeypatch)
    with open(tmp_path / "out.zarr.partial" / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="Another process"):
            model.predict_to_zarr(slides, out, resume=True, progress=False)


def test_bad_arguments(model, slides, tmp_path):
    out = tmp_path / "out.zarr"
    with pytest.raises(ValueError, match="window_spots"):
        model.predict_to_zarr(slides, out, window_spots=0)
    with pytest.raises(ValueError, match="window_spots"):
        model.predict(slides.copy(), window_spots=-1)
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5ad"):
        model.predict_to_zarr(tmp_path / "nothing.h5ad", out)
    (tmp_path / "text.h5ad").write_text("no table")
    with pytest.raises(ValueError, match="no h5ad file"):
        model.predict_to_zarr(tmp_path / "text.h5ad", out)
    bare = slides.copy()
    del bare.obsm["X_image"]
    bare.write_h5ad(tmp_path / "bare.h5ad")
    with pytest.raises(KeyError, match="image_features"):
        model.predict_to_zarr(tmp_path / "bare.h5ad", out)
    with pytest.raises(KeyError, match="image_features"):
        model.predict_to_zarr(bare, out)
    with pytest.raises(RuntimeError, match="not trained"):
        FLAG(model.adata).predict_to_zarr(slides, out)
    assert not out.exists() and not list(tmp_path.glob("*.partial"))
