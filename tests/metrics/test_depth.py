"""Depth taken out, and depth alone, against explicit regressions."""

import numpy as np
import pytest

from flagst.metrics import depth_pcc, gene_correlation, gsc, gsc_depth_residual


@pytest.fixture
def section():
    """log2 counts driven by depth and by two programs; prediction, measurement, depth."""
    rng = np.random.default_rng(0)
    depth = np.exp(rng.normal(7, 0.6, size=80))
    signal = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 7))
    measured = np.log1p(depth)[:, None] * rng.uniform(0.5, 2, 7) + 0.4 * signal
    measured += 0.3 * rng.normal(size=(80, 7))
    return measured + 0.5 * rng.normal(size=measured.shape), measured, depth


def residuals(values, depth):
    x = np.log1p(depth)
    fits = [np.polyval(np.polyfit(x, gene, 2), x) for gene in values.T]
    return values - np.array(fits).T


def test_equals_gsc_of_polyfit_residuals(section):
    predicted, measured, depth = section
    expected = gsc(residuals(predicted, depth), residuals(measured, depth))
    assert gsc_depth_residual(predicted, measured, depth) == pytest.approx(expected, abs=1e-10)


def test_a_depth_only_prediction_has_no_structure_left(section):
    _, measured, depth = section
    for dtype in (np.float32, np.float64):
        depth_only = (measured - residuals(measured, depth)).astype(dtype)
        assert gsc(depth_only, measured) > -1  # defined
        assert gsc_depth_residual(depth_only, measured, depth) == 0.0
        assert np.isnan(gsc_depth_residual(measured, depth_only, depth))


def test_depth_in_the_prediction_makes_no_difference(section):
    predicted, measured, depth = section
    more = predicted + 3 * np.log1p(depth)[:, None] + np.log1p(depth)[:, None] ** 2
    value = gsc_depth_residual(predicted, measured, depth)
    assert gsc_depth_residual(more, measured, depth) == pytest.approx(value, abs=1e-10)
    assert abs(gsc(more, measured) - gsc(predicted, measured)) > 0.01
    same = gsc_depth_residual(predicted, measured, np.full(80, 5.0))  # nothing to take out
    assert same == pytest.approx(gsc(predicted, measured))


def test_nearly_empty_spots_do_not_bring_depth_back():
    """Poisson counts that follow depth alone: nothing is left, whatever a few shallow spots do."""
    rng = np.random.default_rng(3)
    depth = np.exp(rng.normal(9, 0.5, size=200))
    depth[:3] = 2.0
    counts = rng.poisson(depth[:, None] / 1e3 * rng.uniform(0.5, 2, 40))
    again = rng.poisson(depth[:, None] / 1e3 * rng.uniform(0.5, 2, 40))
    measured, predicted = np.log2(counts + 1), np.log2(again + 1)
    left = gene_correlation(residuals(measured, depth))[np.triu_indices(40, 1)]
    assert abs(left.mean()) < 0.02
    assert abs(gsc_depth_residual(predicted, measured, depth)) < 0.12


def test_depth_of_two_values():
    rng = np.random.default_rng(4)
    depth, measured = np.repeat([10.0, 500.0], 20), rng.normal(size=(40, 5))
    expected = np.mean([abs(np.corrcoef(depth, gene)[0, 1]) for gene in measured.T])
    assert depth_pcc(measured, depth) == pytest.approx(expected)


def test_depth_pcc_is_the_mean_fit(section):
    _, measured, depth = section
    measured = np.column_stack([measured, -measured[:, 0], np.ones(80)])  # one falls with depth, one constant
    fits = measured - residuals(measured, depth)
    expected = np.mean([np.corrcoef(fits[:, g], measured[:, g])[0, 1] for g in range(8)])
    assert depth_pcc(measured, depth) == pytest.approx(expected)
    assert depth_pcc(measured, np.full(80, 3.0)) == 0.0


def test_chance_level_of_the_oracle():
    rng = np.random.default_rng(1)
    found = depth_pcc(rng.normal(size=(400, 300)), np.exp(rng.normal(size=400)))
    assert found == pytest.approx(1.25 / np.sqrt(400), rel=0.1)


def test_errors(section):
    predicted, measured, depth = section
    with pytest.raises(ValueError, match=r"depth must be \(80,\).*\(79,\)"):
        gsc_depth_residual(predicted, measured, depth[1:])
    with pytest.raises(ValueError, match="negative"):
        depth_pcc(measured, -depth)
    with pytest.raises(ValueError, match="depth has NaN"):
        depth_pcc(measured, depth * np.nan)
