"""Functions and modules as encoders: normalised, batched, shared among threads and devices."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from flagst.encoders import CallableEncoder, ImageEncoder, get_encoder

SIDE = 16


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(0, 256, (11, SIDE, SIDE, 3)).astype(np.uint8)


def mean_colour(pixels):
    return pixels.mean((2, 3))


class Network(torch.nn.Module):
    """A convolution with dropout, which only evaluation mode leaves out."""

    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, width, 4), torch.nn.Dropout(0.5))

    def forward(self, pixels):
        return self.layers(pixels).mean((2, 3))


def encoder_of(function, **kwargs):
    return CallableEncoder(function, **{"patch_px": SIDE} | kwargs)


def test_pixels_arrive_normalised(patches):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    encoder = encoder_of(mean_colour, mean=mean, std=std, batch_size=4)
    assert isinstance(encoder, ImageEncoder) and encoder.name == "mean_colour" and encoder.n_features == 3
    expected = ((patches / 255 - mean) / std).mean((1, 2))
    np.testing.assert_allclose(encoder.encode(patches), expected, rtol=1e-5, atol=1e-6)
    assert encoder.params()["mean"] == [0.1, 0.2, 0.3] and encoder.feature_names == [
        f"mean_colour_{i}" for i in range(3)
    ]
    assert encoder.encode(patches[:0]).shape == (0, 3)


def test_a_module_is_evaluated_and_the_users_own_left_alone(patches):
    network = Network().train()
    encoder = encoder_of(network)
    first = encoder.encode(patches)
    np.testing.assert_array_equal(encoder.encode(patches), first)
    pixels = torch.tensor(patches).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(encoder.params()[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = Network().eval()((pixels - mean) / std)
    np.testing.assert_allclose(first, expected.numpy(), atol=1e-5)
    assert network.training and all(p.requires_grad for p in network.parameters())
    with torch.no_grad():
        network.layers[0].weight.zero_()
    np.testing.assert_array_equal(encoder.encode(patches), first)


def test_other_weights_are_other_settings():
    network, same, other = Network(), Network(), Network()
    with torch.no_grad():
        other.layers[0].bias += 1e-3
    assert encoder_of(network).params() == encoder_of(same).params()
    assert encoder_of(network).params()["sha256"] != encoder_of(other).params()["sha256"]
    assert "sha256" not in encoder_of(mean_colour).params()


def test_threads_and_devices_give_the_same_and_never_share_a_network(patches):
    class Watched(Network):
        def __init__(self):
            super().__init__()
            self.busy, self.calls = 0, 0

        def forward(self, pixels):
            self.busy += 1
            assert self.busy == 1
            self.calls += 1
            threading.Event().wait(0.002)
            self.busy -= 1
            return super().forward(pixels)

    expected = encoder_of(Network()).encode(patches)
    encoder = encoder_of(Watched(), device=["cpu", "cpu", "cpu"], batch_size=2)
    with ThreadPoolExecutor(6) as pool:
        for result in pool.map(encoder.encode, [patches] * 12):
            np.testing.assert_allclose(result, expected, atol=1e-6)
    calls = [encoder._free.get()[0].calls for _ in range(3)]
    assert min(calls) > 1 and sum(calls) == 12 * 6 + 1  # and the one grey patch at the start


def test_a_network_that_fails_goes_back_to_the_others(patches):
    def fails_on_many(pixels):
        if len(pixels) > 1:
            raise RuntimeError("out of memory")
        return pixels.mean((2, 3))

    encoder = encoder_of(fails_on_many)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            encoder.encode(patches)
    assert encoder.encode(patches[:1]).shape == (1, 3)


def test_half_precision_is_close_and_the_cpu_default_exact(patches):
    full, half = encoder_of(Network()), encoder_of(Network(), precision="bfloat16")
    a, b = full.encode(patches), half.encode(patches)
    assert a.dtype == b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.05
    np.testing.assert_array_equal(encoder_of(Network(), precision="float32").encode(patches), a)
    assert full.params() == half.params()


def test_get_encoder_takes_functions(patches):
    encoder = get_encoder(mean_colour, patch_px=SIDE, patch_um=[50, 100], version="7", licence="ours")
    assert encoder.patch_um == (50.0, 100.0) and encoder.version == "7" and encoder.params()["licence"] == "ours"
    assert get_encoder(encoder) is encoder
    assert get_encoder(Network(), patch_px=SIDE).name == "Network"


@pytest.mark.parametrize(
    ("function", "kwargs", "error", "match"),
    [
        (lambda x: x.mean((2, 3)), {}, ValueError, "name="),
        (lambda x: x, {"name": "n"}, ValueError, r"one vector per patch.*\(1, 3, 16, 16\)"),
        (lambda x: x.mean((2, 3)) / 0, {"name": "n"}, ValueError, "NaN or infinite"),
        (mean_colour, {"precision": "int8"}, ValueError, "precision"),
        (mean_colour, {"std": (1, 0, 1)}, ValueError, "std must be positive"),
        (mean_colour, {"mean": (1, 2)}, ValueError, "three numbers"),
        (mean_colour, {"device": []}, ValueError, "one device or more"),
        (mean_colour, {"device": "gpu7"}, ValueError, "torch devices.*gpu7"),
        (mean_colour, {"batch_size": 0}, ValueError, "batch_size"),
        (Network, {}, TypeError, "called with patches"),
        (3, {}, TypeError, "called with patches"),
    ],
)
def test_settings_out_of_range(function, kwargs, error, match):
    with pytest.raises(error, match=match):
        encoder_of(function, **kwargs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what a machine without GPU says")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no CUDA device"):
        encoder_of(mean_colour, device="cuda")


def test_wrong_patches_are_errors():
    encoder = encoder_of(mean_colour)
    with pytest.raises(ValueError, match=r"16, 16, 3\) uint8; got \(1, 8, 8, 3\)"):
        encoder.encode(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="float"):
        encoder.encode(np.zeros((1, SIDE, SIDE, 3)))
