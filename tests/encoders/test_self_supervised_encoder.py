"""The fitted encoder: with the handcrafted features or alone, written, read, refused, sent to another process."""

import pickle

import numpy as np
import pytest
import torch

from flagst.encoders import Handcrafted, ImageEncoder, SelfSupervisedEncoder, get_encoder, recorded_encoder


@pytest.fixture(scope="module")
def patches():
    """(70, 112, 112, 3) uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 250, (70, 14, 14, 3))
    return np.clip(np.kron(coarse, np.ones((1, 8, 8, 1))) + rng.normal(0, 8, (70, 112, 112, 3)), 0, 255).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def encoder(patches):
    return SelfSupervisedEncoder.fit(patches, patch_um=(100, 200), n_steps=2, device="cpu")


def test_it_is_an_encoder_with_the_handcrafted_features_first(encoder, patches):
    assert isinstance(encoder, ImageEncoder) and encoder.patch_um == (100.0, 200.0)
    found = encoder.encode(patches)
    assert found.shape == (70, encoder.n_features) == (70, 118 + 256) and found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :118], Handcrafted().encode(patches))
    assert found[:, 118:].std(axis=0).min() > 0
    assert encoder.feature_names[:118] == Handcrafted().feature_names
    assert len(set(encoder.feature_names)) == encoder.n_features


def test_the_network_alone_gives_the_same_vectors(encoder, patches):
    alone = SelfSupervisedEncoder.fit(patches, n_steps=2, with_handcrafted=False, device="cpu")
    assert alone.n_features == len(alone.feature_names) == 256
    np.testing.assert_allclose(alone.encode(patches), encoder.encode(patches)[:, 118:], rtol=1e-4, atol=1e-5)
    assert alone.params() != encoder.params() and alone.params()["sha256"] == encoder.params()["sha256"]


def test_it_encodes_the_colours_it_was_fitted_on(patches, monkeypatch):
    """The network is given one range of colours by training and by encoding."""
    seen = []
    forward = torch.nn.Sequential.forward

    def watched(self, pixels):
        if pixels.ndim == 4 and len(pixels) > 1:
            seen.append(pixels.detach())
        return forward(self, pixels)

    monkeypatch.setattr(torch.nn.Sequential, "forward", watched)
    encoder = SelfSupervisedEncoder.fit(patches, n_steps=2, device="cpu")
    trained = torch.cat(seen)
    seen.clear()
    encoder.encode(patches)
    encoded = torch.cat(seen)
    assert trained.shape[1:] == (3, 80, 80) and encoded.shape == (70, 3, 112, 112)
    torch.testing.assert_close(encoded.mean(), trained.mean(), atol=0.1, rtol=0)
    torch.testing.assert_close(encoded.std(), trained.std(), atol=0.1, rtol=0)


def test_what_is_saved_is_what_is_read(encoder, patches, tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoder.save(path)
    state = torch.random.get_rng_state()
    read = get_encoder("self-supervised", path=path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert read.params() == encoder.params() and read.patch_um == encoder.patch_um
    np.testing.assert_array_equal(read.encode(patches), encoder.encode(patches))
    record = {"encoder": encoder.name, "version": encoder.version, "encoder_params": encoder.params()}
    assert recorded_encoder(record, path=path).params() == encoder.params()
    other = SelfSupervisedEncoder.fit(patches, n_steps=2, seed=1, device="cpu")
    other.save(path)  # replaces
    with pytest.raises(ValueError, match="this one is version"):
        recorded_encoder(record, path=path)


def test_without_its_file_the_encoder_of_a_record_is_asked_for(encoder):
    record = {"encoder": encoder.name, "version": encoder.version, "encoder_params": encoder.params()}
    with pytest.raises(FileNotFoundError, match="'self-supervised', which needs the file of its weights: path="):
        recorded_encoder(record)
    with pytest.raises(FileNotFoundError, match="needs the file that its save.. wrote: path=.*fit_encoder makes one"):
        get_encoder("self-supervised")


def test_it_can_be_sent_to_another_process(encoder, patches, tmp_path):
    encoder.save(tmp_path / "encoder.safetensors")
    for made in (encoder, SelfSupervisedEncoder(tmp_path / "encoder.safetensors", device="cpu")):
        there = pickle.loads(pickle.dumps(made))
        np.testing.assert_array_equal(there.encode(patches), encoder.encode(patches))


def test_files_that_are_not_its_own_are_refused(encoder, tmp_path):
    from safetensors.torch import save_file

    encoder.save(tmp_path / "right.safetensors")
    whole = (tmp_path / "right.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    about = {"flagst": '{"format": "self-supervised encoder 1", "patch_um": [1.0], "with_handcrafted": true}'}
    save_file({"weight": torch.zeros(2)}, tmp_path / "empty.safetensors", metadata=about)
    with open(tmp_path / "code.pt", "wb") as file:
        pickle.dump(print, file)
    for name, error, message in (
        ("short", ValueError, "short.safetensors cannot be read"),
        ("other", ValueError, "other.safetensors cannot be read: it was not written by SelfSupervisedEncoder.save"),
        ("empty", ValueError, "empty.safetensors does not fit the network of a self-supervised encoder"),
        ("none", FileNotFoundError, "There is no file .*none.safetensors"),
    ):
        with pytest.raises(error, match=message):
            SelfSupervisedEncoder(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="ends in .safetensors; got code.pt"):
        SelfSupervisedEncoder(tmp_path / "code.pt")
    with pytest.raises(ValueError, match="ends in .safetensors; got right.pt"):
        encoder.save(tmp_path / "right.pt")


@pytest.mark.parametrize("patch_um", [-5, (), np.nan])
def test_sides_of_patches_out_of_range(patches, patch_um):
    with pytest.raises(ValueError, match="patch_um must be one or more positive lengths"):
        SelfSupervisedEncoder.fit(patches, patch_um=patch_um, n_steps=1)


def test_patches_of_another_size_are_refused(patches):
    with pytest.raises(ValueError, match="must be .n_patches, 112, 112, 3. uint8"):
        SelfSupervisedEncoder.fit(patches[:, :100, :100])
