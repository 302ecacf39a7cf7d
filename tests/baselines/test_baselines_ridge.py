"""Ridge is FLAG's own regression stage."""

import numpy as np

from flagst import baselines
from flagst.data.from_anndata import sections_from_anndata
from flagst.metrics import pcc
from flagst.regression import RegressionStage


def test_ridge_is_the_regression_stage(train, query):
    model = baselines.Ridge(train, target="log2")
    model.train()
    values = model.predict(query).layers["flagst"]
    sections, (section,) = (
        sections_from_anndata(train, target="log2"),
        sections_from_anndata(query, target="log2"),
    )
    parts = ([getattr(s, name) for s in sections] for name in ("image", "neighbours", "coords", "target"))
    stage, _ = RegressionStage.fit(*parts, regression="ridge")
    expected = stage.scaler.restore(stage.predict(section.image, section.neighbours))
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert pcc(values, section.target) > 0.2  # the image does say something here


def test_two_sections_work(train, query):
    model = baselines.Ridge(train[:98].copy())
    model.train()
    assert np.isfinite(model.predict(query).layers["flagst"]).all()
