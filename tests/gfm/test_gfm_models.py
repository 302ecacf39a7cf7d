"""scGPT and Geneformer folders in their own formats, tiny and random; and the tokens of Geneformer, worked by hand."""

import json
import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch import nn

from flagst.gfm import Geneformer, RankTokeniser, ScGPT, open_gene_model

IDS = [f"ENSG{i:011d}" for i in range(1, 7)]
SYMBOLS = ["TP53", "ERBB2", "ACTB", "GNAS", "CD74", "FN1"]
EMBEDDING = "bert.embeddings.word_embeddings.weight"


def table(genes=("ACTB", "TP53", "nonsense", "ERBB2")):
    return anndata.AnnData(np.ones((3, len(genes))), var=pd.DataFrame(index=list(genes)))


def scgpt(folder, *, prefix="", wrapped=False, size=9):
    folder.mkdir(exist_ok=True)
    tokens = {symbol: i for i, symbol in enumerate(SYMBOLS)} | {"<pad>": 6, "<cls>": 7, "<eoc>": 8}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "args.json").write_text(json.dumps({"embsize": 5}))
    torch.manual_seed(0)
    module = nn.ModuleDict({"embedding": nn.Embedding(size, 5), "enc_norm": nn.LayerNorm(5)})
    with torch.no_grad():
        module["enc_norm"].weight.uniform_(0.5, 2)
        module["enc_norm"].bias.normal_()
    state = {f"{prefix}encoder.{name}": value for name, value in module.state_dict().items()}
    state |= {f"{prefix}transformer_encoder.layers.0.linear1.weight": torch.zeros(2, 2)}
    torch.save({"model_state_dict": state} if wrapped else state, folder / "best_model.pt")
    return module


@pytest.mark.parametrize(("prefix", "wrapped"), [("", False), ("module.", False), ("", True)])
def test_scgpt_gives_its_own_encoders_output(tmp_path, prefix, wrapped):
    module = scgpt(tmp_path / "m", prefix=prefix, wrapped=wrapped)
    encoder = open_gene_model(tmp_path / "m")
    assert isinstance(encoder, ScGPT)
    vectors, known = encoder.encode(table(), ["ACTB", "TP53", "nonsense", "erbb2"])
    assert known.tolist() == [True, True, False, True] and (vectors[2] == 0).all()
    with torch.no_grad():
        expected = module["enc_norm"](module["embedding"](torch.tensor([2, 0, 1]))).numpy()
    np.testing.assert_allclose(vectors[[0, 1, 3]], expected, atol=1e-5)
    assert encoder.provenance()["file"] == "best_model.pt" and len(encoder.provenance()["sha256"]) == 64


def test_marks_of_scgpt_are_no_genes(tmp_path):
    scgpt(tmp_path / "m")
    with pytest.raises(ValueError, match="vocab.json knows 0 of 2 genes"):
        ScGPT(tmp_path / "m").encode(table(), ["<cls>", "<pad>"])


def geneformer(folder, *, v2=False, kind="pkl", size=None):
    folder.mkdir(exist_ok=True)
    tail = "_gc104M" if v2 else ""
    marks = ["<pad>", "<mask>"] + (["<cls>", "<eos>"] if v2 else [])
    tokens = {name: i for i, name in enumerate([*marks, *IDS])}
    medians = {name: float(i) for i, name in enumerate(IDS, start=1)}
    parts = {
        "token_dictionary": tokens,
        "gene_median_dictionary": medians,
        "gene_name_id_dict": dict(zip(SYMBOLS, IDS, strict=True)),
    }
    for stem, held in parts.items():
        path = folder / f"{stem}{tail}.{kind}"
        path.write_bytes(pickle.dumps(held) if kind == "pkl" else json.dumps(held).encode())
    config = {"model_type": "bert", "hidden_size": 4, "max_position_embeddings": 4096 if v2 else 2048}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    weights = torch.randn(size or len(tokens), 4)
    torch.save(
        {EMBEDDING: weights, "bert.encoder.layer.0.output.dense.bias": torch.zeros(4)}, folder / "pytorch_model.bin"
    )
    return weights.numpy(), tokens


@pytest.mark.parametrize(("v2", "kind"), [(False, "pkl"), (True, "pkl"), (False, "json")])
def test_geneformer_gives_the_embedding_of_each_genes_token(tmp_path, v2, kind):
    weights, tokens = geneformer(tmp_path / "m", v2=v2, kind=kind)
    encoder = open_gene_model(tmp_path / "m")
    assert isinstance(encoder, Geneformer) and encoder.tokeniser.length == (4096 if v2 else 2048)
    vectors, known = encoder.encode(table(), ["ACTB", f"{IDS[0]}.7", "nonsense", "Erbb2"])
    assert known.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(vectors[[0, 1, 3]], weights[[tokens[IDS[i]] for i in (2, 0, 1)]])


