"""CONCH's image tower: a vision transformer of timm, whose tokens a learnt query pools by attention."""

from pathlib import Path

import torch
from torch import Tensor, nn

from flagst._files import load_weights
from flagst._weights import bare_names, fit_weights
from flagst.encoders.timm_encoder import TimmEncoder, create_timm

N_HEADS = 8
_TOWER = "visual."
_LAST_NORM = "ln_contrast.weight"
# Parts of the image tower behind the vector that is used: projection to the text's space, tokens for captions.
_SPARE = ("proj_contrast", "attn_pool_caption.", "ln_caption.", "head.")


class AttentionPooling(nn.Module):
    """Multi-head attention of a learnt query to normalised tokens; parameters have the names of the published file."""

    def __init__(self, d_tokens: int, d: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, d))
        self.ln_q, self.ln_k = nn.LayerNorm(d), nn.LayerNorm(d_tokens)
        self.attn = nn.MultiheadAttention(d, N_HEADS, kdim=d_tokens, vdim=d_tokens, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(n, n_tokens, d_tokens)`` to ``(n, d)``."""
        tokens = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)
        return self.attn(query, tokens, tokens, need_weights=False)[0][:, 0]


class ConchTower(nn.Module):
    """Vision transformer, attention pooling, layer norm: image features before the projection to the text's space.

    ``trunk`` is a vision transformer of timm, ``n_features`` the length of a vector.

    Source
    ------
    Lu et al., Nature Medicine 2024; the pooling is that of CoCa (Yu et al., TMLR 2022).
    """

    def __init__(self, trunk: nn.Module, n_features: int):
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = AttentionPooling(trunk.num_features, n_features)
        self.ln_contrast = nn.LayerNorm(n_features)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(n, 3, side, side)``, normalised, to ``(n, n_features)``."""
        return self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(pixels)))


class ConchEncoder(TimmEncoder):
    """CONCH's image features, from the file that its authors publish; ``get_encoder("conch", path=...)`` opens it.

    The vector is the pooled and normalised one before the projection to the text's space. It is not scaled to length 1.
    The authors recommend this vector for everything except comparing images with text. The text tower and the caption
    decoder of the file are not used. Parameters and errors are those of :class:`flagst.encoders.TimmEncoder`.
    """

    poolings = ("attention",)

    def _network(self, architecture: str, model_kwargs: dict, weights: Path) -> ConchTower:
        return read_tower(create_timm(architecture, model_kwargs), weights)


def read_tower(trunk: nn.Module, path: Path) -> ConchTower:
    """The image tower of a CONCH file, with its transformer in ``trunk``.

    Raises a ``ValueError`` when the file is broken, has no image tower, or has another one.
    """
    state = bare_names(load_weights(path))
    state = {name.removeprefix(_TOWER): value for name, value in state.items() if name.startswith(_TOWER)}
    if _LAST_NORM not in state:
        raise ValueError(f"{path.name} is no file of CONCH: it has no weight {_TOWER + _LAST_NORM!r}.")
    tower = ConchTower(trunk, len(state[_LAST_NORM]))
    fit_weights(tower, state, file=path.name, model="CONCH", spare=_SPARE)
    return tower
