"""Encoders are found by name, or given."""

import numpy as np
import pytest

from flagst.encoders import Handcrafted, ImageEncoder, available_encoders, get_encoder, register_encoder


class Mean:
    name, version, patch_px, patch_um, n_features, feature_names = "mean", "1", 8, (50.0,), 3, ["r", "g", "b"]

    def params(self):
        return {}

    def encode(self, patches):
        return patches.mean((1, 2)).astype(np.float32)


def test_the_default_is_known_by_name_and_takes_settings():
    assert "handcrafted" in available_encoders()
    encoder = get_encoder("handcrafted", nucleus_threshold=0.5)
    assert isinstance(encoder, Handcrafted) and encoder.params() == {"nucleus_threshold": 0.5}


def test_any_object_of_the_right_shape_is_an_encoder():
    encoder = Mean()
    assert isinstance(encoder, ImageEncoder) and get_encoder(encoder) is encoder


def test_registered_encoders_are_found(monkeypatch):
    from flagst.encoders import _registry

    monkeypatch.setattr(_registry, "_encoders", dict(_registry._encoders))
    register_encoder("mean", Mean)
    assert get_encoder("mean").name == "mean"
    register_encoder("mean", Mean)  # the same again is no harm
    with pytest.raises(ValueError, match="already"):
        register_encoder("handcrafted", Mean)


def test_errors_say_what_is_there():
    with pytest.raises(ValueError, match="handcrafted"):
        get_encoder("resnet")
    with pytest.raises(TypeError, match="ImageEncoder; got dict"):
        get_encoder({})
    with pytest.raises(TypeError, match="got the class Mean"):
        get_encoder(Mean)
    with pytest.raises(TypeError, match="nucleus_threshold"):
        get_encoder(Mean(), nucleus_threshold=1)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("timm", {}, r"'timm' needs path= and architecture=; got \[\]"),
        ("timm", {"path": "vit.safetensors"}, r"'timm' needs architecture=; got \['path'\]"),
        ("transformers", {"pooling": "mean"}, r"'transformers' needs path=; got \['pooling'\]"),
        ("lazyslide", {}, "'lazyslide' needs model="),
    ],
)
def test_what_an_encoder_cannot_do_without_is_named(name, given, message):
    with pytest.raises(TypeError, match=message):
        get_encoder(name, **given)


def test_recipes_and_the_default_need_no_settings_to_say_what_is_missing():
    with pytest.raises(FileNotFoundError):
        get_encoder("uni")
    assert get_encoder("handcrafted").name == "handcrafted"
