"""Genes in spots, and spots: the same vectors as the networks' own libraries give, whatever the batch."""

import json
import pickle
import socket
import sys

import anndata
import numpy as np
import pytest
import torch
from gene_checkpoints import IDS, SYMBOLS, counts_table, write_bert, write_geneformer, write_scgpt

from flagst.gfm import CoExpression, Geneformer, ScGPT, SpotEncoder, open_gene_model
from flagst.gfm.scgpt import bin_counts

GENES = ["SYM4", "nobody0", "SYM1", f"{IDS[11]}.3", "sym7"]
GENES_OF_SCGPT = ["SYM4", "nobody0", "SYM1", "SYM12", "sym7"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers comes with flagst[encoders]")


def collected(batches):
    """All batches as one, rows checked."""
    rows, vectors, mask = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(rows, np.arange(len(rows)))
    assert vectors.dtype == np.float32 and mask.dtype == bool and (vectors[~mask] == 0).all()
    return vectors, mask


def bert_output(transformers, folder, cell, hidden):
    """One spot through transformers' own model, unpadded: (length, width)."""
    bert = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True).eval()
    with torch.no_grad():
        output = bert(input_ids=torch.tensor(cell)[None], output_hidden_states=True)
    return output.hidden_states[hidden][0].numpy()


@pytest.mark.parametrize(
    ("v2", "hidden", "safetensors"), [(False, -2, True), (True, -2, True), (False, -1, False), (True, 0, True)]
)
def test_geneformer_gives_what_bert_gives(transformers, tmp_path, v2, hidden, safetensors):
    tokens = write_geneformer(tmp_path / "m", v2=v2, safetensors=safetensors)
    adata = counts_table()
    settings = {} if hidden == -2 else {"hidden_layer": hidden}
    encoder = open_gene_model(tmp_path / "m", **settings)
    assert isinstance(encoder, SpotEncoder) and not isinstance(CoExpression(adata), SpotEncoder)
    vectors, mask = collected(encoder.encode_spots(adata, GENES, batch_size=4))
    wanted = [tokens.get(name, -1) for name in (IDS[3], "none", IDS[0], IDS[11], IDS[6])]
    for i, cell in enumerate(encoder.tokenise(adata)):
        np.testing.assert_array_equal(mask[i], [token in cell for token in wanted])
        if mask[i].any():
            output = bert_output(transformers, tmp_path / "m", cell, hidden)
            expected = np.stack([output[cell.tolist().index(token)] for token in wanted if token in cell])
            np.testing.assert_allclose(vectors[i][mask[i]], expected, atol=1e-5)
    assert mask[:, 1].sum() == 0 == mask[2].sum() and 5 < mask.sum() < 24  # of 24 that could be


@pytest.mark.parametrize(("v2", "pooling"), [(False, None), (True, None), (True, "mean")])
def test_spots_of_geneformer(transformers, tmp_path, v2, pooling):
    write_geneformer(tmp_path / "m", v2=v2)
    adata = counts_table()
    encoder = Geneformer(tmp_path / "m", pooling=pooling)
    vectors, mask = collected(encoder.encode_spots(adata, [], mode="cell", batch_size=4))
    assert mask.tolist() == [True, True, False, True, True, True]
    for i in np.flatnonzero(mask):
        output = bert_output(transformers, tmp_path / "m", encoder.tokenise(adata)[i], -2)
        of_genes = output[1:-1] if v2 else output
        expected = output[0] if v2 and pooling is None else of_genes.mean(axis=0)
        np.testing.assert_allclose(vectors[i], expected, atol=1e-5)
    record = encoder.provenance("cell")
    assert (record["pooling"], record["hidden_layer"]) == ("cls" if v2 and pooling is None else "mean", 2)


def scgpt_output(model, tokens, adata, i, *, pad_value, n_bins=7, room=99):
    """One spot through torch's own encoder: symbols, and (1 + n_symbols, width)."""
    counts = adata[i, SYMBOLS].X.toarray().ravel()
    expressed = np.flatnonzero(counts)
    bins = bin_counts(counts[expressed], n_bins)
    kept = np.sort(np.lexsort([expressed, -counts[expressed]])[:room])
    numbers = torch.tensor([tokens["<cls>"], *expressed[kept]]), torch.tensor([pad_value, *bins[kept]]).float()
    with torch.no_grad():
        return [SYMBOLS[j] for j in expressed[kept]], model(*numbers).numpy()


