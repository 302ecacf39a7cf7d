"""Tiny random checkpoints of gene models, in the formats in which they are published."""

import json
import pickle
import re

import numpy as np
import torch
from torch import nn

IDS = [f"ENSG{i:011d}" for i in range(1, 13)]
SYMBOLS = [f"SYM{i}" for i in range(1, 13)]
MARKS_V1, MARKS_V2 = ("<pad>", "<mask>"), ("<pad>", "<mask>", "<cls>", "<eos>")


def write_bert(folder, n_tokens, *, length=32, width=8, layers=3, safetensors=True):
    """A masked language model as Geneformer's, saved by transformers itself."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=n_tokens, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=12,
        hidden_act="relu", max_position_embeddings=length, initializer_range=0.5,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    model.save_pretrained(folder)
    if not safetensors:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")


def write_geneformer(folder, *, v2=False, **settings):
    """A Geneformer folder with dictionaries of its own. Returns identifier -> token."""
    folder.mkdir(exist_ok=True)
    tail, marks = ("_gc104M", MARKS_V2) if v2 else ("", MARKS_V1)
    tokens = {name: i for i, name in enumerate([*marks, *IDS])}
    parts = {
        "token_dictionary": tokens,
        "gene_median_dictionary": {name: 1.0 + i % 3 for i, name in enumerate(IDS)},
        "gene_name_id_dict": dict(zip(SYMBOLS, IDS, strict=True)),
    }
    for stem, held in parts.items():
        (folder / f"{stem}{tail}.pkl").write_bytes(pickle.dumps(held))
    write_bert(folder, len(tokens), **settings)
    return tokens


class ScGPTReference(nn.Module):
    """scGPT's encoder of torch's own parts, one spot at a time, nothing padded."""

    def __init__(self, n_tokens, n_bins, width, heads, hidden, layers, style):
        super().__init__()
        self.encoder = nn.ModuleDict({"embedding": nn.Embedding(n_tokens, width), "enc_norm": nn.LayerNorm(width)})
        self.style = style
        if style == "category":
            self.value_encoder = nn.ModuleDict(
                {"embedding": nn.Embedding(n_bins + 2, width), "enc_norm": nn.LayerNorm(width)}
            )
        else:
            self.value_encoder = nn.ModuleDict(
                {"linear1": nn.Linear(1, width), "linear2": nn.Linear(width, width), "norm": nn.LayerNorm(width)}
            )
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, activation="relu", batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.decoder = nn.Linear(width, 1)  # is there, and not for us

    def forward(self, tokens, values):
        part = self.value_encoder
        if self.style == "category":
            of_values = part["enc_norm"](part["embedding"](values.long()))
        else:
            of_values = part["norm"](part["linear2"](torch.relu(part["linear1"](values[:, None]))))
        x = self.encoder["enc_norm"](self.encoder["embedding"](tokens)) + of_values
        return self.transformer_encoder(x[None])[0]


def write_scgpt(folder, *, flash=False, style="continuous", **arguments):
    """A scGPT folder. Returns the model, and symbol -> token."""
    folder.mkdir(exist_ok=True)
    tokens = {symbol: i for i, symbol in enumerate([*SYMBOLS, "<pad>", "<cls>", "<eoc>"])}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    said = {
        "embsize": 8, "nheads": 2, "d_hid": 12, "nlayers": 2, "n_bins": 7, "max_seq_len": 20, "pad_token": "<pad>",
        "pad_value": 7 if style == "category" else -2, "input_style": "binned", "input_emb_style": style,
        "dropout": 0.2,
    }  # fmt: skip
    torch.manual_seed(1)
    model = ScGPTReference(len(tokens), 7, 8, 2, 12, 2, style).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    (folder / "args.json").write_text(json.dumps(said | arguments))
    state = model.state_dict()
    if flash:
        state = {re.sub(r"self_attn\.in_proj_", "self_attn.Wqkv.", name): tensor for name, tensor in state.items()}
    torch.save(state, folder / "best_model.pt")
    return model, tokens


def counts_table(n_spots=6, *, names=SYMBOLS, seed=0, extra=2):
    """Sparse counts of the models' genes, and of some that no model knows; the third spot has only those."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.6, 4.0, (n_spots, len(names) + extra))).astype(np.float32)
    counts[:, -extra:] += 1
    counts[2, : len(names)] = 0
    names = [*names, *(f"nobody{i}" for i in range(extra))]
    obs = pd.DataFrame(index=[f"spot{i}" for i in range(n_spots)])
    return anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))
