"""gene_embeddings of genes in spots, in a file, and of spots: writing, reading, and runs that were stopped."""

import errno
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import tracemalloc

import anndata
import dask.array as da
import numpy as np
import pytest
from gene_checkpoints import SYMBOLS, counts_table, write_scgpt

from flagst import pp
from flagst.gfm import ScGPT
from flagst.pp._mapped import MappedArray

KEY = "X_gene_context"


class Spots:
    """An encoder of somebody else's, that counts how often it is asked."""

    name = "spots"

    def __init__(self, width=3, change=None, settings=0):
        self.width, self.change, self.settings, self.asked = width, change, settings, 0

    def encode(self, adata, genes):
        return np.ones((len(genes), 2)), np.ones(len(genes), bool)

    def provenance(self, mode="static"):
        return {"encoder": self.name, "settings": self.settings}

    def encode_spots(self, adata, genes, *, mode, layer, batch_size, device, half):
        self.asked += 1
        for start in range(0, adata.n_obs, batch_size):
            rows = np.arange(start, min(start + batch_size, adata.n_obs))
            inner = (len(genes),) if mode == "contextual" else ()
            counts = adata[rows, genes].X.toarray() if inner else np.asarray(adata[rows].X.sum(axis=1)).ravel()
            mask = counts > 0
            vectors = counts[..., None] + np.linspace(0, 0.5, self.width)
            yield self.change(rows, vectors, mask) if self.change else (rows, vectors, mask)


def add(adata, source, folder, **settings):
    pp.gene_embeddings(adata, source, mode="contextual", path=folder, progress=False, **settings)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def adata():
    table = counts_table()
    table.var["flagst_panel"] = np.arange(table.n_vars) % 2 == 0
    return table


@pytest.mark.parametrize("flash", [False, True])
def test_a_models_vectors_are_written(adata, tmp_path, flash):
    write_scgpt(tmp_path / "m", flash=flash)
    add(adata, tmp_path / "m", tmp_path / "vectors", batch_size=4)
    panel = list(adata.var_names[adata.var["flagst_panel"]])
    _, vectors, mask = next(ScGPT(tmp_path / "m").encode_spots(adata, panel, batch_size=6))
    lazy = adata.obsm[KEY]
    assert isinstance(lazy, da.Array) and lazy.dtype == np.float16 and lazy.shape == (6, 7, 8)
    np.testing.assert_allclose(np.asarray(lazy), vectors, atol=2e-3)
    np.testing.assert_array_equal((np.asarray(lazy) != 0).any(axis=2), mask)
    record = adata.uns["flagst"]["gene_embeddings"][KEY]
    assert record["genes"] == panel and record["shape"] == [6, 7, 8] and record["mode"] == "contextual"
    assert (record["encoder"], record["licence"], record["n_genes"], record["n_found"]) == ("scgpt", "MIT", 7, 6)
    assert len(record["sha256"]) == len(record["inputs_sha256"]) == 64 and record["max_length"] == 20
    assert names(tmp_path / "vectors") == [record["array"].replace(".npy", ".json"), record["array"]]
    assert "flagst_has_vector" not in adata.var and not adata.varm


def test_spots_get_vectors(adata, tmp_path):
    write_scgpt(tmp_path / "m")
    pp.gene_embeddings(adata, tmp_path / "m", mode="cell", batch_size=4, progress=False)
    _, vectors, _ = next(ScGPT(tmp_path / "m").encode_spots(adata, [], mode="cell", batch_size=6))
    assert adata.obsm["X_cell"].dtype == np.float32
    np.testing.assert_allclose(adata.obsm["X_cell"], vectors, atol=1e-5)
    record = adata.uns["flagst"]["gene_embeddings"]["X_cell"]
    assert (record["mode"], record["pooling"], record["shape"], record["n_found"]) == ("cell", "cls", [6, 8], 5)
    adata.write_h5ad(tmp_path / "t.h5ad")
    back = anndata.read_h5ad(tmp_path / "t.h5ad")
    np.testing.assert_array_equal(back.obsm["X_cell"], adata.obsm["X_cell"])


def test_the_same_call_finds_the_file_and_another_makes_another(adata, tmp_path):
    source = Spots()
    add(adata, source, tmp_path, batch_size=4)
    first = np.asarray(adata.obsm[KEY])
    np.testing.assert_array_equal(first[..., 0], adata[:, adata.var["flagst_panel"]].X.toarray())
    again = adata.copy()
    del again.obsm[KEY], again.uns["flagst"]
    add(again, source, tmp_path, batch_size=2, key_added="mine")
    assert source.asked == 1
    np.testing.assert_array_equal(np.asarray(again.obsm["mine"]), first)
    assert again.uns["flagst"]["gene_embeddings"]["mine"] == adata.uns["flagst"]["gene_embeddings"][KEY]

    def other_counts(table):
        table.X[0, 0] += 1

    def other_spots(table):
        table.obs_names = [f"x{i}" for i in range(table.n_obs)]

    for i, change in enumerate((other_counts, other_spots)):
        other = adata.copy()
        change(other)
        add(other, source, tmp_path)
        assert source.asked == 2 + i
    add(adata, source, tmp_path, genes=SYMBOLS[:3])
    add(adata, source, tmp_path, half=True)
    add(adata, Spots(settings=1), tmp_path)
    assert source.asked == 5 and len(names(tmp_path)) == 12