@pytest.mark.parametrize(("flash", "style"), [(False, "continuous"), (True, "continuous"), (True, "category")])
def test_scgpt_gives_what_torchs_encoder_gives(tmp_path, flash, style):
    model, tokens = write_scgpt(tmp_path / "m", flash=flash, style=style)
    adata = counts_table()
    encoder = open_gene_model(tmp_path / "m")
    assert isinstance(encoder, SpotEncoder)
    vectors, mask = collected(encoder.encode_spots(adata, GENES_OF_SCGPT, batch_size=4))
    cells, has_cell = collected(encoder.encode_spots(adata, [], mode="cell", batch_size=4))
    assert has_cell.tolist() == [True, True, False, True, True, True]
    for i in np.flatnonzero(has_cell):
        symbols, output = scgpt_output(model, tokens, adata, i, pad_value=7 if style == "category" else -2)
        wanted = ["SYM4", "none", "SYM1", "SYM12", "SYM7"]
        np.testing.assert_array_equal(mask[i], [symbol in symbols for symbol in wanted])
        expected = [output[1 + symbols.index(symbol)] for symbol in wanted if symbol in symbols]
        np.testing.assert_allclose(vectors[i][mask[i]], np.stack(expected), atol=1e-5)
        np.testing.assert_allclose(cells[i], output[0] / np.linalg.norm(output[0]), atol=1e-5)
    assert 5 < mask.sum() < 20


def test_wrapped_and_older_checkpoints_are_the_same(transformers, tmp_path):
    adata = counts_table()
    write_scgpt(tmp_path / "s")
    plain, _ = collected(ScGPT(tmp_path / "s").encode_spots(adata, SYMBOLS))
    state = torch.load(tmp_path / "s" / "best_model.pt", weights_only=True)
    for old, new in (("in_proj_", "_impl.Wqkv."), ("out_proj", "_impl.out_proj")):
        state = {name.replace(f"self_attn.{old}", f"self_attn.{new}"): tensor for name, tensor in state.items()}
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"model_state_dict": state}, tmp_path / "s" / "best_model.pt")
    wrapped, _ = collected(ScGPT(tmp_path / "s").encode_spots(adata, SYMBOLS))
    np.testing.assert_array_equal(wrapped, plain)

    write_geneformer(tmp_path / "g", safetensors=False)
    plain, _ = collected(Geneformer(tmp_path / "g").encode_spots(adata, SYMBOLS))
    numbers = {"bert.embeddings.position_ids": torch.arange(32)[None]}
    spoil_weights(tmp_path / "g" / "pytorch_model.bin", lambda state: state.update(numbers))
    older, _ = collected(Geneformer(tmp_path / "g").encode_spots(adata, SYMBOLS))
    np.testing.assert_array_equal(older, plain)


def test_scgpt_keeps_the_highest_counts_and_bins_all(tmp_path):
    model, tokens = write_scgpt(tmp_path / "m", max_seq_len=5)
    adata = counts_table()
    for encoder, room in ((ScGPT(tmp_path / "m"), 4), (ScGPT(tmp_path / "m", max_length=3), 2)):
        vectors, mask = collected(encoder.encode_spots(adata, SYMBOLS))
        assert mask.sum(axis=1).tolist() == [room, room, 0, room, room, room]
        assert encoder.provenance("contextual")["max_length"] == room + 1
        for i in (0, 1, 3, 4, 5):
            symbols, output = scgpt_output(model, tokens, adata, i, pad_value=-2, room=room)
            assert [SYMBOLS[j] for j in np.flatnonzero(mask[i])] == symbols
            np.testing.assert_allclose(vectors[i][mask[i]], output[1:], atol=1e-5)


def test_bins_by_hand():
    # edges at the quantiles 0, 1/4, 1/2, 3/4, 1: 1, 2, 3, 4, 5; a count is in the bin of the last edge it reaches
    assert bin_counts(np.array([5.0, 1, 2, 4, 3]), 6).tolist() == [5, 1, 2, 4, 3]
    # edges 1, 1, 1, 2, 9: the ones could be in 1, 2 or 3
    assert bin_counts(np.array([1, 1, 1, 2, 9]), 6).tolist() == [2, 2, 2, 4, 5]
    # edges 1, 1.75, 2.5, 3.25, 4
    assert bin_counts(np.array([1, 2, 3, 4]), 6).tolist() == [1, 2, 3, 5]
    assert bin_counts(np.array([3]), 51).tolist() == [25] and bin_counts(np.array([]), 51).tolist() == []


