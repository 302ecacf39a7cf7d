"""What is fitted before the diffusion: Moran's I of the genes of the training sections, and diffusion states."""

from dataclasses import replace

import numpy as np
import pytest

from flagst import metrics
from flagst.data.graph import knn, moran_graph
from flagst.data.sections import Section
from flagst.sampling.fit import fit_latent, fit_mean, mean_moran, section_moran
from flagst.settings import Settings


def _section(name, n_spots=60, layout="square", seed=0):
    rng = np.random.default_rng([seed, n_spots])
    coords = rng.uniform(0, 1000, (n_spots, 2))
    target = np.sin(coords[:, :1] / 200) * np.arange(4) + rng.normal(size=(n_spots, 4))
    names = np.array([f"{name}{i}" for i in range(n_spots)])
    image = np.zeros((n_spots, 2), np.float32)
    return Section(name, names, coords, image, *knn(coords, 18), target.astype(np.float32), layout=layout)


def test_the_measured_moran_is_that_of_the_target():
    section = _section("A")
    expected = metrics.morans_i(section.target, moran_graph(section.coords, "square"))
    np.testing.assert_allclose(section_moran(section), expected, atol=1e-6)


def test_moran_of_some_rows_does_not_depend_on_the_others():
    section, rows = _section("A"), np.arange(20, 60)
    expected = metrics.morans_i(section.target[rows], moran_graph(section.coords[rows], "square"))
    np.testing.assert_allclose(section_moran(section, rows), expected, atol=1e-6)


def test_layouts_are_kept_apart_and_genes_that_do_not_vary_left_out():
    sections = [_section("A"), _section("B", seed=1), _section("C", layout="hex"), _section("D", n_spots=9)]
    flat = sections[0].target.copy()
    flat[:, 2], sections[2].target[:, 3] = 5.0, 1.0
    sections[0] = replace(sections[0], target=flat)
    morans = [section_moran(s) for s in sections]
    assert morans[3] is None  # too small
    found = mean_moran(sections, morans)
    assert set(found) == {"square", "hex"}
    alone = [metrics.morans_i(s.target, moran_graph(s.coords, s.layout)) for s in sections[:3]]
    np.testing.assert_allclose(found["square"][[0, 1, 3]], (alone[0] + alone[1])[[0, 1, 3]] / 2, atol=1e-6)
    assert found["square"][2] == pytest.approx(alone[1][2], abs=1e-6)
    assert np.isnan(found["hex"][3]) and np.isfinite(found["hex"][:3]).all()


def test_without_a_large_section_there_is_no_moran():
    assert mean_moran([_section("D", n_spots=9)], [None]) == {}


@pytest.mark.parametrize("n_latent", [2, 4, 6])
def test_states_are_those_of_the_residual_and_as_wide_as_asked_for(n_latent):
    """Four genes have four components at most; states that are wider end in zeros."""
    rng = np.random.default_rng(5)
    sections = [replace(_section(name), image=rng.normal(size=(60, 3)).astype(np.float32)) for name in "ABC"]
    settings = Settings(n_latent=n_latent)
    stage, mean = fit_mean(sections, settings)
    fitted, data = fit_latent(sections, stage, mean, settings)
    expression = stage.scaler.standardise(np.concatenate([s.target for s in sections]))
    assert [values.shape for values in data.state] == [(60, n_latent)] * 3 and mean.shape == (180, 4)
    np.testing.assert_array_equal(np.concatenate(data.mean), mean)
    np.testing.assert_array_equal(np.concatenate(data.expression), expression)
    n_kept = min(n_latent, 4)
    for number, section in enumerate(sections):
        state, residual = data.state[number], data.expression[number] - data.mean[number]
        centred = (residual - residual.mean(axis=0)) / fitted.latent.scale
        expected = centred @ fitted.latent.components.T / fitted.latent.sd
        np.testing.assert_allclose(state[:, :n_kept], expected, atol=1e-8)
        assert (state[:, n_kept:] == 0).all()
        np.testing.assert_array_equal(data.moran[number], section_moran(section))
    np.testing.assert_allclose(fitted.moran["square"], np.mean(data.moran, axis=0))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(mean.T, expression.T, strict=True)]
    np.testing.assert_allclose(fitted.train_pcc, expected, atol=1e-6)