def test_names_of_genes_that_are_read_otherwise_make_another_file(adata, tmp_path):
    write_scgpt(tmp_path / "m")
    add(adata, ScGPT(tmp_path / "m"), tmp_path / "v")
    add(adata, ScGPT(tmp_path / "m", names={"nobody0": "SYM3"}), tmp_path / "v")
    assert len(names(tmp_path / "v")) == 4
    write_scgpt(tmp_path / "m", n_bins=9)  # the same weights, read otherwise
    add(adata, tmp_path / "m", tmp_path / "v")
    assert len(names(tmp_path / "v")) == 6


def test_reading_rows_reads_those_rows(tmp_path, monkeypatch):
    adata = counts_table(4000)
    add(adata, Spots(width=64), tmp_path, genes=SYMBOLS, batch_size=500)
    asked = []
    read = MappedArray.__getitem__
    monkeypatch.setattr(MappedArray, "__getitem__", lambda self, index: asked.append(index) or read(self, index))
    monkeypatch.setattr("flagst.pp._mapped.CHUNK_BYTES", 12 * 64 * 2 * 100)
    add(adata, Spots(width=64), tmp_path, genes=SYMBOLS)  # attached again, in blocks of 100 spots
    rows = [3950, 7, 3960]
    held = np.load(tmp_path / adata.uns["flagst"]["gene_embeddings"][KEY]["array"])
    np.testing.assert_array_equal(np.asarray(adata.obsm[KEY][rows]), held[rows])
    starts = {index[0].start or 0 for index in asked}
    assert starts and all(0 <= start < 100 or 3900 <= start for start in starts)
    tracemalloc.start()
    np.asarray(adata.obsm[KEY][rows])
    assert tracemalloc.get_traced_memory()[1] < held.nbytes / 8
    tracemalloc.stop()
    subset = adata[[5, 9]]
    assert isinstance(subset.obsm[KEY], da.Array)
    np.testing.assert_array_equal(np.asarray(subset.copy().obsm[KEY]), held[[5, 9]])
    np.testing.assert_array_equal(np.asarray(adata[adata.obs_names == "spot9"].obsm[KEY]), held[[9]])


def test_tables_with_them_are_written_and_read(adata, tmp_path):
    source = Spots()
    add(adata, source, tmp_path / "v")
    held = np.asarray(adata.obsm[KEY])
    pairs = ((adata.write_h5ad, anndata.read_h5ad, "t.h5ad"), (adata.write_zarr, anndata.read_zarr, "t.zarr"))
    for write, read, name in pairs:
        write(tmp_path / name)
        back = read(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(back.obsm[KEY]), held)
        assert list(back.uns["flagst"]["gene_embeddings"][KEY]["genes"]) == SYMBOLS[::2] + ["nobody0"]
        # lazy again, and nothing computed
        add(back, source, tmp_path / "v")
        assert isinstance(back.obsm[KEY], da.Array) and source.asked == 1
    both = anndata.concat([adata, adata], index_unique="-")
    assert isinstance(both.obsm[KEY], da.Array) and both.obsm[KEY].shape == (12, 7, 3)
    # processes are sent the file's name, not its contents
    assert len(pickle.dumps(adata.obsm[KEY])) < 3000


def test_what_breaks_off_is_not_believed(adata, tmp_path):
    def fail(rows, vectors, mask):
        if rows[0] >= 4:
            raise RuntimeError("the lights went out")
        return rows, vectors, mask

    with pytest.raises(RuntimeError, match="lights"):
        add(adata, Spots(change=fail), tmp_path, batch_size=2)
    assert names(tmp_path) == [] and KEY not in adata.obsm and "flagst" not in adata.uns


