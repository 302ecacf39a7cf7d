"""Many slides: the same numbers here and on a cluster, none of them twice, and a lost worker's too."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from flagst import FLAG, tl

N_SPOTS, N_GENES = 600, 5


def make_slide(name, seed, n_spots=N_SPOTS):
    rng = np.random.default_rng([seed, 1])
    loadings = np.random.default_rng(0).normal(size=(4, N_GENES)) / 2
    image = rng.normal(size=(n_spots, 4)).astype(np.float32)
    adata = ad.AnnData(rng.poisson(np.exp(1 + image @ loadings)).astype(np.float32) + 1)
    adata.obs_names = [f"{name}_{i}" for i in range(n_spots)]
    adata.obs["section"] = name
    adata.obs["total_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obsm["spatial"] = 100.0 * np.stack(np.divmod(np.arange(n_spots), 20), axis=1)
    adata.obsm["X_image"] = image
    return adata


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, and four slides without expression in two formats."""
    folder = tmp_path_factory.mktemp("slides")
    train = ad.concat([make_slide(name, seed, 100) for seed, name in enumerate("ABC")])
    FLAG.setup_anndata(train)
    model = FLAG(train, network={"d_context": 16, "denoiser_kwargs": {"width": 32, "n_blocks": 2}}, n_latent=3)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    model.save(str(folder / "model"))
    for seed, name in enumerate(("w", "x", "y", "z")):
        slide = make_slide(name, 10 + seed)
        slide = ad.AnnData(obs=slide.obs, obsm=dict(slide.obsm))
        slide.write_zarr(folder / f"{name}.zarr") if seed == 3 else slide.write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    return [folder / "w.h5ad", folder / "x.h5ad", folder / "y.h5ad", folder / "z.zarr"]


@pytest.fixture(scope="module")
def expected(folder, paths):
    """What the model gives for every slide."""
    model = FLAG.load(str(folder / "model"))
    out = {}
    for path in paths:
        slide = ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)
        out[path.stem] = model.predict(model.prepare_query(slide), window_spots=40).layers["flagst"]
    return out


def assert_complete(out_dir, expected):
    assert sorted(path.name for path in Path(out_dir).iterdir()) == [f"{name}.zarr" for name in sorted(expected)]
    for name, values in expected.items():
        np.testing.assert_allclose(ad.read_zarr(Path(out_dir) / f"{name}.zarr").layers["flagst"], values, atol=1e-4)


def test_one_after_the_other(folder, paths, expected, tmp_path):
    table = tl.predict_slides(paths, folder / "model", tmp_path / "out", window_spots=40, progress=False)
    assert list(table["path"]) == [str(path) for path in paths]
    assert set(table["status"]) == {"done"} and set(table["n_spots"]) == {N_SPOTS} and (table["seconds"] > 0).all()
    assert_complete(tmp_path / "out", expected)


def test_slides_that_are_there_are_skipped(folder, paths, tmp_path):
    options = {"structure": 0, "progress": False}
    tl.predict_slides(paths[:1], folder / "model", tmp_path, **options)
    written = (tmp_path / "w.zarr").stat().st_mtime_ns
    table = tl.predict_slides(paths[:2], folder / "model", tmp_path, **options)
    assert list(table["status"]) == ["skipped", "done"] and (tmp_path / "w.zarr").stat().st_mtime_ns == written
    again = tl.predict_slides(paths[:2], folder / "model", tmp_path, overwrite=True, **options)
    assert list(again["status"]) == ["done", "done"]


def test_a_slide_that_has_changed_is_not_skipped(folder, paths, tmp_path):
    slide, options = ad.read_h5ad(paths[0]), {"structure": 0, "progress": False}
    slide.write_h5ad(tmp_path / "s.h5ad")
    for n_spots, status in ((N_SPOTS, "done"), (N_SPOTS, "skipped"), (N_SPOTS - 20, "failed")):
        slide[:n_spots].write_h5ad(tmp_path / "s.h5ad")
        table = tl.predict_slides([tmp_path / "s.h5ad"], folder / "model", tmp_path / "out", **options)
        assert list(table["status"]) == [status]
    assert "other spots or features" in table["error"][0]


def test_slides_are_not_replaced_by_their_predictions(folder, paths):
    with pytest.raises(ValueError, match="the slides themselves"):
        tl.predict_slides(paths, folder / "model", folder, overwrite=True)
    assert ad.read_zarr(paths[3]).obsm["X_image"].shape == (N_SPOTS, 4)


def test_a_slide_that_fails_does_not_stop_the_others(folder, paths, tmp_path):
    tl.predict_slides(paths[:1], folder / "model", tmp_path, structure=0, progress=False)
    given = [folder / "missing.h5ad", *paths[:2]]
    table = tl.predict_slides(given, folder / "model", tmp_path, structure=1.0, progress=False)
    assert list(table["status"]) == ["failed", "failed", "done"] and list(table["n_spots"]) == [0, 0, N_SPOTS]
    assert "missing.h5ad" in table["error"][0] and "other arguments" in table["error"][1] and table["error"][2] == ""


def test_bad_arguments(folder, paths, tmp_path):
    with pytest.raises(ValueError, match=r"named \['w'\]"):
        tl.predict_slides([paths[0], tmp_path / "w.zarr"], folder / "model", tmp_path)
    with pytest.raises(ValueError, match="empty"):
        tl.predict_slides([], folder / "model", tmp_path)
    with pytest.raises(FileNotFoundError, match="no saved model"):
        tl.predict_slides(paths, folder, tmp_path)
    with pytest.raises(TypeError, match="structur.*structure"):
        tl.predict_slides(paths, folder / "model", tmp_path, structur=1)


def dying_once(marker):
    """A plugin with small chunks; the first worker that comes to the third chunk of a slide is killed."""
    distributed = pytest.importorskip("distributed", reason="workers need dask.distributed")

    class Dying(distributed.WorkerPlugin):
        def setup(self, worker):
            import os
            import signal

            from flagst.data import prediction_store as store

            write = store.PredictionStore.write

            def dying(self, chunk, values):
                if chunk == 2:
                    try:
                        with open(marker, "x") as file:
                            file.write(self.out.name)
                    except FileExistsError:
                        pass
                    else:
                        os.kill(os.getpid(), signal.SIGKILL)
                write(self, chunk, values)

            store.CHUNK_ROWS, store.PredictionStore.write = 150, dying

    return Dying()


@pytest.mark.slow
def test_two_workers_of_which_one_is_lost(folder, paths, expected, tmp_path):
    """Killed while it writes: another one goes on with its slide from there."""
    distributed = pytest.importorskip("distributed", reason="workers need dask.distributed")
    out, marker = tmp_path / "out", tmp_path / "killed"
    cluster = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**cluster) as workers, distributed.Client(workers) as client:
        client.register_plugin(dying_once(str(marker)))
        before = set(client.run(os.getpid).values())
        table = tl.predict_slides(paths, folder / "model", out, client=client, window_spots=40, progress=False)
        assert len(before) == 2 and len(before & set(client.run(os.getpid).values())) < 2
        assert marker.read_text() in {f"{path.stem}.zarr" for path in paths}
        assert set(table["status"]) == {"done"} and list(table["path"]) == [str(path) for path in paths]
        assert_complete(out, expected)
        again = tl.predict_slides(paths, folder / "model", out, client=client, window_spots=40, progress=False)
        assert set(again["status"]) == {"skipped"}
