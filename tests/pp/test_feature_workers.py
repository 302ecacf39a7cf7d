"""Image features from two worker processes: equal to those of one process, with a cache, and after losing a worker."""

import os
import threading

import numpy as np
import pytest

from flagst.data import patches as patches_module
from flagst.encoders import CallableEncoder
from flagst.pp import image_features

distributed = pytest.importorskip("distributed", reason="dask.distributed is optional: the extra 'distributed'")


@pytest.fixture(scope="module")
def client():
    """Two processes on this machine, which are started again when they die."""
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks in a small image."""
    monkeypatch.setattr(patches_module.plan_blocks, "__kwdefaults__", {"block_px": 128})


@pytest.fixture
def table(sdata):
    """Two sections of 30 spots with their images in memory."""
    return sdata.tables["table"].copy()


def features(data, **kwargs):
    image_features(data, progress=False, overwrite=True, **kwargs)
    table = data if hasattr(data, "obsm") else data.tables["table"]
    return table.obsm["X_image"].copy()


def _colour(log, *, killing=False, **kwargs):
    """Mean colour of a patch, which says where it works; the first process to work dies, once."""
    here = os.getpid()

    def colour(pixels):
        import os
        import signal

        if len(pixels) > 1 and os.getpid() != here:
            with log.open("a") as file:
                file.write(f"{os.getpid()} {len(pixels)}\n")
            if killing:
                try:
                    log.with_suffix(".killed").touch(exist_ok=False)
                except FileExistsError:
                    return pixels.mean((2, 3))
                os.kill(os.getpid(), signal.SIGKILL)
        return pixels.mean((2, 3))

    log.touch()
    return CallableEncoder(colour, name="colour", patch_px=20, patch_um=[40, 60], **kwargs)


def test_workers_give_the_same_numbers(client, table):
    expected = features(table, encoder="handcrafted")
    np.testing.assert_array_equal(features(table, encoder="handcrafted", client=client), expected)


def test_lazy_images_are_read_by_the_workers(client, sdata, tmp_path):
    from spatialdata import read_zarr

    sdata.write(tmp_path / "slide.zarr")
    slide = read_zarr(tmp_path / "slide.zarr")
    expected = features(slide, encoder="handcrafted", patch_um=60)
    np.testing.assert_array_equal(features(slide, encoder="handcrafted", patch_um=60, client=client), expected)


def test_only_the_part_of_an_image_that_is_read_travels(sdata):
    import cloudpickle
    import dask.array as da

    from flagst.data.patches import Level, crop_block, plan_blocks
    from flagst.pp._workers import _cut_out

    whole = np.random.default_rng(0).integers(0, 255, (3, 1024, 1024), dtype=np.uint8)
    centres = np.array([[300.0, 500.0], [320.0, 510.0]])
    for pixels in (whole, da.from_array(whole, chunks=(3, 128, 128))):
        (block,) = plan_blocks([Level(pixels, 1.0, 1.0)], centres, side=30, out_px=20, block_px=512)
        packed = cloudpickle.dumps(_cut_out(block))
        assert len(packed) < whole.nbytes / 10
        ((_, there),) = crop_block(cloudpickle.loads(packed))
        ((_, here),) = crop_block(block)
        np.testing.assert_array_equal(there, here)


def test_a_killed_workers_blocks_are_encoded_again(client, table, tmp_path):
    expected = features(table, encoder=_colour(tmp_path / "here"))
    log = tmp_path / "there"
    found = features(table, encoder=_colour(log, killing=True), client=client)
    np.testing.assert_array_equal(found, expected)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len({pid for pid, _ in lines}) >= 2
    client.wait_for_workers(2, timeout=60)
    pids = {str(pid) for pid in client.run(os.getpid).values()}
    assert {pid for pid, _ in lines} - pids, "no worker was killed"


def test_a_cache_and_workers_together(client, table, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    expected = features(table, encoder=_colour(first), client=client, cache=tmp_path / "kept")
    assert first.read_text()
    np.testing.assert_array_equal(features(table, encoder=_colour(second)), expected)
    blocks = sorted((tmp_path / "kept").glob("*/*.npy"))
    blocks[0].unlink()
    again = features(table, encoder=_colour(third), client=client, cache=tmp_path / "kept")
    np.testing.assert_array_equal(again, expected)
    assert len(third.read_text().splitlines()) <= 1  # blocks of one patch are not written down
    assert sorted((tmp_path / "kept").glob("*/*.npy")) == blocks


def test_a_network_travels_with_its_weights(client, table):
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    encoder = CallableEncoder(network, patch_px=20, patch_um=40)
    expected = features(table, encoder=encoder)
    np.testing.assert_allclose(features(table, encoder=encoder, client=client), expected, atol=1e-6)
    with torch.no_grad():
        network[0].bias += 1  # after the encoder was made of it
    with pytest.raises(ValueError, match="other settings or weights on a worker"):
        features(table, encoder=encoder, client=client)


def test_what_cannot_travel_is_refused(client, table):
    class Locked:
        name, version, patch_px, patch_um, n_features, feature_names = "locked", "1", 20, (40.0,), 1, ["a"]

        def __init__(self):
            self.lock = threading.Lock()

        def params(self):
            return {}

        def encode(self, patches):
            return np.zeros((len(patches), 1), np.float32)

    with pytest.raises(TypeError, match=r"Encoder 'locked' cannot be sent to workers: .*lock.* leave client= out"):
        features(table, encoder=Locked(), client=client)
    with pytest.raises(TypeError, match=r"client must be a dask.distributed.Client.*got str.*flagst\[distributed\]"):
        features(table, encoder=Locked(), client="tcp://127.0.0.1:8786")


def test_errors_on_a_worker_come_back(client, table):
    class Broken:
        name, version, patch_px, patch_um, n_features, feature_names = "broken", "1", 20, (40.0,), 1, ["a"]

        def params(self):
            return {}

        def encode(self, patches):
            raise RuntimeError("out of glass")

    with pytest.raises(RuntimeError, match="out of glass"):
        features(table, encoder=Broken(), client=client)
