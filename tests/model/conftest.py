"""Fixtures of tests of the model, and what a user owns in a table."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from model_fixtures import make, query, slides, small_parts, trained  # noqa: F401


def snapshot(adata):
    """Everything a user owns in a table, copied."""
    return {
        "X": None if adata.X is None else adata.X.copy(),
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "obsm": {key: value.copy() for key, value in adata.obsm.items()},
        "layers": {key: value.copy() for key, value in adata.layers.items() if key is not None},
        "uns": str({key: adata.uns[key] for key in adata.uns}),
    }


def assert_unchanged(adata, before, *, keys=("X", "obs", "var", "obsm", "layers", "uns")):
    after = snapshot(adata)
    for key in ("obs", "var"):
        if key in keys:
            pd.testing.assert_frame_equal(after[key], before[key])
    if "X" in keys and before["X"] is not None:
        a, b = (x.toarray() if sp.issparse(x) else x for x in (after["X"], before["X"]))
        np.testing.assert_array_equal(a, b)
    for key in ("obsm", "layers"):
        if key in keys:
            assert list(after[key]) == list(before[key])
            for name in before[key]:
                np.testing.assert_array_equal(after[key][name], before[key][name])
    if "uns" in keys:
        assert after["uns"] == before["uns"]


@pytest.fixture(scope="session")
def state():
    return SimpleNamespace(of=snapshot, assert_unchanged=assert_unchanged)