def test_tied_counts_are_in_the_middle_of_where_the_published_draw_puts_them():
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(1, 0.3, 400) + 1
    edges = np.quantile(counts, np.linspace(0, 1, 50))
    low, high = np.searchsorted(edges, counts, side="left"), np.searchsorted(edges, counts, side="right")
    draws = np.ceil(low + rng.random((2000, 400)) * (high - low)).mean(axis=0)
    assert np.abs(bin_counts(counts, 51) - draws).max() < 0.8 and (high - low).max() > 10


@pytest.fixture(params=["geneformer", "scgpt"])
def encoder(request, tmp_path):
    if request.param == "scgpt":
        write_scgpt(tmp_path / "m", flash=True)
        return ScGPT(tmp_path / "m")
    request.getfixturevalue("transformers")
    write_geneformer(tmp_path / "m", v2=True)
    return Geneformer(tmp_path / "m")


@pytest.mark.parametrize("mode", ["contextual", "cell"])
def test_batches_and_orders_change_nothing(encoder, mode, tmp_path):
    adata = counts_table(9)
    vectors, mask = collected(encoder.encode_spots(adata, SYMBOLS, mode=mode, batch_size=9))
    assert [len(rows) for rows, _, _ in encoder.encode_spots(adata, SYMBOLS, mode=mode, batch_size=4)] == [4, 4, 1]
    for batch_size in (1, 4):
        again, same = collected(encoder.encode_spots(adata, SYMBOLS, mode=mode, batch_size=batch_size))
        np.testing.assert_allclose(again, vectors, atol=1e-5)
        np.testing.assert_array_equal(same, mask)
    rng = np.random.default_rng(1)
    spots, genes, asked = rng.permutation(9), rng.permutation(adata.n_vars), rng.permutation(len(SYMBOLS))
    turned, _ = collected(encoder.encode_spots(adata[spots, genes], [SYMBOLS[i] for i in asked], mode=mode))
    expected = vectors[spots][:, asked] if mode == "contextual" else vectors[spots]
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    # dense, in a layer, in a file
    dense = anndata.AnnData(None, obs=adata.obs, var=adata.var, layers={"counts": adata.X.toarray()})
    again, _ = collected(encoder.encode_spots(dense, SYMBOLS, mode=mode, layer="counts", batch_size=9))
    np.testing.assert_allclose(again, vectors, atol=1e-5)
    adata.write_h5ad(tmp_path / "t.h5ad")
    backed = anndata.read_h5ad(tmp_path / "t.h5ad", backed="r")
    again, _ = collected(encoder.encode_spots(backed, SYMBOLS, mode=mode, batch_size=4))
    np.testing.assert_allclose(again, vectors, atol=1e-5)
    backed.file.close()


def test_half_precision_is_close(encoder):
    adata = counts_table(9)
    full, mask = collected(encoder.encode_spots(adata, SYMBOLS))
    half, same = collected(encoder.encode_spots(adata, SYMBOLS, half=True))
    np.testing.assert_array_equal(mask, same)
    difference = np.linalg.norm((half - full)[mask], axis=1) / np.linalg.norm(full[mask], axis=1)
    assert 0 < difference.max() < 0.1


def test_context_is_what_the_rest_of_the_spot_says(encoder):
    adata = counts_table()
    vectors, mask = collected(encoder.encode_spots(adata, SYMBOLS))
    static, _ = encoder.encode(adata, SYMBOLS)
    assert all(np.ptp(vectors[mask[:, j], j], axis=0).max() > 0.01 for j in range(12) if mask[:, j].sum() > 1)
    only = adata[:, ["SYM1", "SYM2"]].copy()
    fewer, there = collected(encoder.encode_spots(only, SYMBOLS))
    both = mask[:, :2] & there[:, :2]
    assert both.any() and np.abs(fewer[:, :2][both] - vectors[:, :2][both]).max() > 0.01
    assert static.shape == (12, 8)


def test_spots_without_counts(encoder):
    adata = counts_table()
    adata.X = adata.X * 0
    vectors, mask = collected(encoder.encode_spots(adata, SYMBOLS, batch_size=4))
    assert vectors.shape == (6, 12, 8) and not mask.any()


