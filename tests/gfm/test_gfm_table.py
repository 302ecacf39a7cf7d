"""Files of gene vectors: every kind reads alike, and broken or malicious ones are refused by name."""

import pickle
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from flagst.gfm import Table, open_gene_model

GENES = ["A", "B", "C"]
VECTORS = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, -6.0]], dtype=np.float32)


@pytest.fixture
def adata():
    return anndata.AnnData(np.ones((4, 4)), var=pd.DataFrame(index=["C", "x", "A", "B"]))


def write(path):
    frame = pd.DataFrame(VECTORS, index=pd.Index(GENES, name="gene"))
    if ".csv" in path.suffixes:
        frame.to_csv(path)
    elif ".tsv" in path.suffixes:
        frame.to_csv(path, sep="\t")
    elif path.suffix == ".parquet":
        (frame if path.stem == "index" else frame.reset_index()).rename(columns=str).to_parquet(path)
    elif path.suffix == ".npz":
        np.savez(path, genes=np.array(GENES), vectors=VECTORS)
    elif path.suffix == ".h5ad":
        anndata.AnnData(np.ones((2, 3)), var=pd.DataFrame(index=GENES), varm={"v": VECTORS}).write_h5ad(path)
    else:
        lists = path.stem == "lists"
        path.write_bytes(pickle.dumps({g: v.tolist() if lists else v for g, v in zip(GENES, VECTORS, strict=True)}))
    return path


@pytest.mark.parametrize(
    "name", ["t.csv", "t.csv.gz", "t.tsv", "index.parquet", "t.parquet", "t.npz", "t.h5ad", "lists.pkl", "t.pickle"]
)
def test_every_kind_reads_alike(tmp_path, adata, name):
    table = Table(write(tmp_path / name), key="v", licence="CC0")
    vectors, known = table.encode(adata, list(adata.var_names))
    assert vectors.dtype == np.float32 and known.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(vectors, [[5, -6], [0, 0], [1, 2], [3, 4]])
    record = table.provenance()
    assert record["file"] == name and len(record["sha256"]) == 64 and record["licence"] == "CC0"


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_header_may_leave_the_names_out(tmp_path, suffix):
    """As R's write.table does: one name fewer than there are columns."""
    separator = {"csv": ",", "tsv": "\t"}[suffix]
    lines = [["V1", "V2"], *([gene, *map(str, vector)] for gene, vector in zip(GENES, VECTORS, strict=True))]
    path = tmp_path / f"r.{suffix}"
    path.write_text("\n".join(map(separator.join, lines)))
    table = Table(path)
    assert table.genes == GENES
    np.testing.assert_array_equal(table.vectors, VECTORS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A,0.5,2\nB,3,4\n", "its first line, 'A' and numbers, is a gene, not a header"),
        ("gene,x\nA,1,2,3\nB,4,5,6\n", "its header names 2 columns, its lines have 2 more"),
    ],
)
def test_no_gene_is_lost_to_the_header(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"t.csv cannot be read: {message}"):
        Table(path)


def test_a_missing_reader_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet")

    def missing(path):
        raise ImportError("Unable to find a usable engine; tried using: 'pyarrow'.\nMore.")

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(ImportError, match="t.parquet needs a library that is missing: Unable to find .* 'pyarrow'.$"):
        Table(path)


def test_names_may_be_of_another_kind(tmp_path, adata):
    adata.var["id"] = ["ENSG00000000003", None, "ENSG00000000001.5", "B"]
    path = tmp_path / "ids.npz"
    np.savez(path, genes=["ENSG00000000001", "B", "ENSG00000000003"], vectors=VECTORS)
    assert open_gene_model(path, names="id").encode(adata, ["A", "C"])[0].tolist() == [[1, 2], [5, -6]]
    with pytest.raises(ValueError, match="ids.npz knows 0 of 2 genes"):
        open_gene_model(path).encode(adata, ["A", "C"])


