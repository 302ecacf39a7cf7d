"""CONCH's image tower behind its vision transformer: one query that attends to all tokens."""

import torch
from torch import Tensor, nn

N_HEADS = 8


class AttentionPooling(nn.Module):
    """A learnt query's multi-head attention to normalised tokens, ``(n, n_tokens, d_tokens) -> (n, d)``.

    Names of parameters are those of the published file.
    """

    def __init__(self, d_tokens: int, d: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, d))
        self.ln_q, self.ln_k = nn.LayerNorm(d), nn.LayerNorm(d_tokens)
        self.attn = nn.MultiheadAttention(d, N_HEADS, kdim=d_tokens, vdim=d_tokens, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens."""
        tokens = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)
        return self.attn(query, tokens, tokens, need_weights=False)[0][:, 0]


class ConchTower(nn.Module):
    """Vision transformer, attention pooling, layer norm: image features before the projection to the text's space.

    Parameters
    ----------
    trunk
        Vision transformer with ``forward_features``, of timm.
    n_features
        Length of a vector.

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
        """``(n, 3, side, side)`` normalised -> ``(n, n_features)``."""
        return self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(pixels)))