def test_what_a_kill_leaves_is_not_believed(adata, tmp_path):
    adata.write_h5ad(tmp_path / "t.h5ad")
    program = f"""
        import os, signal, sys
        sys.path[:0] = {sys.path!r}
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import anndata
        from test_gene_embeddings_spots import Spots, add

        def kill(rows, vectors, mask):
            if rows[0] >= 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return rows, vectors, mask

        add(anndata.read_h5ad({str(tmp_path / "t.h5ad")!r}), Spots(change=kill), {str(tmp_path / "v")!r}, batch_size=2)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = names(tmp_path / "v")
    assert left.endswith(".part")
    source = Spots()
    add(adata, source, tmp_path / "v")
    assert source.asked == 1 and len(names(tmp_path / "v")) == 3


@pytest.mark.parametrize("spoil", ["cut", "relabel", "no description", "another array"])
def test_files_that_were_spoilt_are_made_again(adata, tmp_path, spoil, caplog):
    add(adata, Spots(), tmp_path)
    held = np.asarray(adata.obsm[KEY])
    said, array = (tmp_path / name for name in names(tmp_path))
    if spoil == "cut":
        os.truncate(array, array.stat().st_size - 4)
    elif spoil == "relabel":
        said.write_text(json.dumps(json.loads(said.read_text()) | {"genes": SYMBOLS[:7]}))
    elif spoil == "no description":
        said.unlink()
    else:
        np.save(array, held[:3])
    source = Spots()
    with caplog.at_level(logging.WARNING, logger="flagst"):
        add(adata, source, tmp_path)
    assert source.asked == 1 and ("made again" in caplog.text) == (spoil != "no description")
    np.testing.assert_array_equal(np.asarray(adata.obsm[KEY]), held)


class Static:
    name = "static"

    def encode(self, adata, genes):
        return np.ones((len(genes), 2)), np.ones(len(genes), bool)

    def provenance(self):
        return {"encoder": self.name}


@pytest.mark.parametrize(
    ("source", "settings", "error", "reason"),
    [
        (Spots(), {"mode": "contextual"}, ValueError, "needs path="),
        (Spots(), {"mode": "static", "path": "x"}, ValueError, "leave out path="),
        (Spots(), {"mode": "cell", "path": "x"}, ValueError, "leave out path="),
        (Spots(), {"mode": "cell", "genes": ["SYM1"]}, ValueError, "leave out genes="),
        (Spots(), {"mode": "spots"}, ValueError, "mode must be one of"),
        (Static(), {"mode": "cell"}, TypeError, "static gives a gene one vector"),
        (Spots(change=lambda r, v, m: (r, v[:, :1], m)), {"mode": "contextual"}, ValueError, r"vectors \(6, 1, 3\)"),
        (Spots(change=lambda r, v, m: (r * 0, v, m)), {"mode": "cell"}, ValueError, "1 of 6 spots"),
        (Spots(change=lambda r, v, m: (r, v * np.nan, m)), {"mode": "cell"}, ValueError, "NaN"),
        (Spots(change=lambda r, v, m: (r, v * 1e6, m)), {"mode": "contextual"}, ValueError, "the file is of float16"),
        (
            Spots(change=lambda r, v, m: (r, np.where((r == 4)[:, None], np.inf, v), m)),
            {"mode": "cell", "batch_size": 2, "half": True},
            ValueError,
            "in 1 of 2 rows, first at row 4. Try half=False.",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_and_nothing_is_changed(adata, tmp_path, source, settings, error, reason):
    path = {"path": tmp_path} if settings["mode"] == "contextual" and "path=" not in reason else {}
    with pytest.raises(error, match=reason):
        pp.gene_embeddings(adata, source, progress=False, **path, **settings)
    assert not adata.obsm and not adata.uns and not adata.varm and names(tmp_path) == []


def test_a_disk_that_is_too_small_is_said_before(adata, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("flagst.pp._mapped.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="6 spots and 7 genes take"):
        add(adata, Spots(), tmp_path)
    assert names(tmp_path) == []


def test_counts_are_looked_at_before_anything_is_computed(adata, tmp_path):
    adata.X = adata.X * 0.5
    source = Spots()
    with pytest.raises(ValueError, match="adata.X has non-integer"):
        add(adata, source, tmp_path)
    with pytest.raises(ValueError, match="no spots"):
        add(adata[:0].copy(), source, tmp_path)
    assert source.asked == 0


def test_names_of_encoders_and_of_the_home_folder(adata, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = Spots()
    source.name = "lab/net 2"
    add(adata, source, "~/v")
    assert all(name.startswith("lab_net_2-contextual-") for name in names(tmp_path / "v"))
    assert np.asarray(adata.obsm[KEY]).shape == (6, 7, 3)


def test_a_header_that_is_damaged_is_made_again(adata, tmp_path):
    add(adata, Spots(), tmp_path)
    held = np.asarray(adata.obsm[KEY])
    (array,) = tmp_path.glob("*.npy")
    array.write_bytes(array.read_bytes().replace(b"'descr'", b"'descr' ((", 1))
    source = Spots()
    add(adata, source, tmp_path)
    assert source.asked == 1
    np.testing.assert_array_equal(np.asarray(adata.obsm[KEY]), held)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot give a file its space beforehand")
def test_the_space_of_the_file_is_taken_before_anything_is_computed(adata, tmp_path, monkeypatch):
    taken = []
    real = os.posix_fallocate

    def record(descriptor, start, length):
        taken.append(length)
        real(descriptor, start, length)

    monkeypatch.setattr(os, "posix_fallocate", record)
    add(adata, Spots(), tmp_path / "a", batch_size=2)
    assert taken == [path.stat().st_size for path in (tmp_path / "a").glob("*.npy")]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        add(adata, Spots(), tmp_path / "b")
    assert names(tmp_path / "b") == []

    def unable(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    add(adata, Spots(), tmp_path / "c")
    assert len(names(tmp_path / "c")) == 2
