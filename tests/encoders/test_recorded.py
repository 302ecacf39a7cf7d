"""The encoder behind recorded features: the same one, or a message that says what differs."""

import numpy as np
import pytest

from flagst.encoders import Handcrafted, _registry, recorded_encoder


class Network:
    """An encoder with weights, as those of networks are made: by path, known by their hash."""

    name, version, patch_px, patch_um, n_features, feature_names = "network", "1", 16, (50.0,), 1, ["mean"]

    def __init__(self, path):
        self.sha256 = path.read_text()

    def params(self):
        return {"sha256": self.sha256, "mean": [0.5, 0.5]}

    def encode(self, patches):
        return patches.mean(axis=(1, 2, 3), dtype=np.float32)[:, None]


def record(encoder, **changes):
    """As it comes back from a file: lists are arrays."""
    params = {key: np.array(value) if isinstance(value, list) else value for key, value in encoder.params().items()}
    return {"encoder": encoder.name, "version": encoder.version, "encoder_params": params} | changes


def test_settings_come_back():
    made = Handcrafted(nucleus_threshold=0.4)
    assert recorded_encoder(record(made)).params() == made.params() != Handcrafted().params()


def test_a_network_needs_its_weights_and_only_those(tmp_path, monkeypatch):
    monkeypatch.setitem(_registry._encoders, "network", Network)
    for name in ("right", "wrong"):
        (tmp_path / name).write_text(f"hash of {name}")
    known = record(Network(tmp_path / "right"))
    assert recorded_encoder(known, path=tmp_path / "right").params() == Network(tmp_path / "right").params()
    with pytest.raises(ValueError, match="hash of right.*this one is version '1' with.*hash of wrong"):
        recorded_encoder(known, path=tmp_path / "wrong")
    with pytest.raises(FileNotFoundError, match="'network', which needs the file of its weights: path="):
        recorded_encoder(known)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"encoder": "mine"}, ValueError, "made by the encoder 'mine', which is not there.*register_encoder"),
        ({"encoder": "uni"}, FileNotFoundError, "needs its weights.*path="),
        ({"version": "0"}, ValueError, "version '0' of the encoder 'handcrafted'.*this one is version"),
        ({"encoder_params": {"other": 1}}, ValueError, "does not take the recorded settings"),
    ],
)
def test_what_differs_is_said(changes, error, message):
    with pytest.raises(error, match=message):
        recorded_encoder(record(Handcrafted()) | changes)


def test_a_record_without_an_encoder_is_refused():
    with pytest.raises(KeyError, match="has no 'encoder'"):
        recorded_encoder({})
    with pytest.raises(ValueError, match="does not take path='x'"):
        recorded_encoder(record(Handcrafted()), path="x")
