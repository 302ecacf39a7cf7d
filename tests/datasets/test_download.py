"""The manifest, and downloads from a local server."""

import csv
import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flagst.datasets import _download
from flagst.datasets._download import ManifestFile, check_file, fetch, git_blob_sha1, known_sections, manifest

CONTENT = b"x\ty\n1\t2\n"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """Folder whose files the package believes to be the upstream repository; the cache is empty."""
    folder = tmp_path / "upstream"
    (folder / "data").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(_download, "BASE_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(_download, "cache_dir", lambda: tmp_path / "cache")
    yield folder
    server.shutdown()
    server.server_close()


def entry(content: bytes = CONTENT, *, with_sha256: bool = True) -> ManifestFile:
    blob = hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest() if with_sha256 else ""
    return ManifestFile("A1", "spots", "data/file.tsv", blob, sha256)


def test_git_blob_hash_is_gits(tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    assert git_blob_sha1(path) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git hash-object /dev/null
    path.write_bytes(b"what is up, doc?")
    assert git_blob_sha1(path) == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # from the Git book, 10.2


def test_manifest_covers_every_section_and_every_file_can_be_checked():
    assert len(known_sections()) == 36
    for section in known_sections():
        for kind in ("counts", "spots", "image", "cluster_labels"):
            assert (section, kind) in manifest()
    for row in manifest().values():
        assert len(row.git_blob_sha1) == 40
        assert len(row.sha256) in (0, 64)
    assert len({row.path for row in manifest().values()}) == len(manifest())


@pytest.mark.parametrize("with_sha256", [True, False])
def test_download_is_checked_kept_and_not_repeated(upstream, with_sha256):
    source = upstream / "data" / "file.tsv"
    source.write_bytes(CONTENT)
    path = fetch(entry(with_sha256=with_sha256))
    assert path.read_bytes() == CONTENT
    source.unlink()  # a second download would fail
    assert fetch(entry(with_sha256=with_sha256)) == path


@pytest.mark.parametrize("with_sha256, name", [(True, "sha256"), (False, "git blob sha1")])
def test_another_content_is_refused_and_not_kept(upstream, tmp_path, with_sha256, name):
    (upstream / "data" / "file.tsv").write_bytes(CONTENT + b"more")
    with pytest.raises(ValueError, match=f"data/file.tsv of section 'A1' has {name} .*; expected"):
        fetch(entry(with_sha256=with_sha256))
    assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_a_damaged_cache_is_downloaded_again(upstream):
    (upstream / "data" / "file.tsv").write_bytes(CONTENT)
    path = fetch(entry())
    path.write_bytes(b"half")
    assert fetch(entry()).read_bytes() == CONTENT


def test_a_failed_download_names_the_way_out(upstream, tmp_path):
    with pytest.raises(ConnectionError, match="Could not download .*file.tsv.*FLAGST_DATA_DIR"):
        fetch(entry())
    assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_manifest_matches_the_real_files(her2st_dir):
    for row in manifest().values():
        path = her2st_dir / row.path
        if row.kind in ("spots", "cluster_labels", "pathologist_labels") and path.is_file():
            check_file(path, row)
            assert git_blob_sha1(path) == row.git_blob_sha1


def test_manifest_is_the_published_table(her2st_dir):
    published = her2st_dir / "manifest.csv"
    if not published.is_file():
        pytest.skip("this copy of HER2ST has no manifest.csv")
    with published.open(encoding="utf-8", newline="") as handle:
        rows = {(r["path"], r["git_blob_sha1"], r["sha256"]) for r in csv.DictReader(handle)}
    assert rows == {(r.path, r.git_blob_sha1, r.sha256) for r in manifest().values()}
