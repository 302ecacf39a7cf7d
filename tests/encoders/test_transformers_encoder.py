"""Tiny random folders as transformers writes them give its own vectors."""

import json
import os
import pickle

import numpy as np
import pytest
import torch

from flagst.encoders import TransformersEncoder

transformers = pytest.importorskip("transformers", reason="reads Phikon-v2 and its like")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 224, "patch_size": 16}


def model(kind="Dinov2", seed=0, **kwargs):
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**SIZES | kwargs)
    network = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    return network


def tokens_of(network, patches, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    pixels = torch.tensor((patches / 255.0 - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        return network(pixel_values=pixels).last_hidden_state.numpy()


@pytest.fixture
def folder(tmp_path):
    """As Phikon-v2 is published: a Dinov2 with its configuration."""
    model().save_pretrained(tmp_path)
    return tmp_path


def as_bin(folder, state):
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "ViT"])
def test_vectors_are_transformers_own(tmp_path, patches, kind):
    more = {"num_register_tokens": 4} if kind == "Dinov2WithRegisters" else {}
    network = model(kind, **more)
    network.save_pretrained(tmp_path)
    tokens = tokens_of(network, patches)
    first = 1 + more.get("num_register_tokens", 0)
    assert tokens.shape == (5, first + 14 * 14, 32) and tokens.std() > 0.01
    pooled = {"cls": tokens[:, 0], "mean": tokens[:, first:].mean(1)}
    pooled["cls_mean"] = np.hstack([pooled["cls"], pooled["mean"]])
    for pooling, expected in pooled.items():
        encoder = TransformersEncoder(tmp_path, pooling=pooling, batch_size=3)
        np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-5, rtol=1e-4)
        assert encoder.params()["pooling"] == pooling and encoder.n_features == expected.shape[1]


def test_another_process_reads_the_same_folder(folder, patches):
    encoder = TransformersEncoder(folder, pooling="mean", batch_size=3)
    packed = pickle.dumps(encoder)
    assert len(packed) < 10_000  # no weights
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.encode(patches), encoder.encode(patches))
    assert again.params() == encoder.params() and again.batch_size == 3


def test_a_bin_file_is_read_too_and_hashed(folder, patches):
    expected = tokens_of(model(), patches)[:, 0]
    first = TransformersEncoder(folder)
    path = as_bin(folder, model().state_dict())
    second = TransformersEncoder(path)
    for encoder in (first, second):
        np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-5, rtol=1e-4)
    assert first.name == "dinov2" and first.params()["architecture"] == "Dinov2Model"
    assert first.params()["sha256"] != second.params()["sha256"]


def test_colours_come_from_the_folder_unless_given(folder, patches):
    mean, std = [0.5, 0.6, 0.7], [0.2, 0.3, 0.4]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    expected = tokens_of(model(), patches, mean, std)[:, 0]
    np.testing.assert_allclose(TransformersEncoder(folder).encode(patches), expected, atol=1e-5, rtol=1e-4)
    given = TransformersEncoder(folder, mean=(0, 0, 0), std=(1, 1, 1)).params()
    assert given["mean"] == [0, 0, 0] and given["std"] == [1, 1, 1]


@pytest.mark.parametrize("held", [None, [], [{"image_mean": 1}], 0.5, {"image_mean": None}, {"image_std": 0.5}])
def test_colours_that_are_none_are_refused_by_name(folder, held):
    (folder / "preprocessor_config.json").write_text(json.dumps(held))
    with pytest.raises(
        ValueError, match=r"preprocessor_config.json (is no dict|has image_(mean|std) = ).*[Pp]ass mean="
    ):
        TransformersEncoder(folder)
    TransformersEncoder(folder, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_are_float32_whatever_the_configuration_says(folder, patches, key, capfd):
    path = folder / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("dtype", "torch_dtype")}
    path.write_text(json.dumps(config | {key: "float16"}))
    transformers.utils.logging.enable_progress_bar()
    encoder = TransformersEncoder(folder, precision="float32")
    assert capfd.readouterr().err == "" and transformers.utils.logging.is_progress_bar_enabled()
    np.testing.assert_allclose(encoder.encode(patches), tokens_of(model(), patches)[:, 0], atol=1e-5, rtol=1e-4)


