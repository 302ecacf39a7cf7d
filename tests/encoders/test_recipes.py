"""The table of published models: complete, opened by name, refused with what to do."""

import dataclasses

import numpy as np
import pytest
import torch

from flagst._files import load_weights
from flagst._weights import fit_weights
from flagst.encoders import RECIPES, available_encoders, get_encoder, recipes

try:
    import timm
except (ImportError, RuntimeError):  # the latter: a torchvision built for another torch
    timm = None
needs_timm = pytest.mark.skipif(timm is None, reason="timm with a torchvision that goes with this torch")

#: Millions of parameters of the published files, as LazySlide's list of models gives them.
MILLIONS = {"uni": 303, "uni2-h": 681, "virchow2": 631, "prov-gigapath": 1134, "h-optimus-0": 1134, "h-optimus-1": 1134}


def test_every_recipe_is_found_by_name_and_says_its_terms():
    assert set(RECIPES) == {
        "uni", "uni2-h", "virchow2", "prov-gigapath", "h-optimus-0", "h-optimus-1", "phikon-v2", "conch",
    }  # fmt: skip
    assert set(RECIPES) <= set(available_encoders())
    for recipe in RECIPES.values():
        assert recipe.licence and recipe.source and recipe.hub.count("/") == 1 and recipe.files
        assert recipe.patch_um == recipe.patch_px * recipe.um_per_px
    assert RECIPES["uni"].patch_um == 112
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["uni"].licence = "mine"


@pytest.mark.parametrize("name", RECIPES)
def test_without_weights_the_message_says_which_file_from_where_under_which_terms(name, tmp_path):
    recipe = RECIPES[name]
    access = "asked for there first" if recipe.gated else "open to all"
    terms = f"huggingface.co/{recipe.hub} .*{access}; licence {recipe.licence}"
    with pytest.raises(FileNotFoundError, match=f"{recipe.files[0]}.*{terms}.*hub=True"):
        get_encoder(name)
    with pytest.raises(FileNotFoundError, match=f"{recipe.files[0]}.*{terms}"):
        get_encoder(name, path=tmp_path / "gone")


def test_a_file_and_the_hub_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="'uni' takes path= or hub=True, not both"):
        get_encoder("uni", path=tmp_path, hub=True)


def test_the_hub_is_asked_only_with_hub(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="comes with transformers and timm")
    asked = []

    def fetch(repository, name):
        asked.append((repository, name))
        raise OSError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    with pytest.raises(FileNotFoundError):
        get_encoder("h-optimus-0")
    assert not asked
    for name in ("h-optimus-0", "phikon-v2"):
        with pytest.raises(FileNotFoundError, match="could not be downloaded.*no network.*path="):
            get_encoder(name, hub=True)
    assert asked[0] == ("bioptimus/H-optimus-0", "pytorch_model.bin") and asked[-1][0] == "owkin/phikon-v2"


def smaller(monkeypatch, name, n_features, **sizes):
    """The recipe of a smaller network, otherwise as published."""
    recipe = RECIPES[name]
    changed = dataclasses.replace(recipe, model_kwargs={**recipe.model_kwargs, **sizes}, n_features=n_features)
    monkeypatch.setattr(recipes, "RECIPES", {**RECIPES, name: changed})
    return changed


@needs_timm
@pytest.mark.parametrize("name", MILLIONS)
def test_architectures_have_the_size_of_the_published_files(name):
    from flagst.encoders.timm_encoder import create_timm

    with torch.device("meta"):
        network = create_timm(RECIPES[name].architecture, RECIPES[name].model_kwargs)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == pytest.approx(MILLIONS[name], abs=2)
    width = network.num_features * (2 if RECIPES[name].pooling == "cls_mean" else 1)
    assert width == RECIPES[name].n_features


@needs_timm
@pytest.mark.parametrize("name", MILLIONS)
def test_timm_recipes_open_a_file_and_give_its_vectors(monkeypatch, tmp_path, patches, name):
    from flagst.encoders.timm_encoder import create_timm

    width = 48
    double = RECIPES[name].pooling == "cls_mean"
    recipe = smaller(monkeypatch, name, width * (1 + double), embed_dim=width, depth=1, num_heads=2)
    torch.manual_seed(0)
    network = create_timm(recipe.architecture, recipe.model_kwargs).eval()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    encoder = get_encoder(name, path=tmp_path, batch_size=3)
    pixels = torch.tensor((patches / 255.0 - recipe.mean) / recipe.std, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        tokens = network.forward_features(pixels)
    expected = torch.cat([tokens[:, 0], tokens[:, network.num_prefix_tokens :].mean(1)], 1) if double else tokens[:, 0]
    np.testing.assert_allclose(encoder.encode(patches), expected.numpy(), atol=1e-5, rtol=1e-4)
    assert encoder.name == name and encoder.patch_um == (112.0,) and encoder.licence == recipe.licence

    wider = smaller(monkeypatch, name, 7, embed_dim=width * 2, depth=1, num_heads=2)
    with pytest.raises(ValueError, match="pytorch_model.bin does not fit"):
        get_encoder(name, path=tmp_path)
    path = tmp_path / "pytorch_model.bin"
    fit_weights(network, load_weights(path), file=path.name, model=wider.title)  # the file itself is sound


def test_phikon_opens_a_folder(monkeypatch, tmp_path, patches):
    transformers = pytest.importorskip("transformers", reason="reads Phikon-v2")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 224, "patch_size": 16}
    torch.manual_seed(0)
    network = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Phikon-v2 has vectors of 1024 numbers; these weights give 32"):
        get_encoder("phikon-v2", path=tmp_path)
    recipe = smaller(monkeypatch, "phikon-v2", 32)
    pixels = torch.tensor((patches / 255.0 - recipe.mean) / recipe.std, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network(pixel_values=pixels).last_hidden_state[:, 0].numpy()
    for path in (tmp_path, tmp_path / "model.safetensors"):
        encoder = get_encoder("phikon-v2", path=path)
        np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-5, rtol=1e-4)
    other = get_encoder("phikon-v2", path=tmp_path, pooling="cls_mean", patch_um=[50, 100])
    assert other.n_features == 64 and other.patch_um == (50.0, 100.0)
    assert encoder.name == "phikon-v2" and encoder.licence == "Owkin non-commercial"
