"""The encoder of scGPT in plain torch."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flagst._files import load_json
from flagst._weights import bare_names, fit_weights

#: Larger counts are cut to this number, as in the published code.
MAX_VALUE = 512
#: Name of a parameter under flash attention -> its name in plain torch; the arrays are the same.
_FLASH = ((r"self_attn\.(_impl\.)?Wqkv\.", "self_attn.in_proj_"), (r"self_attn\._impl\.", "self_attn."))
# Parts of the encoder. What else a checkpoint has (decoders, batch labels) is for training.
_ENCODER = ("encoder.embedding.", "encoder.enc_norm.", "value_encoder.", "transformer_encoder.")


@dataclass(frozen=True)
class Arguments:
    """Settings of the encoder in ``args.json``; a setting that is missing there is that of the published models.

    Attributes
    ----------
    width, heads, hidden, layers
        Sizes of the transformer.
    n_bins
        Bins of expression, the bin of zero included.
    pad_token
        Token that fills short sequences.
    pad_value
        Value of ``<cls>`` and of padding.
    max_length
        Largest number of tokens of a spot, ``<cls>`` included.
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

    Raises a ``FileNotFoundError`` without the file, and a ``ValueError`` for a broken file, a missing setting, or a
    variant of the model that is not supported.
    """
    held = load_json(path)
    if not isinstance(held, dict) or "embsize" not in held:
        raise ValueError(f"{path.name} is no dict of scGPT's settings: it has no embsize.")

    def number(*names: str, default: int | None = None, least: int = 1) -> int:
        value = next((held[name] for name in names if held.get(name) is not None), default)
        if type(value) is not int or value < least:
            raise ValueError(f"{path.name} has {names[0]} = {value!r}; a whole number from {least} is needed.")
        return value

    style, values = held.get("input_emb_style", "continuous"), held.get("input_style", "binned")
    if style not in ("continuous", "category") or values != "binned":
        raise ValueError(
            f"{path.name} has input_emb_style {style!r} and input_style {values!r}; supported are 'continuous' or "
            "'category', and 'binned'."
        )
    if held.get("pre_norm", False):
        raise ValueError(f"{path.name} asks for pre_norm, which is not supported.")
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


def _embedding(size: int, width: int) -> nn.Sequential:
    """From whole numbers (genes or bins) to layer-normalised vectors."""
    return nn.Sequential(OrderedDict(embedding=nn.Embedding(size, width), enc_norm=nn.LayerNorm(width)))


class ScGPTNetwork(nn.Module):
    """Vectors of genes in the context of a spot.

    ``n_tokens`` is the size of the vocabulary, ``n_values`` the number of bins that have a vector, which the style
    ``"category"`` uses. There is no dropout, no decoder and no batch label: these are for training.

    Source
    ------
    Cui et al., Nature Methods 2024, Methods.
    """

    def __init__(self, arguments: Arguments, n_tokens: int, n_values: int):
        super().__init__()
        width, self.style = arguments.width, arguments.style
        self.encoder = _embedding(n_tokens, width)
        of_numbers = OrderedDict(
            linear1=nn.Linear(1, width), relu=nn.ReLU(), linear2=nn.Linear(width, width), norm=nn.LayerNorm(width)
        )
        self.value_encoder = _embedding(n_values, width) if self.style == "category" else nn.Sequential(of_numbers)
        block = nn.TransformerEncoderLayer(width, arguments.heads, arguments.hidden, dropout=0.0)
        self.transformer_encoder = nn.TransformerEncoder(block, arguments.layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, present: Tensor, values: Tensor) -> Tensor:
        """``(n, length)`` int64, bool (false where padded) and float32 bins to ``(n, length, width)``."""
        values = values.long() if self.style == "category" else values.clamp(max=MAX_VALUE)[..., None]
        x = self.encoder(tokens) + self.value_encoder(values)
        # Spots are the second axis, and contiguous. With spots first, torch ignores half precision on a CPU, or is many
        # times slower with it.
        x = x.transpose(0, 1).contiguous()
        return self.transformer_encoder(x, src_key_padding_mask=~present).transpose(0, 1)


def plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under their names in plain torch, whatever wrapped the model and computed its attention."""
    plain = {}
    for name, tensor in bare_names(state).items():
        for pattern, replacement in _FLASH:
            name = re.sub(pattern, replacement, name)
        plain[name] = tensor
    return plain


def scgpt_network(arguments: Arguments, state: Mapping[str, Any], *, weights: str) -> ScGPTNetwork:
    """The encoder with the weights of a checkpoint, ready to be evaluated; ``weights`` names the file in messages.

    Raises a ``ValueError`` when the weights do not fit the settings, or belong to a model with batch normalisation.
    """
    state = plain_names(state)
    batched = next((name for name in state if name.startswith(("bn.", "dsbn."))), None)
    if batched:
        raise ValueError(f"{weights} has {batched}: models with batch normalisation are not supported.")
    n_tokens, n_values = (
        len(state[name]) if name in state else 1
        for name in ("encoder.embedding.weight", "value_encoder.embedding.weight")
    )
    if arguments.style == "category" and not 0 <= arguments.pad_value < n_values:
        raise ValueError(
            f"args.json has pad_value {arguments.pad_value:g}, {weights} has {n_values} vectors of values."
        )
    network = ScGPTNetwork(arguments, n_tokens, n_values)
    state = {name: tensor for name, tensor in state.items() if name.startswith(_ENCODER)}
    fit_weights(network, state, file=weights, model="a network as in args.json")
    return network.eval().requires_grad_(False)