def test_registers_without_a_class_token_are_none():
    from flagst.encoders._pooling import pool_tokens

    tokens = torch.arange(12.0).reshape(1, 6, 2)
    for pooling in ("cls", "cls_mean"):
        with pytest.raises(ValueError, match="needs a class token"):
            pool_tokens(tokens, pooling, n_prefix=4, has_class=False)
    np.testing.assert_array_equal(pool_tokens(tokens, "mean", n_prefix=4, has_class=False), [[9.0, 10.0]])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "layernorm.bias"}, r"missing \(layernorm.bias\)"),
        (lambda s: {**s, "tail": torch.zeros(2)}, r"no place for \(tail\)"),
        (
            lambda s: {**s, "layernorm.bias": torch.zeros(7)},
            r"another shape \(layernorm.bias is \(7,\), wanted \(32,\)\)",
        ),
    ],
)
def test_weights_of_another_model_are_refused(folder, change, reason):
    path = as_bin(folder, change(model().state_dict()))
    with pytest.raises(ValueError, match=f"pytorch_model.bin does not fit Dinov2Model: .*{reason}"):
        TransformersEncoder(folder)
    state = model().state_dict()
    torch.save({**state, "layernorm.bias": state["layernorm.bias"] * float("nan")}, path)
    with pytest.raises(ValueError, match="pytorch_model.bin has values in layernorm.bias that are not finite"):
        TransformersEncoder(folder)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_broken_and_malicious_files_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        TransformersEncoder(folder)
    as_bin(folder, {"layernorm.bias": Evil(folder / "ran")})
    with pytest.raises(ValueError, match="pytorch_model.bin cannot be read: it asks for posix.mkdir"):
        TransformersEncoder(folder)
    assert not (folder / "ran").exists()


def test_code_beside_the_weights_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"import os\nos.mkdir({str(folder / 'ran')!r})\n")
    with pytest.raises(ValueError, match="config.json cannot be read"):
        TransformersEncoder(folder)
    assert not (folder / "ran").exists()


def test_missing_files_are_named(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json"):
        TransformersEncoder(folder)
    with pytest.raises(FileNotFoundError, match="owkin/phikon-v2. Expected model.safetensors.*hub=True"):
        TransformersEncoder("owkin/phikon-v2")
    with pytest.raises(ValueError, match="pooling"):
        TransformersEncoder(folder, pooling="model")


def test_a_setting_that_does_not_exist_is_named(folder):
    with pytest.raises(TypeError, match="patch_pixels"):
        TransformersEncoder(folder, patch_pixels=224)


def test_networks_without_a_class_token_have_only_a_mean(tmp_path, patches):
    sizes = {
        "image_size": 224,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 7,
    }
    config = transformers.SwinConfig(**sizes)
    torch.manual_seed(0)
    network = transformers.SwinModel(config).eval()
    network.save_pretrained(tmp_path)
    expected = tokens_of(network, patches).mean(1)
    np.testing.assert_allclose(TransformersEncoder(tmp_path, pooling="mean").encode(patches), expected, atol=1e-5)
    with pytest.raises(ValueError, match="needs a class token"):
        TransformersEncoder(tmp_path)


@pytest.mark.parametrize("colours", [True, False])
def test_the_hub_gives_what_the_folder_gives(folder, patches, monkeypatch, colours):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="comes with transformers")
    if colours:
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))

    def fetch(repository, name):
        if not (folder / name).is_file():
            raise OSError(f"404: {repository} has no {name}")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    from_hub, from_disk = TransformersEncoder("lab/net", hub=True), TransformersEncoder(folder)
    np.testing.assert_array_equal(from_hub.encode(patches), from_disk.encode(patches))
    assert from_hub.params() == from_disk.params() and (from_hub.params()["mean"] == [0.1] * 3) == colours
