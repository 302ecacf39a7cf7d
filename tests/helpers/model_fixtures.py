"""Fixtures: tables, and models that are trained for a moment."""

from types import SimpleNamespace

import pytest
from tiny_models import N_SPOTS, QUICK, SMALL, make_model, make_table


@pytest.fixture(scope="session")
def make():
    """What makes tables and models."""
    return SimpleNamespace(table=make_table, model=make_model, SMALL=SMALL, QUICK=QUICK)


@pytest.fixture(scope="session")
def trained(make):
    """Trained on three sections; tests must not change it."""
    model = make.model(make.table())
    model.train(**make.QUICK)
    return model


@pytest.fixture
def query(make):
    """Two sections the model has not seen."""
    return make.table(names=("X", "Y"), n_spots=24, seed=7)


@pytest.fixture(scope="module")
def slides(make):
    """Two sections, their rows interleaved."""
    return make.table(names=("X", "Y"), n_spots=N_SPOTS, seed=7)


@pytest.fixture
def small_parts(monkeypatch):
    """Nothing is decoded or written as a whole."""
    from flagst.data import prediction_store
    from flagst.sampling import sampler

    monkeypatch.setattr(sampler, "DECODED_VALUES", 8 * 150)
    monkeypatch.setattr(prediction_store, "CHUNK_ROWS", 170)
