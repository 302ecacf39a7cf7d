"""Files of the public HER2ST repository: their addresses, their hashes, and how to download them."""

import csv
import hashlib
import logging
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from flagst._files import drafted, sha256_of

logger = logging.getLogger("flagst")

#: The repository at the commit of the hashes in the manifest (Andersson et al., Nat. Commun. 2021).
BASE_URL = "https://raw.githubusercontent.com/almaan/her2st/85df741/"
_MANIFEST = "her2st_manifest.csv"
_COLUMNS = ("section", "kind", "path", "git_blob_sha1", "sha256")


@dataclass(frozen=True)
class ManifestFile:
    """One file of the repository and its hashes."""

    section: str
    kind: str
    path: str
    git_blob_sha1: str
    sha256: str


@cache
def manifest() -> dict[tuple[str, str], ManifestFile]:
    """Files by ``(section, kind)``; kinds: counts, spots, image, cluster_labels, pathologist_labels."""
    with files("flagst.datasets").joinpath(_MANIFEST).open(encoding="utf-8", newline="") as handle:
        rows = [ManifestFile(*(row[key] for key in _COLUMNS)) for row in csv.DictReader(handle)]
    return {(row.section, row.kind): row for row in rows}


def known_sections() -> list[str]:
    """Sections that have counts and spots."""
    return sorted({section for section, kind in manifest() if kind == "counts"})


def git_blob_sha1(path: Path) -> str:
    """git's SHA-1 of a file: of ``blob <size>``, a zero byte and the content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: digest).hexdigest()


def check_file(path: Path, entry: ManifestFile) -> None:
    """Raise a ``ValueError`` if a file does not match the manifest: its SHA-256 if known, else its git SHA-1."""
    if entry.sha256:
        name, expected, found = "sha256", entry.sha256, sha256_of(path)
    else:
        name, expected, found = "git blob sha1", entry.git_blob_sha1, git_blob_sha1(path)
    if found != expected:
        raise ValueError(
            f"{entry.path} of section {entry.section!r} has {name} {found}; expected {expected}. "
            f"The file at {path} is damaged or another version: remove it and try again."
        )


def cache_dir() -> Path:
    """Folder of downloaded files."""
    import pooch

    return Path(pooch.os_cache("flagst")) / "her2st"


def fetch(entry: ManifestFile) -> Path:
    """Path of a file in the cache. The file is downloaded and checked if it is missing.

    Raises
    ------
    ConnectionError
        The file could not be downloaded.
    ValueError
        The downloaded file does not match the manifest. It is deleted.
    """
    target = cache_dir() / entry.path
    if target.is_file():
        try:
            check_file(target, entry)
            return target
        except ValueError:
            logger.warning("%s in the cache is damaged. It is downloaded again.", entry.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with drafted(target) as partial:
        _download(BASE_URL + entry.path, partial)
        check_file(partial, entry)
    return target


def _download(url: str, target: Path) -> None:
    import pooch

    logger.info("Downloading %s", url)
    try:
        pooch.HTTPDownloader(timeout=60)(url, str(target), None)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise ConnectionError(
            f"Could not download {url} ({error}). On a machine without network, pass data_dir= or set "
            "FLAGST_DATA_DIR to a folder with the files of github.com/almaan/her2st."
        ) from error