def test_long_spots_of_geneformer_lose_their_lowest_ranks(transformers, tmp_path):
    write_geneformer(tmp_path / "m", length=5)
    encoder, adata = Geneformer(tmp_path / "m", hidden_layer=-1), counts_table()
    _, mask = collected(encoder.encode_spots(adata, SYMBOLS))
    tokens = encoder.tokeniser.tokens
    for row, cell in zip(mask, encoder.tokenise(adata), strict=True):
        assert sorted(cell) == [tokens[IDS[i]] for i in np.flatnonzero(row)] and len(cell) <= 5


@pytest.mark.parametrize("v2", [False, True])
def test_published_dictionaries(transformers, gene_models_dir, tmp_path, v2):
    """V1 as published; V2 as V1 with the marks, names and length of V2."""
    published = gene_models_dir / "geneformer_v1"
    parts = {path.stem: json.loads(path.read_text()) for path in published.glob("*.json")}
    tokens, tail = parts["token_dictionary"], "_gc104M" if v2 else ""
    if v2:
        tokens |= {"<cls>": len(tokens), "<eos>": len(tokens) + 1}
    for stem, held in parts.items():
        (tmp_path / f"{stem}{tail}.pkl").write_bytes(pickle.dumps(held))
    write_bert(tmp_path, len(tokens), length=4096 if v2 else 2048, layers=2)
    encoder = Geneformer(tmp_path)
    symbols = list(parts["gene_name_id_dict"])[:24000:1000]
    adata = counts_table(names=symbols)
    vectors, mask = collected(encoder.encode_spots(adata, symbols))
    known = np.array([encoder.symbols[name] in tokens for name in symbols])
    np.testing.assert_array_equal(mask, (adata.X.toarray()[:, : len(symbols)] > 0) & known)
    assert 5 < known.sum() < len(symbols) and mask[0].sum() > 3
    cell = encoder.tokenise(adata)[0]
    output = bert_output(transformers, tmp_path, cell, -2)
    for j in np.flatnonzero(mask[0]):
        at = cell.tolist().index(tokens[encoder.symbols[symbols[j]]])
        np.testing.assert_allclose(vectors[0, j], output[at], atol=1e-5)


