"""Principal axes: by columns, and by rows where there are far more columns."""

import numpy as np

from flagst.regression import pca


def test_by_rows_as_by_columns(monkeypatch):
    values = np.random.default_rng(0).normal(size=(30, 80)) * np.linspace(3, 1, 80)
    values -= values.mean(axis=0)
    by_columns = pca.principal_axes(values, 12)
    monkeypatch.setattr(pca, "WIDE", 50)
    by_rows = pca.principal_axes(values, 12)
    np.testing.assert_allclose(by_rows[0], by_columns[0], atol=1e-9)
    np.testing.assert_allclose(by_rows[1], by_columns[1], rtol=1e-9)
    np.testing.assert_allclose(by_rows[0] @ by_rows[0].T, np.eye(12), atol=1e-9)
    # centred values of 30 rows have 29 axes, the rest is rounding
    assert len(pca.principal_axes(values, 40)[0]) == 29
