"""Shared fixtures. Real data is read in place and never required."""

import os
import sys
from pathlib import Path

import pytest

# helpers that are needed while tests are collected, when there are no fixtures yet
sys.path.insert(0, str(Path(__file__).resolve().parent / "helpers"))

# one of several test processes: threads of each would only wait for those of the others
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# zarr hands single reads and writes to a pool of threads; with one worker, a lost wake-up of glibc's condition
# variables (bug 25847, Debian 12) cannot leave the suite waiting for ever
os.environ.setdefault("ZARR_THREADING__MAX_WORKERS", "1")
os.environ.setdefault("ZARR_ASYNC__CONCURRENCY", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tutorials first: they take longest, and two processes shall end at about the same time."""
    items.sort(key=lambda item: item.path.parent.name != "tutorials")


def _her2st_dir() -> Path | None:
    here = os.environ.get("FLAGST_DATA_DIR")
    candidates = [Path(here), Path(here) / "her2st"] if here else []
    candidates.append(Path(__file__).resolve().parents[2] / "shared" / "data" / "her2st")
    return next((c for c in candidates if (c / "data" / "ST-cnts").is_dir()), None)


@pytest.fixture(scope="session")
def her2st_dir() -> Path:
    """Folder of the HER2ST data; skips the test when it is not on this machine."""
    found = _her2st_dir()
    if found is None:
        pytest.skip("HER2ST is not on this machine; set FLAGST_DATA_DIR to run this test")
    return found


@pytest.fixture(scope="session")
def mob_dir() -> Path:
    """Folder of the mouse olfactory bulb; skips the test when it is not on this machine."""
    here = os.environ.get("FLAGST_DATA_DIR")
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    candidates = [*([Path(here), Path(here) / "mob"] if here else []), shared / "mob"]
    found = next((c for c in candidates if any(c.glob("MOB*.tsv.gz"))), None)
    if found is None:
        pytest.skip("the mouse olfactory bulb is not on this machine; set FLAGST_DATA_DIR to run this test")
    return found


@pytest.fixture(scope="session")
def gene_models_dir() -> Path:
    """Published dictionaries of gene models; skips the test when they are not on this machine."""
    her2st = _her2st_dir()
    found = None if her2st is None else her2st.parent / "gene_models"
    if found is None or not found.is_dir():
        pytest.skip("There are no dictionaries of gene models on this machine, beside HER2ST")
    return found
