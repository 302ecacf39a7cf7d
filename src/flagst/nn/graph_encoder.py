"""Spatial graph encoder: image features and positions to a context H, once per section."""

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

#: Of an edge: distance kernel, image similarity.
N_EDGE_FEATURES = 2


class EdgeModulatedAttention(MessagePassing):
    """Multi-head attention over graph edges whose score is modulated by the edge features.

    ``S_ij = (q_i . k_j / sqrt(d)) * (1 + a * Lin(e_ij)) + c * Lin(e_ij)``, softmax over the
    neighbours ``j`` of ``i``. Memory is linear in the number of edges.

    Parameters
    ----------
    d_model
        Width of the spot states.
    d_edge
        Number of edge features that are used, the first ones; 0 for plain attention.
    n_heads
        Attention heads; divides ``d_model``.

    Source
    ------
    FLAG (arXiv 2605.18055), spatial graph encoder; ``a`` and ``c`` are learnt per head.

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import EdgeModulatedAttention
    >>> itself = torch.arange(7)
    >>> edges = torch.stack([itself, itself]), torch.ones(7, 2)
    >>> EdgeModulatedAttention(8, d_edge=2, n_heads=2)(torch.randn(7, 8), *edges).shape
    torch.Size([7, 8])
    """

    def __init__(self, d_model: int, d_edge: int, n_heads: int):
        super().__init__(aggr="add", node_dim=0)
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.d_edge = d_edge
        if d_edge:
            self.edge_scale = nn.Linear(d_edge, n_heads)
            self.edge_bias = nn.Linear(d_edge, n_heads)
            self.a = nn.Parameter(torch.zeros(n_heads))
            self.c = nn.Parameter(torch.ones(n_heads))

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """``h: (n_spots, d_model)``, ``edge_index: (2, n_edges)`` source then target -> ``(n_spots, d_model)``."""
        split = (len(h), self.n_heads, self.d_head)
        query, key, value = self.query(h).view(split), self.key(h).view(split), self.value(h).view(split)
        out = self.propagate(edge_index, query=query, key=key, value=value, edge_attr=edge_attr, size=(len(h), len(h)))
        return out.reshape(len(h), -1)

    def message(self, query_i: Tensor, key_j: Tensor, value_j: Tensor, edge_attr: Tensor, index: Tensor) -> Tensor:
        score = (query_i * key_j).sum(-1) / math.sqrt(self.d_head)
        if self.d_edge:
            used = edge_attr[:, : self.d_edge]
            score = score * (1 + self.a * self.edge_scale(used)) + self.c * self.edge_bias(used)
        return softmax(score, index).unsqueeze(-1) * value_j


class SpatialGraphEncoder(nn.Module):
    """Attention layers over the spatial graph; depends on image and positions only.

    Parameters
    ----------
    d_image
        Width of the image features of a spot.
    d_model
        Width of the context H.
    d_edge
        Number of edge features that are used: distance kernel, image similarity.
    n_layers, n_heads, dropout
        Depth, heads, dropout rate. With 0 layers every spot is encoded by itself.

    Raises
    ------
    ValueError
        ``d_edge`` is not 0, 1 or 2.

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import SpatialGraphEncoder
    >>> itself = torch.arange(7)
    >>> edges = torch.stack([itself, itself]), torch.ones(7, 2)
    >>> encoder = SpatialGraphEncoder(5, 8)
    >>> encoder(torch.randn(7, 5), *edges).shape, encoder.n_hops, encoder.d_out
    (torch.Size([7, 8]), 1, 8)
    """

    def __init__(
        self,
        d_image: int,
        d_model: int,
        *,
        d_edge: int = N_EDGE_FEATURES,
        n_layers: int = 1,
        n_heads: int = 4,
        dropout: float = 0.3,
    ):
        super().__init__()
        if d_edge not in range(N_EDGE_FEATURES + 1):
            raise ValueError(f"d_edge must be 0 to {N_EDGE_FEATURES}, edges have no more features; got {d_edge!r}.")
        self.input = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_image, d_model))
        self.attention = nn.ModuleList(EdgeModulatedAttention(d_model, d_edge, n_heads) for _ in range(n_layers))
        self.feed_forward = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(d_model),
                nn.Linear(d_model, 2 * d_model),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(2 * d_model, d_model),
            )
            for _ in range(n_layers)
        )

    @property
    def n_hops(self) -> int:
        """Edges that one evaluation reaches."""
        return len(self.attention)

    @property
    def d_out(self) -> int:
        """Width of the context H."""
        return self.input[-1].out_features

    def forward(self, image: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """``image: (n_spots, d_image)`` -> H ``(n_spots, d_model)``. Every spot needs a self-edge."""
        h = self.input(image)
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            h = h + attention(h, edge_index, edge_attr)
            h = h + feed_forward(h)
        return h
