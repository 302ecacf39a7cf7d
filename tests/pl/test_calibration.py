"""pl.calibration: bars and points are counted again from samples and measurement."""

import numpy as np
import pytest

from flagst.data.targets import to_target
from flagst.pl import calibration


@pytest.fixture
def sampled(predicted):
    """Samples without ties around the measurement, genes in another order than the table's."""
    rng = np.random.default_rng(0)
    measured = to_target(predicted.X, None, "log2")
    samples = measured + rng.normal(size=measured.shape) + rng.normal(size=(19, *measured.shape))
    order = rng.permutation(30)
    return samples[:, :, order].astype(np.float32), list(predicted.var_names[order]), measured[:, order]


def test_curve_and_bars_are_ranks_of_the_measurement(predicted, sampled):
    samples, genes, measured = sampled
    left, right = calibration(predicted, samples, genes=genes, levels=(0.5, 0.9), n_bins=4)
    below = (samples < measured).sum(axis=0)  # 0 to 19; PIT lies in [below, below + 1) / 20
    counts = np.histogram((below + 0.5) / 20, np.linspace(0, 1, 5))[0]
    bars = [bar.get_height() for bar in left.patches]
    np.testing.assert_allclose(bars, 4 * counts / counts.sum(), atol=1e-9)
    curve = next(line for line in right.lines if line.get_label() == "samples, all genes")
    np.testing.assert_array_equal(curve.get_xdata(), [0.5, 0.9])
    inside = [np.mean((below >= 5) & (below < 15)), np.mean((below >= 1) & (below < 19))]
    np.testing.assert_allclose(curve.get_ydata(), inside, atol=1e-9)
    assert right.get_title() == f"90% intervals hold {inside[1]:.1%}"
    # the middle of genes holds the pooled curve
    band = right.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() < min(inside) and band[:, 1].max() > max(inside)


def test_dashed_lines_are_what_chance_allows_a_calibrated_gene(predicted, sampled):
    """240 spots: 95 % of a binomial, for every level and for every bar."""
    samples, genes, _ = sampled
    left, right = calibration(predicted, samples, genes=genes, levels=(0.5, 0.9), n_bins=4)
    trials = np.random.default_rng(0)
    low, high = (line.get_ydata() for line in right.lines if line.get_linestyle() == "--")
    for level, below, above in zip((0.5, 0.9), low, high, strict=True):
        by_chance = np.quantile(trials.binomial(240, level, 100_000) / 240, [0.025, 0.975])
        np.testing.assert_allclose([below, above], by_chance, atol=1.5 / 240)
    heights = sorted(line.get_ydata()[0] for line in left.lines if line.get_linestyle() == "--")
    by_chance = np.quantile(trials.binomial(240, 1 / 4, 100_000) / 240, [0.025, 0.975])
    np.testing.assert_allclose(heights, 4 * by_chance, atol=4 * 1.5 / 240)


def test_layers_with_bounds_are_points(predicted, sampled):
    samples, genes, _ = sampled
    measured = to_target(predicted.X, None, "log2")
    predicted.layers["low"], predicted.layers["high"] = measured - 1.0, measured + 1.0
    predicted.layers["high"][:60, :] = measured[:60] - 0.5  # a quarter of the spots outside
    _, right = calibration(predicted, samples, genes=genes, intervals={0.8: ("low", "high")})
    (point,) = [line for line in right.lines if "low to high" in str(line.get_label())]
    assert point.get_xdata()[0] == 0.8 and point.get_ydata()[0] == pytest.approx(0.75)
    assert point.get_label() == "low to high: 75.0%"
    predicted.layers["high"][:, :3] = measured[:, :3] - 0.5  # three of thirty genes, outside everywhere
    _, right = calibration(predicted, samples, genes=genes, intervals={0.8: ("low", "high")})
    (bar,) = [part for part in right.collections if hasattr(part, "get_segments")]
    (ends,) = bar.get_segments()
    np.testing.assert_allclose(ends, [[0.8, 0.0], [0.8, 0.75]], atol=1e-9)


def test_every_layer_is_compared_in_its_own_unit(predicted, sampled):
    """Two models have predicted the table, the last one in another unit."""
    samples, genes, _ = sampled
    measured = to_target(predicted.X, None, "log2")
    predicted.layers["mine_q05"], predicted.layers["mine_q95"] = measured - 1, measured + 1
    predicted.uns["flagst"]["predictions"] = {"mine": {"target": "log2"}, "other": {"target": "lognorm"}}
    asked = {"genes": genes, "intervals": {0.9: ("mine_q05", "mine_q95")}}
    found = {}
    for last in ("log2", "lognorm"):
        predicted.uns["flagst"]["params"]["target"] = last
        left, right = calibration(predicted, samples, layer="mine", **asked)
        found[last] = [bar.get_height() for bar in left.patches], right.get_legend_handles_labels()[1]
    assert found["log2"] == found["lognorm"] and "mine_q05 to mine_q95: 100.0%" in found["log2"][1]


def test_genes_without_a_measurement_are_left_out(predicted, sampled):
    samples, genes, _ = sampled
    predicted.var["flagst_measured"] = predicted.var_names != "GENE3"
    counts = predicted.X.toarray()
    counts[:, 5] = 2
    predicted.X = counts
    axes = calibration(predicted, samples, genes=genes)
    assert axes[0].get_title() == "240 spots, 28 genes"


def test_figure_and_file(predicted, sampled, tmp_path):
    samples, genes, _ = sampled
    figure = calibration(predicted, samples, genes=genes, save=tmp_path / "c.png", return_fig=True)
    assert len(figure.axes) == 2 and (tmp_path / "c.png").stat().st_size > 5000


def test_errors(predicted, sampled):
    samples, genes, _ = sampled
    with pytest.raises(ValueError, match=r"\(n_samples, 240, 29\); got \(19, 240, 30\)"):
        calibration(predicted, samples, genes=genes[1:])
    with pytest.raises(KeyError, match="no .*'OTHER'"):
        calibration(predicted, samples, genes=[*genes[1:], "OTHER"])
    with pytest.raises(ValueError, match="Levels must lie between"):
        calibration(predicted, samples, genes=genes, levels=(0.5, 90))
    with pytest.raises(KeyError, match="no 'low'"):
        calibration(predicted, samples, genes=genes, intervals={0.9: ("low", "high")})
    predicted.X = None
    with pytest.raises(ValueError, match="no measured expression"):
        calibration(predicted, samples, genes=genes)
