"""The encoder of scGPT in plain torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from flagst._files import load_json
from flagst._weights import bare_names, fit_weights

#: Counts above this are taken for this, as published.
MAX_VALUE = 512
#: Name of a parameter under flash attention -> its plain name; the arrays are the same.
_FLASH = ((r"self_attn\.(_impl\.)?Wqkv\.", "self_attn.in_proj_"), (r"self_attn\._impl\.", "self_attn."))


@dataclass(frozen=True)
class Arguments:
    """What ``args.json`` says of the encoder; where it is silent, what the published models have.

    Attributes
    ----------
    width, heads, hidden, layers
        Of the transformer.
    n_bins
        Bins of expression, with the one of zero.
    pad_token
        Fills short sequences.
    pad_value
        Value of ``<cls>`` and of padding.
    max_length
        Most tokens of a spot, ``<cls>`` included.
    style
        ``"continuous"``: a small network of the value; ``"category"``: a vector per bin.
    """

    width: int
    heads: int
    hidden: int
    layers: int
    n_bins: int
    pad_token: str
    pad_value: float
    max_length: int
    style: str


def read_arguments(path: Path) -> Arguments:
    """Settings of a scGPT folder.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is broken, lacks a setting, or asks for a variant that is not restated here.
    """
    held = load_json(path)
    if not isinstance(held, dict) or "embsize" not in held:
        raise ValueError(f"{path.name} is no dict of scGPT's settings: it has no embsize.")

    def number(*names: str, default: int | None = None, least: int = 1) -> int:
        value = next((held[name] for name in names if held.get(name) is not None), default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{path.name} has {names[0]} = {value!r}; a whole number from {least} is needed.")
        return value

    style, values = held.get("input_emb_style", "continuous"), held.get("input_style", "binned")
    if style not in ("continuous", "category") or values != "binned":
        raise ValueError(
            f"{path.name} has input_emb_style {style!r} and input_style {values!r}; 'continuous' or 'category', and "
            "'binned', are read."
        )
    if held.get("pre_norm", False):
        raise ValueError(f"{path.name} asks for pre_norm, which is not read.")
    width, heads = number("embsize"), number("nheads", "nhead")
    if width % heads:
        raise ValueError(f"{path.name} has embsize {width}, which {heads} heads do not divide.")
    n_bins = number("n_bins", default=51, least=3)
    pad_value = held.get("pad_value", n_bins if style == "category" else -2)
    if type(pad_value) not in (int, float) or not isfinite(pad_value):
        raise ValueError(f"{path.name} has pad_value = {pad_value!r}; a number is needed.")
    return Arguments(
        width=width,
        heads=heads,
        hidden=number("d_hid"),
        layers=number("nlayers"),
        n_bins=n_bins,
        pad_token=str(held.get("pad_token", "<pad>")),
        pad_value=float(pad_value),
        max_length=number("max_seq_len", default=1200, least=2),
        style=style,
    )


class TokenEmbedding(nn.Module):
    """A vector per whole number, layer-normalised: of genes, and of bins."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.embedding, self.enc_norm = nn.Embedding(size, width), nn.LayerNorm(width)

    def forward(self, numbers: Tensor) -> Tensor:
        """``(...)`` to ``(..., width)``."""
        return self.enc_norm(self.embedding(numbers.long()))


class ValueNetwork(nn.Module):
    """A small network of one number."""

    def __init__(self, width: int):
        super().__init__()
        self.linear1, self.linear2, self.norm = nn.Linear(1, width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, values: Tensor) -> Tensor:
        """``(...)`` to ``(..., width)``."""
        return self.norm(self.linear2(relu(self.linear1(values.clamp(max=MAX_VALUE)[..., None]))))


class Attention(nn.Module):
    """Self-attention with query, key and value in one matrix, under the names of ``torch.nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """``(n, length, width)`` and ``(n, length)`` bool to ``(n, length, width)``."""
        joint = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = joint.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, :])
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a two-layer network, each added and then normalised."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """As :meth:`Attention.forward`."""
        x = self.norm1(x + self.self_attn(x, present))
        return self.norm2(x + self.linear2(relu(self.linear1(x))))


class ScGPTNetwork(nn.Module):
    """Vectors of genes in the context of a spot.

    Parameters
    ----------
    arguments
        Of ``args.json``.
    n_tokens
        Size of the vocabulary.
    n_values
        Bins that have a vector, for the style ``"category"``.

    Source
    ------
    Cui et al., Nature Methods 2024, Methods; without dropout, decoders and batch labels, which are for training.
    """

    def __init__(self, arguments: Arguments, n_tokens: int, n_values: int):
        super().__init__()
        width = arguments.width
        self.encoder = TokenEmbedding(n_tokens, width)
        bins = arguments.style == "category"
        self.value_encoder = TokenEmbedding(n_values, width) if bins else ValueNetwork(width)
        blocks = [Block(width, arguments.heads, arguments.hidden) for _ in range(arguments.layers)]
        self.transformer_encoder = nn.ModuleDict({"layers": nn.ModuleList(blocks)})

    def forward(self, tokens: Tensor, present: Tensor, values: Tensor) -> Tensor:
        """Output of the last layer.

        Parameters
        ----------
        tokens
            ``(n, length)`` int64.
        present
            ``(n, length)`` bool, false where padded.
        values
            ``(n, length)`` float32, bins.

        Returns
        -------
        ``(n, length, width)``.
        """
        x = self.encoder(tokens) + self.value_encoder(values)
        for block in self.transformer_encoder["layers"]:
            x = block(x, present)
        return x


def plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under the names of plain torch, whatever wrapped the model and computed its attention."""
    plain = {}
    for name, tensor in bare_names(state).items():
        for pattern, replacement in _FLASH:
            name = re.sub(pattern, replacement, name)
        plain[name] = tensor
    return plain


def scgpt_network(arguments: Arguments, state: Mapping[str, Any], *, weights: str) -> ScGPTNetwork:
    """The encoder with the weights of a checkpoint.

    Parameters
    ----------
    arguments
        Of ``args.json``.
    state
        Tensors by name.
    weights
        Name of their file, for the message.

    Returns
    -------
    The network, ready to be evaluated.

    Raises
    ------
    ValueError
        Weights that do not go with the settings, or of a model that normalises by batch.
    """
    state = plain_names(state)
    batched = next((name for name in state if name.startswith(("bn.", "dsbn."))), None)
    if batched:
        raise ValueError(f"{weights} has {batched}: models that normalise by batch are not read.")
    n_tokens, n_values = (
        len(state[name]) if name in state else 1
        for name in ("encoder.embedding.weight", "value_encoder.embedding.weight")
    )
    if arguments.style == "category" and not 0 <= arguments.pad_value < n_values:
        raise ValueError(
            f"args.json has pad_value {arguments.pad_value:g}, {weights} has {n_values} vectors of values."
        )
    network = ScGPTNetwork(arguments, n_tokens, n_values)
    whole = ("value_encoder.", "transformer_encoder.")
    fit_weights(
        network, state, file=weights, model="a network as in args.json", spare=lambda name: not name.startswith(whole)
    )
    return network.eval().requires_grad_(False)
