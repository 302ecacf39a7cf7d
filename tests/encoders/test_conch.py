"""CONCH's image tower out of a file with all its towers: pooling as written out by hand, other files refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from flagst.encoders import RECIPES, get_encoder
from flagst.encoders._conch import ConchEncoder, ConchTower, read_tower

try:
    import timm
except (ImportError, RuntimeError):  # the latter: a torchvision built for another torch
    timm = None
needs_timm = pytest.mark.skipif(timm is None, reason="timm with a torchvision that goes with this torch")

RECIPE = RECIPES["conch"]
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2}


class Trunk(nn.Module):
    """Tokens of an image without timm."""

    num_features = 24

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 24, 112, stride=112)

    def forward_features(self, pixels):
        return self.patch_embed(pixels).flatten(2).transpose(1, 2)


def randomised(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
    return network.eval()


def published(tower):
    """What a file of CONCH holds: the image tower with its other heads, and the towers of text."""
    state = {f"visual.{name}": value for name, value in tower.state_dict().items()}
    others = ("visual.proj_contrast", "visual.attn_pool_caption.query", "visual.ln_caption.weight", "logit_scale")
    return state | {name: torch.zeros(2) for name in (*others, "text.positional_embedding", "text_decoder.ln.bias")}


def by_hand(tokens, tower):
    """Pooling written out from the definition: (n, n_tokens, d_tokens) -> (n, d)."""
    pool = tower.attn_pool_contrast

    def normed(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    keys_of, query = normed(tokens, pool.ln_k), normed(pool.query, pool.ln_q)[0]
    attention, d = pool.attn, len(query)
    b_q, b_k, b_v = attention.in_proj_bias.split(d)
    q = (attention.q_proj_weight @ query + b_q).view(8, -1)
    k = (keys_of @ attention.k_proj_weight.T + b_k).view(*tokens.shape[:2], 8, -1)
    v = (keys_of @ attention.v_proj_weight.T + b_v).view(*tokens.shape[:2], 8, -1)
    share = (torch.einsum("hc,nthc->nth", q, k) / math.sqrt(d // 8)).softmax(dim=1)
    pooled = torch.einsum("nth,nthc->nhc", share, v).flatten(1)
    out = pooled @ attention.out_proj.weight.T + attention.out_proj.bias
    return normed(out, tower.ln_contrast)


def test_pooling_is_one_querys_attention_to_all_tokens(patches):
    tower = randomised(ConchTower(Trunk(), 16))
    pixels = torch.tensor(patches / 255.0, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = by_hand(tower.trunk.forward_features(pixels), tower)
        np.testing.assert_allclose(tower(pixels), expected, atol=1e-5)
    assert expected.std(dim=0).mean() > 0.02


def test_the_image_tower_is_taken_out_of_the_file(tmp_path):
    tower = randomised(ConchTower(Trunk(), 16))
    torch.save({"state_dict": {f"module.{name}": v for name, v in published(tower).items()}}, tmp_path / "w.bin")
    loaded = read_tower(Trunk(), tmp_path / "w.bin")
    assert set(loaded.state_dict()) == set(tower.state_dict())
    for name, value in tower.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], value)


def test_files_of_other_networks_are_refused(tmp_path):
    tower = randomised(ConchTower(Trunk(), 16))
    path = tmp_path / "pytorch_model.bin"
    torch.save(tower.state_dict(), path)
    with pytest.raises(ValueError, match="pytorch_model.bin is no file of CONCH"):
        read_tower(Trunk(), path)
    state = published(tower)
    torch.save({name: value for name, value in state.items() if "ln_q" not in name}, path)
    with pytest.raises(ValueError, match="pytorch_model.bin does not fit CONCH: .*2 missing .*ln_q"):
        read_tower(Trunk(), path)
    torch.save(state | {"visual.surplus": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no place for .*surplus"):
        read_tower(Trunk(), path)
    torch.save(state | {"visual.ln_contrast.weight": torch.zeros(32)}, path)
    with pytest.raises(ValueError, match="of another shape"):
        read_tower(Trunk(), path)
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="pytorch_model.bin cannot be read"):
        read_tower(Trunk(), path)
    with pytest.raises(ValueError, match="pooling"):
        get_encoder("conch", path=path, pooling="cls")


@needs_timm
def test_vectors_are_those_of_the_published_tower(tmp_path):
    trunk = timm.create_model("vit_base_patch16_224", num_classes=0, **RECIPE.model_kwargs, **SMALL)
    tower = randomised(ConchTower(trunk, 16))
    torch.save(published(tower), tmp_path / "pytorch_model.bin")
    patches = np.random.default_rng(0).integers(0, 256, (3, 448, 448, 3)).astype(np.uint8)
    pixels = torch.tensor((patches / 255.0 - RECIPE.mean) / RECIPE.std, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        tokens = trunk.forward_features(pixels)
        expected = by_hand(tokens, tower)
    assert tokens.shape == (3, 1 + 28 * 28, 24)
    fed = {key: getattr(RECIPE, key) for key in ("pooling", "patch_px", "patch_um", "mean", "std")}
    encoder = ConchEncoder(tmp_path, RECIPE.architecture, model_kwargs=RECIPE.model_kwargs | SMALL, **fed)
    np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-5, rtol=1e-4)
    assert encoder.n_features == 16 and encoder.patch_um == (224.0,) and encoder.params()["pooling"] == "attention"


@needs_timm
def test_the_recipe_opens_it(tmp_path):
    network = timm.create_model("vit_base_patch16_224", num_classes=0, **RECIPE.model_kwargs)
    # the published image tower without its projection: 12 layers of 768 and the pooling
    assert round(sum(p.numel() for p in ConchTower(network, 512).parameters()) / 1e6) == 88
    torch.save(published(ConchTower(network, 512)), tmp_path / "pytorch_model.bin")
    encoder = get_encoder("conch", path=tmp_path, device="cpu")
    assert encoder.name == "conch" and encoder.n_features == 512 and encoder.licence == "CC-BY-NC-ND-4.0"