class Shout:
    def __reduce__(self):
        return (print, ("this must never be seen",))


def test_a_pickle_with_code_is_refused_and_nothing_runs(tmp_path, capfd):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"A": Shout()}))
    with pytest.raises(ValueError, match="bad.pkl cannot be read: it asks for builtins.print"):
        Table(path)
    assert "never" not in capfd.readouterr().out
    # and it would have run: the check above checks something
    code = f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"
    assert "never" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


class Forged:
    """An array of object pointers of the file's choice: in numpy's own hands, a crash."""

    def __init__(self, direct):
        self.direct = direct

    def __reduce__(self):
        if self.direct:
            return np.ndarray, ((2,), np.dtype("O"), b"A" * 16)
        kind = np.dtype("O")
        return np.ndarray, ((0,), np.dtype("f8")), (1, (2,), kind, False, b"A" * 16)


@pytest.mark.parametrize("direct", [True, False])
def test_forged_arrays_are_refused(tmp_path, direct):
    path = tmp_path / "forged.pkl"
    path.write_bytes(pickle.dumps({"A": Forged(direct)}))
    with pytest.raises(ValueError, match="forged.pkl cannot be read"):
        Table(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "values", [VECTORS, VECTORS.astype(">f8"), VECTORS.astype("int16"), np.asfortranarray(VECTORS)]
)
def test_arrays_of_any_kind_and_protocol_come_back(tmp_path, protocol, values):
    from flagst.gfm._files import load_pickle

    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps({"whole": values, "one": values[0, 1], "text": np.array(["a", "bc"])}, protocol))
    held = load_pickle(path)
    np.testing.assert_array_equal(held["whole"], values)
    assert held["whole"].dtype == values.dtype and held["one"] == values[0, 1]
    assert held["text"].tolist() == ["a", "bc"]


def test_a_row_of_zeros_is_no_vector_and_a_gene_may_be_called_na(tmp_path, adata):
    (tmp_path / "z.csv").write_text("gene,x,y\nA,0,0\nNA,1,2\nnan,3,4\n")
    vectors, known = Table(tmp_path / "z.csv").encode(adata, ["A", "NA", "nan"])
    assert known.tolist() == [False, True, True] and vectors[1:].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("name", "held", "reason"),
    [
        ("a.pkl", b"\x80\x04broken", "a.pkl cannot be read"),
        ("b.npz", b"PK\x03\x04trunc", "b.npz cannot be read"),
        ("c.h5ad", b"no hdf5", "c.h5ad cannot be read"),
        ("d.parquet", b"PAR1", "d.parquet cannot be read"),
        ("e.csv", b"gene,x\nA,1\nB,two\n", "e.csv holds 2 genes and values.*object|str"),
        ("f.csv", b"gene,x\nA,1\nB,\n", "f.csv has values that are not finite.*'B'"),
        ("g.pkl", pickle.dumps([1, 2]), "g.pkl cannot be read: it is no dict"),
        ("h.pkl", pickle.dumps({"A": [1.0], "B": [1.0, 2.0]}), r"h.pkl cannot be read.*differ in length: \[1, 2\]"),
        ("i.txt", b"", "i.txt: gene vectors are read from"),
        ("j.csv", b"", "j.csv cannot be read"),
    ],
)
def test_broken_files_are_named_with_the_reason(tmp_path, name, held, reason):
    path = tmp_path / name
    path.write_bytes(held)
    with pytest.raises(ValueError, match=reason):
        Table(path)


def test_missing_files_and_keys(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv"):
        Table(tmp_path / "gone.csv")
    with pytest.raises(FileNotFoundError, match="gone.csv"):
        open_gene_model(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match=r"t.h5ad cannot be read: varm has \['v'\]"):
        Table(write(tmp_path / "t.h5ad"))
    (tmp_path / "readme.md").touch()
    with pytest.raises(ValueError, match="no folder of scGPT.*readme.md"):
        open_gene_model(tmp_path)
