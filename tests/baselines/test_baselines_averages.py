"""Mean and nearest neighbours, against brute force."""

import numpy as np
import pytest

from flagst import baselines
from flagst.data.from_anndata import sections_from_anndata
from flagst.data.targets import to_target
from flagst.metrics import pcc
from flagst.regression import ContextFeatures


@pytest.fixture
def expression(train):
    return to_target(train.X, train.obs["total_counts"], "lognorm")


def test_mean_is_the_training_mean(train, query, expression):
    model = baselines.Mean(train)
    model.train()
    values = model.predict(query).layers["flagst"]
    np.testing.assert_allclose(values, np.tile(expression.mean(axis=0), (query.n_obs, 1)), rtol=1e-5)
    assert pcc(values, to_target(query.X, query.obs["total_counts"], "lognorm")) == 0


def test_knn_is_the_mean_of_the_nearest_in_context_features(train, query, expression):
    model = baselines.KNN(train, n_nearest=5)
    model.train()
    values = model.predict(query).layers["flagst"]
    sections, (section,) = sections_from_anndata(train), sections_from_anndata(query)
    context = ContextFeatures.fit([s.image for s in sections], [s.neighbours for s in sections])
    known = np.concatenate([context.transform(s.image, s.neighbours) for s in sections])
    asked = context.transform(section.image, section.neighbours)
    for spot in range(query.n_obs):
        nearest = np.argsort(((known - asked[spot]) ** 2).sum(axis=1))[:5]
        np.testing.assert_allclose(values[spot], expression[nearest].mean(axis=0), rtol=1e-4)


def test_knn_takes_twenty_by_default_and_all_when_fewer(train, query, expression):
    assert baselines.KNN(train).n_nearest == 20
    model = baselines.KNN(train, n_nearest=10_000)
    model.train()
    np.testing.assert_allclose(model.predict(query).layers["flagst"][0], expression.mean(axis=0), rtol=1e-4)
