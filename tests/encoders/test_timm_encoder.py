"""Tiny random timm networks in files as their authors publish them give timm's own vectors."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from flagst.encoders import TimmEncoder

try:
    import timm
except (ImportError, RuntimeError):  # the latter: a torchvision built for another torch
    timm = None
needs_timm = pytest.mark.skipif(timm is None, reason="timm with a torchvision that goes with this torch")

# Arguments of the published models, fewer and narrower layers.
UNI = {"patch_size": 16, "init_values": 1e-5, "dynamic_img_size": True, "embed_dim": 32, "depth": 2, "num_heads": 4}
H_OPTIMUS = {
    "init_values": 1e-5,
    "dynamic_img_size": False,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "img_size": 224,
}
SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "mlp_ratio": 5.3375, "init_values": 1e-5}
VIRCHOW2 = SWIGLU | {"reg_tokens": 4, "global_pool": "", "img_size": 224, "embed_dim": 32, "depth": 2, "num_heads": 2}
UNI2 = SWIGLU | {"reg_tokens": 8, "no_embed_class": True, "patch_size": 14, "embed_dim": 24, "depth": 1, "num_heads": 2}


def made(architecture, settings):
    """The network as its authors make it."""
    classes = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    settings = {key: classes.get(key, value) for key, value in settings.items()}
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=0, **settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # layer scale would leave next to nothing of the blocks
            parameter.copy_(torch.randn_like(parameter) / 4)
    return network


def saved(path, network):
    state = network.state_dict()
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch", reason="writes the file").save_file(state, path)
    else:
        torch.save(state, path)
    return path


def normalised(patches, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    return torch.tensor((patches / 255.0 - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)


@needs_timm
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("vit_large_patch16_224", UNI),
        ("vit_giant_patch14_reg4_dinov2", H_OPTIMUS),
        ("vit_giant_patch14_224", UNI2),
        ("resnet10t", {}),
    ],
)
def test_vectors_are_timms_own(tmp_path, patches, architecture, settings, suffix):
    network = made(architecture, settings)
    path = saved(tmp_path / f"pytorch_model{suffix}", network)
    encoder = TimmEncoder(path, architecture, model_kwargs=settings, batch_size=2)
    with torch.no_grad():
        expected = network(normalised(patches)).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-5, rtol=1e-4)
    with ThreadPoolExecutor(3) as pool:
        for result in pool.map(encoder.encode, [patches] * 3):
            np.testing.assert_allclose(result, expected, atol=1e-5, rtol=1e-4)


@needs_timm
def test_virchow2s_class_token_and_mean_after_the_registers(tmp_path, patches):
    network = made("vit_huge_patch14_224", VIRCHOW2)
    saved(tmp_path / "pytorch_model.bin", network)
    with torch.no_grad():
        tokens = network(normalised(patches)).numpy()
    assert tokens.shape == (5, 1 + 4 + 256, 32)
    pooled = {"cls": tokens[:, 0], "mean": tokens[:, 5:].mean(1)}
    pooled["cls_mean"] = np.hstack([pooled["cls"], pooled["mean"]])
    for pooling, expected in pooled.items():
        encoder = TimmEncoder(tmp_path, "vit_huge_patch14_224", model_kwargs=VIRCHOW2, pooling=pooling)
        np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-5, rtol=1e-4)
        assert encoder.params()["pooling"] == pooling and encoder.n_features == expected.shape[1]
    with pytest.raises(ValueError, match=r"one vector per patch.*\(1, 261, 32\)"):
        TimmEncoder(tmp_path, "vit_huge_patch14_224", model_kwargs=VIRCHOW2)


@needs_timm
def test_colours_and_the_record(tmp_path, patches):
    network = made("vit_large_patch16_224", UNI)
    path = saved(tmp_path / "pytorch_model.bin", network)
    mean, std = (0.7, 0.58, 0.7), (0.21, 0.23, 0.18)
    encoder = TimmEncoder(path, "vit_large_patch16_224", model_kwargs=UNI, mean=mean, std=std, licence="ours", name="x")
    with torch.no_grad():
        expected = network(normalised(patches, mean, std)).numpy()
    np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-5, rtol=1e-4)
    record = encoder.params()
    assert record["licence"] == "ours" and record["architecture"] == "vit_large_patch16_224" and encoder.name == "x"
    assert all(isinstance(value, str | list) for value in record.values())
    with torch.no_grad():
        network.norm.bias += 1
    saved(path, network)
    other = TimmEncoder(path, "vit_large_patch16_224", model_kwargs=UNI, mean=mean, std=std, licence="ours", name="x")
    assert {key for key in record if record[key] != other.params()[key]} == {"sha256"}


@needs_timm
def test_files_of_other_networks_are_refused(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin", made("vit_large_patch16_224", UNI))
    with pytest.raises(ValueError, match="pytorch_model.bin does not fit vit_large_patch16_224.*of another shape"):
        TimmEncoder(path, "vit_large_patch16_224", model_kwargs=UNI | {"embed_dim": 64})
    with pytest.raises(ValueError, match="pytorch_model.bin does not fit vit_large_patch16_224.*no place for .*ls1"):
        TimmEncoder(path, "vit_large_patch16_224", model_kwargs=UNI | {"init_values": None})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="pytorch_model.bin cannot be read"):
        TimmEncoder(path, "vit_large_patch16_224", model_kwargs=UNI)


@needs_timm
def test_a_classifier_of_the_file_is_left_out(tmp_path, patches):
    network = made("resnet10t", {})
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {**network.state_dict(), "fc.weight": torch.zeros(9, 512)}}, path)
    with torch.no_grad():
        expected = network(normalised(patches)).numpy()
    np.testing.assert_allclose(TimmEncoder(path, "resnet10t").encode(patches), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="resnet|vision transformers"):
        TimmEncoder(path, "resnet10t", pooling="mean")


@needs_timm
def test_architectures_that_timm_does_not_know(tmp_path):
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="timm cannot make 'vit_colossal'"):
        TimmEncoder(tmp_path, "vit_colossal")
    with pytest.raises(ValueError, match="timm cannot make 'resnet10t' with .*n_legs"):
        TimmEncoder(tmp_path, "resnet10t", model_kwargs={"n_legs": 4})
    with pytest.raises(ValueError, match="timm cannot make .*NoSuchLayer"):
        TimmEncoder(tmp_path, "vit_large_patch16_224", model_kwargs={"act_layer": "NoSuchLayer"})


@needs_timm
def test_layers_are_classes_or_their_names(tmp_path, patches):
    network = made("vit_giant_patch14_224", UNI2)
    saved(tmp_path / "pytorch_model.bin", network)
    classes = UNI2 | {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    by_name, by_class = (TimmEncoder(tmp_path, "vit_giant_patch14_224", model_kwargs=k) for k in (UNI2, classes))
    assert by_name.params() == by_class.params() and "SwiGLUPacked" in by_name.params()["settings"]
    np.testing.assert_array_equal(by_name.encode(patches), by_class.encode(patches))


def test_nothing_is_downloaded_unless_asked(tmp_path):
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="hub=True"):
        TimmEncoder(tmp_path, "hf-hub:lab/net")
    with pytest.raises(FileNotFoundError, match="lab/net.*hub=True"):
        TimmEncoder("lab/net", "vit_large_patch16_224")
    with pytest.raises(ValueError, match="pooling"):
        TimmEncoder(tmp_path, "vit_large_patch16_224", pooling="max")


def test_a_timm_that_cannot_be_imported_is_explained(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__
    raised = {}

    def importing(name, *args, **kwargs):
        if name == "timm":
            raise raised["error"]
        return real(name, *args, **kwargs)

    torch.save({}, tmp_path / "w.pth")
    monkeypatch.setattr(builtins, "__import__", importing)
    raised["error"] = ImportError("No module named 'timm'")
    with pytest.raises(ImportError, match=r"flagst\[encoders\]"):
        TimmEncoder(tmp_path, "resnet10t")
    raised["error"] = RuntimeError("operator torchvision::nms does not exist")
    with pytest.raises(ImportError, match="torchvision::nms.*torch and torchvision must be of one release"):
        TimmEncoder(tmp_path, "resnet10t")