def test_geneformer_reads_safetensors_alike(tmp_path):
    from safetensors.torch import save_file

    weights, _ = geneformer(tmp_path / "m")
    (tmp_path / "m" / "pytorch_model.bin").unlink()
    save_file({EMBEDDING: torch.tensor(weights)}, tmp_path / "m" / "model.safetensors")
    vectors, _ = Geneformer(tmp_path / "m").encode(table(), ["TP53"])
    np.testing.assert_array_equal(vectors[0], weights[2])


# Published rule, by hand: counts per 10,000 over the gene's median, falling.
#   cell 0: total 100; G1 10 -> 1000/1, G2 40 -> 4000/2, G3 30 -> 3000/3, G6 20 without token  => G2, then G1 and G3 tie
#   cell 1: total 50; G3 50 -> 10000/3                                                          => G3
#   cell 2: nothing known
COUNTS = np.array([[10, 40, 30, 0, 20], [0, 0, 50, 0, 0], [0, 0, 0, 0, 7]])
NAMES = ["G1", "G2", "G3", "G4", None]
TOKENS, MEDIANS = {"G1": 11, "G2": 12, "G3": 13, "G4": 14}, {"G1": 1.0, "G2": 2.0, "G3": 3.0, "G4": 0.5}


def test_tokens_by_hand():
    cells = RankTokeniser(TOKENS, MEDIANS, 2048)(sp.csr_matrix(COUNTS), NAMES)
    assert [cell.tolist() for cell in cells] == [[12, 11, 13], [13], []]
    assert all(cell.dtype == np.int64 for cell in cells)
    marked = RankTokeniser(TOKENS | {"<cls>": 1, "<eos>": 2}, MEDIANS, 4)(COUNTS, NAMES)
    assert [cell.tolist() for cell in marked] == [[1, 12, 11, 2], [1, 13, 2], [1, 2]]


def test_tokens_do_not_depend_on_the_order_of_genes():
    rng = np.random.default_rng(0)
    names = [f"E{i}" for i in range(60)]
    tokeniser = RankTokeniser({n: i + 5 for i, n in enumerate(names)}, dict.fromkeys(names, 1.0), 40)
    counts, order = rng.poisson(1.0, (20, 60)), rng.permutation(60)  # many ties
    one, other = tokeniser(counts, names), tokeniser(counts[:, order], [names[i] for i in order])
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)) and max(map(len, one)) > 30


def test_the_whole_transcriptome_counts_and_twice_named_genes_are_summed():
    tokeniser = RankTokeniser({"A": 3, "B": 4}, {"A": 1.0, "B": 1.0}, 10)
    # 3 + 3 of A outrank 5 of B
    assert tokeniser(np.array([[3, 5, 3]]), ["A", "B", "A"])[0].tolist() == [3, 4]
    with pytest.raises(ValueError, match="2 genes, and there are 1"):
        tokeniser(np.ones((1, 2)), ["A"])
    with pytest.raises(ValueError, match="No gene has a token"):
        tokeniser(np.ones((1, 2)), ["x", None])


def test_only_counts_are_ranked(tmp_path):
    geneformer(tmp_path / "m")
    logged = anndata.AnnData(np.array([[0.5, 1.5]]), var=pd.DataFrame(index=["TP53", "ERBB2"]))
    with pytest.raises(ValueError, match="adata.X has non-integer"):
        Geneformer(tmp_path / "m").tokenise(logged)
    with pytest.raises(KeyError, match="counts"):
        Geneformer(tmp_path / "m").tokenise(logged, layer="counts")


def test_geneformer_tokenises_a_table_of_symbols(tmp_path):
    geneformer(tmp_path / "m", v2=True)
    adata = anndata.AnnData(
        np.array([[1.0, 6.0, 100.0, 2.0]]), var=pd.DataFrame(index=["TP53", "ERBB2", "nonsense", "actb"])
    )
    encoder = Geneformer(tmp_path / "m")
    # medians 1, 2, 3: ERBB2 3, TP53 1, ACTB 2/3
    ids = encoder.tokeniser.tokens
    assert encoder.tokenise(adata)[0].tolist() == [ids["<cls>"], ids[IDS[1]], ids[IDS[0]], ids[IDS[2]], ids["<eos>"]]


