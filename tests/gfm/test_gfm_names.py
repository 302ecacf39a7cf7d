"""Genes found by name: versions, case, aliases, and a clear error for a mix-up."""

import json
import pickle

import anndata
import numpy as np
import pandas as pd
import pytest

from flagst.gfm import Table, match_genes, read_names
from flagst.gfm.names import aliases_of, require_overlap

KNOWN = ["TP53", "ENSG00000141736.4", "Actb", "dup", "DUP", "TP53"]


@pytest.mark.parametrize(
    ("gene", "position"),
    [
        ("TP53", 0),  # the first of two
        ("ENSG00000141736", 1),  # version only there
        ("ENSG00000141736.9", 1),  # another version
        ("ACTB", 2),  # mouse and human case
        ("dup", 3),
        ("DUP", 4),
        ("Dup", -1),  # two genes differ by case only: neither
        ("TP53.1", -1),  # no version: this is a symbol
        ("GNAS", -1),
    ],
)
def test_names(gene, position):
    assert match_genes([gene], KNOWN).tolist() == [position]


def test_a_name_itself_comes_before_its_alias():
    found = match_genes(
        ["TP53", "ERBB2"], ["ENSG1", "TP53", "ENSG00000141736"], aliases={"TP53": "ENSG1", "ERBB2": "ENSG00000141736.2"}
    )
    assert found.tolist() == [1, 2]


def test_aliases_come_from_a_column():
    adata = anndata.AnnData(np.ones((2, 3)), var=pd.DataFrame({"id": ["E1", None, "E3"]}, index=["a", "b", "c"]))
    assert aliases_of(adata, "id") == {"a": "E1", "c": "E3"}
    assert aliases_of(adata, {"a": "x"}) == {"a": "x"} and aliases_of(adata, None) == {}
    with pytest.raises(KeyError, match="ensembl.*found \\['id'\\]"):
        aliases_of(adata, "ensembl")


def test_too_little_in_common_shows_both_styles():
    genes, known = [f"GENE{i}" for i in range(20)], ["ENSG00000000001", "GENE3"]
    with pytest.raises(ValueError, match=r"file knows 1 of 20 genes.*GENE0.*ENSG00000000001.*names="):
        require_overlap(match_genes(genes, known), genes, known, where="The file")
    known += ["GENE4"]
    require_overlap(match_genes(genes, known), genes, known, where="The file")


def write_names(path, names):
    if path.suffix == ".json":
        path.write_text(json.dumps(names))
    else:
        path.write_bytes(pickle.dumps(names))
    return path


@pytest.mark.parametrize("name", ["names.json", "names.pkl"])
def test_a_file_of_names_goes_both_ways(tmp_path, name):
    pairs = {"TP53": "ENSG00000141510", "P53": "ENSG00000141510", "ERBB2": "ENSG00000141736"}
    names = read_names(write_names(tmp_path / name, pairs))
    np.savez(tmp_path / "v.npz", genes=np.array(["TP53", "ERBB2"]), vectors=np.eye(2))
    np.savez(tmp_path / "e.npz", genes=np.array(list(pairs.values())[1:]), vectors=np.eye(2))
    by_id = anndata.AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["ENSG00000141736.12", "ENSG00000141510"]))
    by_symbol = anndata.AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["ERBB2", "P53"]))
    for adata, file in ((by_id, "v.npz"), (by_symbol, "e.npz")):
        vectors, known = Table(tmp_path / file, names=names).encode(adata, list(adata.var_names))
        np.testing.assert_array_equal(vectors, [[0, 1], [1, 0]])
        assert known.all()


def test_what_is_no_file_of_names_is_refused(tmp_path):
    with pytest.raises(ValueError, match="n.json is no dict of symbol"):
        read_names(write_names(tmp_path / "n.json", {"TP53": 3}))
    with pytest.raises(FileNotFoundError, match="gone.json"):
        read_names(tmp_path / "gone.json")
    with pytest.raises(ValueError, match="code.pkl.*not plain data"):
        read_names(write_names(tmp_path / "code.pkl", {"TP53": print}))
