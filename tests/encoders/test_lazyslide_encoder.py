"""LazySlide's interface, stood in for by a module of the same shape: its own transform, its own pooling."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from flagst.encoders import LazySlideEncoder


class Model:
    """What LazySlide's image models look like to their callers."""

    license = "MIT"

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Conv2d(3, 4, 2)

    def to(self, device):
        self.model.to(device)
        return self

    def get_transform(self):
        return lambda patch: torch.tensor(patch / 128.0 - 1, dtype=torch.float32).permute(2, 0, 1)

    def encode_image(self, image):
        return self.model(image).mean((2, 3)).numpy()


class Processor(Model):
    """With a processor of its own instead of a transform."""

    def get_transform(self):
        return None

    def encode_image(self, image):
        assert image.dtype == torch.uint8
        return image.float().mean((2, 3))


@pytest.fixture
def lazyslide(monkeypatch):
    module = ModuleType("lazyslide_models")
    module.MODEL_REGISTRY = {
        "net": Model,
        "card": SimpleNamespace(module=Model),  # as older versions have it
        "processor": Processor,
        "cutter": type("Cutter", (), {"model": None}),
    }
    monkeypatch.setitem(sys.modules, "lazyslide_models", module)


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)


@pytest.mark.parametrize(("name", "licence"), [("net", "MIT"), ("card", "unknown")])
def test_vectors_are_the_models_own(lazyslide, patches, name, licence):
    encoder = LazySlideEncoder(name, hub=True, patch_px=8, patch_um=50, device="cpu", batch_size=2)
    model = Model()
    with torch.no_grad():
        expected = model.encode_image(torch.stack([model.get_transform()(patch) for patch in patches]))
    np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-6)
    assert encoder.name == f"lazyslide-{name}" and encoder.params()["licence"] == licence
    assert len(encoder.params()["sha256"]) == 64


def test_a_model_with_its_own_processor_gets_the_pixels(lazyslide, patches):
    encoder = LazySlideEncoder("processor", hub=True, patch_px=8, device="cpu")
    np.testing.assert_allclose(encoder.encode(patches), patches.mean((1, 2)), rtol=1e-5)


def test_nothing_is_downloaded_unless_asked_and_unknown_names_are_listed(lazyslide):
    with pytest.raises(ValueError, match="downloads the weights of 'net': pass hub=True"):
        LazySlideEncoder("net")
    with pytest.raises(KeyError, match="has no 'uni9'; found .*'net'"):
        LazySlideEncoder("uni9", hub=True)
    with pytest.raises(ValueError, match="does not encode images"):
        LazySlideEncoder("cutter", hub=True)
    with pytest.raises(ValueError, match="one device"):
        LazySlideEncoder("net", hub=True, device=["cpu", "cpu"])


def test_without_lazyslide_the_extra_is_named(monkeypatch):
    for name in ("lazyslide_models", "lazyslide"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"flagst\[wsi\]"):
        LazySlideEncoder("uni", hub=True)