class Shout:
    def __reduce__(self):
        return (print, ("this must never be seen",))


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (
            lambda f: (f / "best_model.pt").write_bytes(pickle.dumps(Shout())),
            ValueError,
            "best_model.pt cannot be read",
        ),
        (lambda f: torch.save({"x": Shout()}, f / "best_model.pt"), ValueError, "best_model.pt cannot be read"),
        (
            lambda f: (f / "best_model.pt").write_bytes((f / "best_model.pt").read_bytes()[:200]),
            ValueError,
            "best_model.pt",
        ),
        (lambda f: torch.save({"other": torch.zeros(2, 2)}, f / "best_model.pt"), ValueError, "no scGPT checkpoint"),
        (lambda f: scgpt(f, size=5), ValueError, "token 8, best_model.pt has 5"),
        (lambda f: scgpt(f, size=12), ValueError, "token 8, best_model.pt has 12"),
        (lambda f: torch.save(torch.zeros(2), f / "best_model.pt"), ValueError, "best_model.pt.*no dict of tensors"),
        (lambda f: (f / "vocab.json").write_text('{"TP53": -1, "GNAS": 8}'), ValueError, "vocab.json.*not numbers"),
        (lambda f: (f / "best_model.pt").unlink(), FileNotFoundError, "best_model.pt"),
        (lambda f: (f / "vocab.json").write_text("{"), ValueError, "vocab.json cannot be read"),
        (lambda f: (f / "vocab.json").write_text('{"TP53": "1"}'), ValueError, "vocab.json has tokens that are not"),
        (lambda f: (f / "vocab.json").write_text('{"TP53": 20}'), ValueError, "token 20, best_model.pt has 9"),
    ],
)
def test_spoilt_scgpt_folders_are_refused(tmp_path, capfd, spoil, error, reason):
    scgpt(tmp_path / "m")
    spoil(tmp_path / "m")
    with pytest.raises(error, match=reason):
        ScGPT(tmp_path / "m")
    assert "never" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (
            lambda f: (f / "token_dictionary.pkl").write_bytes(pickle.dumps({"a": Shout()})),
            ValueError,
            "token_dictionary.pkl.*builtins.print",
        ),
        (lambda f: (f / "token_dictionary.pkl").unlink(), FileNotFoundError, r"token_dictionary\*"),
        (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), ValueError, "not that of a BERT"),
        (lambda f: (f / "pytorch_model.bin").unlink(), FileNotFoundError, "neither model.safetensors"),
        (lambda f: torch.save({"x": torch.zeros(1)}, f / "pytorch_model.bin"), ValueError, "no Geneformer checkpoint"),
        (lambda f: geneformer(f, size=5), ValueError, "up to token 7, pytorch_model.bin has 5"),
        (lambda f: geneformer(f, size=25), ValueError, "up to token 7, pytorch_model.bin has 25"),
        (
            lambda f: torch.save({EMBEDDING: torch.full((8, 4), torch.nan)}, f / "pytorch_model.bin"),
            ValueError,
            "not finite",
        ),
    ],
)
def test_spoilt_geneformer_folders_are_refused(tmp_path, capfd, spoil, error, reason):
    geneformer(tmp_path / "m")
    spoil(tmp_path / "m")
    with pytest.raises(error, match=reason):
        Geneformer(tmp_path / "m")
    assert "never" not in capfd.readouterr().out


def test_published_dictionaries_are_read_and_pickle_equals_json(gene_models_dir, tmp_path):
    """V1 as published: symbols of any case find their token."""
    folder = gene_models_dir / "geneformer_v1"
    tokens = json.loads((folder / "token_dictionary.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 2048}))
    torch.save({EMBEDDING: torch.arange(len(tokens), dtype=torch.float32)[:, None]}, tmp_path / "pytorch_model.bin")
    found = []
    for kind in ("pkl", "json"):
        only = tmp_path / kind
        only.mkdir()
        for path in folder.glob(f"*.{kind}"):
            (only / path.name).symlink_to(path)
        encoder = Geneformer(tmp_path, dictionaries=only)
        found.append(encoder.encode(table(), ["TP53", "erbb2", "ENSG00000075624.12", "no gene"]))
    vectors, known = found[0]
    assert known.tolist() == [True, True, True, False]
    assert vectors[:3, 0].tolist() == [tokens[f"ENSG{i:011d}"] for i in (141510, 141736, 75624)]
    np.testing.assert_array_equal(vectors, found[1][0])


def test_published_scgpt_vocabulary_is_read(gene_models_dir, tmp_path):
    vocabulary = gene_models_dir / "scgpt" / "default_gene_vocab.json"
    tokens = json.loads(vocabulary.read_text())
    (tmp_path / "vocab.json").symlink_to(vocabulary)
    weights = torch.arange(max(tokens.values()) + 1, dtype=torch.float32)[:, None]
    torch.save({"encoder.embedding.weight": weights}, tmp_path / "best_model.pt")
    vectors, known = ScGPT(tmp_path).encode(table(), ["TP53", "ERBB2"])
    assert known.all() and vectors[:, 0].tolist() == [tokens["TP53"], tokens["ERBB2"]]