def test_without_transformers_static_vectors_still_work(monkeypatch, transformers, tmp_path):
    write_geneformer(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "transformers", None)
    encoder = Geneformer(tmp_path / "m")
    assert encoder.encode(counts_table(), SYMBOLS)[1].all()
    with pytest.raises(ImportError, match=r"transformers: pip install 'flagst\[encoders\]'"):
        encoder.encode_spots(counts_table(), SYMBOLS)


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil_weights(path, change):
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda f: rewrite(f / "config.json", intermediate_size=16),
            r"pytorch_model.bin does not fit .* in config.json.*intermediate.*\(12, 8\)",
        ),
        (lambda f: rewrite(f / "config.json", num_hidden_layers=4), r"pytorch_model.bin .* 16 missing .*layer\.3"),
        (
            lambda f: rewrite(f / "config.json", num_hidden_layers=2),
            r"pytorch_model.bin .*no place for \(encoder\.layer\.2",
        ),
        (lambda f: rewrite(f / "config.json", num_attention_heads=3), "config.json does not describe a BERT"),
        (lambda f: rewrite(f / "config.json", num_hidden_layers="many"), "hidden_layer is -2.*many"),
        (
            lambda f: spoil_weights(
                f / "pytorch_model.bin", lambda s: s["bert.encoder.layer.0.output.dense.bias"].fill_(np.nan)
            ),
            "pytorch_model.bin has values in encoder.layer.0.output.dense.bias that are not finite",
        ),
        (
            lambda f: spoil_weights(f / "pytorch_model.bin", lambda s: s.pop("bert.encoder.layer.1.output.dense.bias")),
            r"1 missing \(encoder\.layer\.1\.output\.dense\.bias\)",
        ),
    ],
)
def test_mislabelled_geneformer_folders_are_refused(transformers, tmp_path, spoil, reason):
    write_geneformer(tmp_path / "m", safetensors=False)
    spoil(tmp_path / "m")
    with pytest.raises(ValueError, match=reason):
        Geneformer(tmp_path / "m").encode_spots(counts_table(), SYMBOLS)


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (lambda f: (f / "args.json").unlink(), FileNotFoundError, "args.json"),
        (lambda f: (f / "args.json").write_text("{"), ValueError, "args.json cannot be read"),
        (lambda f: (f / "args.json").write_text("[1]"), ValueError, "args.json is no dict of scGPT"),
        (lambda f: rewrite(f / "args.json", nlayers="2"), ValueError, "args.json has nlayers = '2'"),
        (lambda f: rewrite(f / "args.json", pad_value=None), ValueError, "args.json has pad_value = None; a number"),
        (lambda f: rewrite(f / "args.json", pad_value=[-2]), ValueError, r"args.json has pad_value = \[-2\]"),
        (lambda f: rewrite(f / "args.json", nheads=3), ValueError, "args.json has embsize 8, which 3 heads"),
        (lambda f: rewrite(f / "args.json", input_emb_style="scaling"), ValueError, "args.json.*'scaling'"),
        (lambda f: rewrite(f / "args.json", input_style="log1p"), ValueError, "args.json.*'log1p'"),
        (lambda f: rewrite(f / "args.json", pre_norm=True), ValueError, "args.json asks for pre_norm"),
        (lambda f: rewrite(f / "args.json", nlayers=3), ValueError, r"best_model.pt .* 12 missing .*layers\.2"),
        (lambda f: rewrite(f / "args.json", nlayers=1), ValueError, r"best_model.pt .*no place for .*layers\.1"),
        (lambda f: rewrite(f / "args.json", d_hid=9), ValueError, r"best_model.pt .*linear1.*\(12, 8\)"),
        (
            lambda f: rewrite(f / "args.json", embsize=16),
            ValueError,
            "best_model.pt does not fit .* in args.json.*encoder.embedding",
        ),
        (
            lambda f: spoil_weights(f / "best_model.pt", lambda s: s.update({"dsbn.weight": torch.zeros(1)})),
            ValueError,
            "best_model.pt has dsbn.weight",
        ),
        (
            lambda f: (f / "vocab.json").write_text((f / "vocab.json").read_text().replace("<cls>", "<other>")),
            KeyError,
            "vocab.json has no '<cls>'",
        ),
    ],
)
def test_mislabelled_scgpt_folders_are_refused(tmp_path, spoil, error, reason):
    write_scgpt(tmp_path / "m")
    spoil(tmp_path / "m")
    with pytest.raises(error, match=reason):
        ScGPT(tmp_path / "m").encode_spots(counts_table(), SYMBOLS)


def test_a_category_of_padding_that_has_no_vector(tmp_path):
    write_scgpt(tmp_path / "m", style="category", pad_value=-2)
    with pytest.raises(ValueError, match="args.json has pad_value -2, best_model.pt has 9"):
        ScGPT(tmp_path / "m").encode_spots(counts_table(), SYMBOLS)


@pytest.mark.parametrize(
    ("change", "settings", "error", "reason"),
    [
        (None, {"mode": "static"}, ValueError, "mode must be one of"),
        (None, {"batch_size": 0}, ValueError, "batch_size"),
        (None, {"layer": "counts"}, KeyError, "no 'counts'"),
        (lambda a: setattr(a, "X", a.X * 0.5), {}, ValueError, "adata.X has non-integer"),
        (lambda a: setattr(a, "X", None), {}, ValueError, "adata.X is empty"),
        (lambda a: setattr(a, "var_names", [f"x{i}" for i in range(a.n_vars)]), {}, ValueError, "knows 0 of 14"),
    ],
)
def test_tables_that_cannot_be_right(encoder, change, settings, error, reason):
    adata = counts_table()
    if change:
        change(adata)
    with pytest.raises(error, match=reason):
        list(encoder.encode_spots(adata, SYMBOLS, **settings))


def test_settings_that_a_model_does_not_have(transformers, tmp_path):
    write_geneformer(tmp_path / "m")
    with pytest.raises(ValueError, match="pooling='cls' needs <cls>"):
        Geneformer(tmp_path / "m", pooling="cls")
    with pytest.raises(ValueError, match="pooling must be one of"):
        Geneformer(tmp_path / "m", pooling="max")
    with pytest.raises(ValueError, match="hidden_layer is 4, and by config.json the model has 3"):
        Geneformer(tmp_path / "m", hidden_layer=4).encode_spots(counts_table(), SYMBOLS)
    write_scgpt(tmp_path / "s")
    with pytest.raises(ValueError, match="max_length must be 2"):
        ScGPT(tmp_path / "s", max_length=1)
