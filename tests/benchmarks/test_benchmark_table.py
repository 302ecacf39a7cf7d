"""Means, spreads and interpolation at equal PCC."""

import _table
import numpy as np
import pytest


def record(method, structure, seed, test, **scores):
    values = {
        "pcc": 0.5,
        "pcc50": 0.6,
        "mse": 1.0,
        "gsc": 0.7,
        "ssc": 0.4,
        "moran_pred": 0.3,
        "moran_true": 0.2,
    }
    base = {
        "method": method,
        "structure": structure,
        "seed": seed,
        "test": test,
        "seconds": 2.0,
        "peak_mb": 100.0,
    }
    return base | values | scores


def front(method, *, pcc, ssc, shift=0.0):
    """A front at structures 0, 0.5, 1 for two seeds that differ by ``shift`` in SSC."""
    return [
        record(method, structure, seed, test, pcc=p, ssc=s + seed * shift, gsc=s)
        for structure, p, s in zip((0.0, 0.5, 1.0), pcc, ssc, strict=True)
        for seed in (0, 1)
        for test in ("A", "B")
    ]


def test_interpolation_is_linear_and_order_free():
    structures, pcc, values = [1.0, 0.0, 0.5], [0.2, 0.6, 0.4], [0.9, 0.1, 0.5]
    assert _table.interpolate(structures, pcc, values, at=0.5) == pytest.approx(0.3)
    assert _table.interpolate(structures, pcc, values, at=0.3) == pytest.approx(0.7)
    assert _table.interpolate(structures, pcc, values, at=0.6) == pytest.approx(0.1)
    assert _table.interpolate(structures, pcc, values, at=0.2) == pytest.approx(0.9)


def test_no_extrapolation():
    for at in (0.61, 0.19):
        assert _table.interpolate([0, 1], [0.6, 0.2], [0, 1], at=at) is None
    assert _table.interpolate([0.5], [0.4], [1.0], at=0.4) is None


def test_last_crossing_counts():
    # PCC rises before it falls: 0.5 is passed at structure 0.1 and at 0.75
    value = _table.interpolate([0, 0.2, 0.5, 1.0], [0.4, 0.6, 0.6, 0.4], [0, 1, 2, 4], at=0.5)
    assert value == pytest.approx(3.0)


def test_equal_pcc_is_taken_seed_by_seed():
    records = front("FLAG", pcc=(0.6, 0.5, 0.3), ssc=(0.2, 0.6, 0.7), shift=0.1)
    records += front("CorrelatedGaussian", pcc=(0.6, 0.4, 0.3), ssc=(0.2, 0.4, 0.5))
    records += front("IndependentNoise", pcc=(0.54, 0.4, 0.3), ssc=(0.2, 0.4, 0.5))
    records += [record("Ridge", None, seed, "A") for seed in (0, 1)]
    equal = _table.at_equal_pcc(records, 0.55)
    assert list(equal) == ["FLAG", "CorrelatedGaussian", "IndependentNoise"]
    np.testing.assert_allclose(equal["FLAG"]["ssc"], [0.4, 0.5])
    np.testing.assert_allclose(equal["CorrelatedGaussian"]["ssc"], [0.25, 0.25])
    assert equal["IndependentNoise"] is None
    best, lead = _table.lead_over_noise(equal, "ssc")
    assert best == "CorrelatedGaussian"
    np.testing.assert_allclose(lead, [0.15, 0.25])
    assert "out of range" in _table.equal_pcc_table(records, 0.55)
    by = "SSC at PCC 0.55 over the best noise baseline's (CorrelatedGaussian): +0.200, sd over seeds 0.071"
    assert by in _table.lead_lines(records, 0.55).splitlines()[-1]
    assert "blocks" not in by and _table.lead_lines(records[-2:], 0.55) == ""


def test_best_noise_baseline_is_chosen_per_metric():
    equal = {
        "FLAG": {"gsc": np.array([0.9]), "ssc": np.array([0.9])},
        "IndependentNoise": {"gsc": np.array([0.1]), "ssc": np.array([0.8])},
        "CorrelatedGaussian": {"gsc": np.array([0.7]), "ssc": np.array([0.2])},
    }
    assert _table.lead_over_noise(equal, "gsc")[0] == "CorrelatedGaussian"
    assert _table.lead_over_noise(equal, "ssc")[0] == "IndependentNoise"
    assert _table.lead_over_noise({"FLAG": equal["FLAG"]}, "ssc") is None
    assert _table.lead_over_noise(equal | {"FLAG": None}, "ssc") is None


def with_blocks(records, *, n_blocks=4, seed=0):
    """Scores without each block: those of the whole section with noise of their own."""
    rng = np.random.default_rng(seed)
    return [
        r | {"left_out": {s: list(r[s] + rng.normal(0, 0.01, n_blocks)) for s in _table.WITH_SPREAD}} for r in records
    ]


def test_the_error_over_blocks_is_that_of_independent_sections():
    methods = (("FLAG", 0.0, 0.6), ("Ridge", None, 0.5), ("KNN", None, 0.4), ("DepthOracle", None, 0.9))
    plain = [record(m, s, seed, test, pcc=pcc) for m, s, pcc in methods for seed in (0, 1) for test in "ABC"]
    records = with_blocks(plain)
    # (method, seed, test, block): a lead is a mean, so that its error is the sum of those of the sections
    left_out = np.array([r["left_out"]["pcc"] for r in records]).reshape(len(methods), 2, 3, 4)
    differences = (left_out[0] - left_out[1]).mean(axis=0)
    expected = np.sqrt(np.sum(3 * differences.var(axis=1))) / 3
    best, lead = _table.lead_in_pcc(records)
    assert best == "Ridge" and lead == pytest.approx([0.1, 0.1])
    pair = [r for r in records if r["method"] in ("FLAG", "Ridge")]
    assert _table.block_error(pair, lambda part: _table.lead_in_pcc(part)[1].mean()) == pytest.approx(expected)
    assert np.isnan(_table.block_error(plain, lambda part: 0.0))
    assert np.isnan(_table.block_error(records, lambda part: None))
    (line,) = _table.lead_lines(records, 0.55).splitlines()
    assert line.endswith(
        f"(Ridge): +0.100, sd over seeds 0.000, standard error over blocks of the test sections {expected:.3f}"
    )


def test_leads_at_equal_pcc_move_with_the_blocks():
    records = front("FLAG", pcc=(0.6, 0.5, 0.3), ssc=(0.2, 0.6, 0.7))
    records += front("BalancedGaussian", pcc=(0.6, 0.4, 0.3), ssc=(0.2, 0.4, 0.5))
    records = [r | {"left_out": {s: [r[s]] * 4 for s in _table.WITH_SPREAD}} for r in records]
    for line in _table.lead_lines(records, 0.55).splitlines():
        assert line.endswith("over blocks of the test sections 0.000")
    # FLAG's SSC in section A without block 0 is higher by 0.04: the mean over two sections by 0.02
    for r in records:
        r["left_out"]["ssc"][0] += 0.04 * (r["method"] == "FLAG" and r["test"] == "A")
    gsc, ssc = _table.lead_lines(records, 0.55).splitlines()
    assert gsc.endswith("sections 0.000") and ssc.endswith(f"sections {np.sqrt(3 * np.var([0.02, 0, 0, 0])):.3f}")


def test_summary_averages_sections_then_seeds():
    records = [
        record("FLAG", 0.5, 0, "A", pcc=0.2, moran_pred=0.1),
        record("FLAG", 0.5, 0, "B", pcc=0.4, moran_pred=0.3),
        record("FLAG", 0.5, 1, "A", pcc=0.4, moran_pred=0.1, peak_mb=300.0),
        record("FLAG", 0.5, 1, "B", pcc=0.6, moran_pred=0.3),
    ]
    row = _table.summarise(records)
    assert row["pcc"] == pytest.approx(0.4)
    assert row["pcc_sd"] == pytest.approx(np.std([0.3, 0.5], ddof=1))
    # the signed gaps cancel, the absolute ones do not
    assert row["moran_pred"] == pytest.approx(row["moran_true"]) and row["gap"] == pytest.approx(0.1)
    assert row["peak_mb"] == 300.0
    assert np.isnan(_table.summarise(records[:2])["pcc_sd"])


def test_table_has_a_line_per_method_and_structure():
    records = front("FLAG", pcc=(0.6, 0.5, 0.3), ssc=(0.2, 0.6, 0.7)) + [record("Ridge", None, 0, "A")]
    lines = _table.main_table(records).splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[2].split()[:5] == ["FLAG", "0.5", "0.500", "±", "0.000"]
    assert lines[4].split()[:2] == ["Ridge", "0.500"]  # no dial, no spread
    assert len({len(line) for line in lines}) == 1


def test_no_sampler_no_comparison():
    assert _table.equal_pcc_table([record("Ridge", None, 0, "A")], 0.5) == ""


def test_replicates():
    pairs = [{"section": "A", "gsc": 0.8, "ssc": 0.6}, {"section": "B", "gsc": 0.9, "ssc": 0.7}]
    average = [{"section": None, "gsc": 0.92, "ssc": 0.74}, {"section": None, "gsc": 0.94, "ssc": 0.78}]
    single, together = _table.replicate_line(pairs + average).splitlines()
    assert "GSC 0.850 (0.800 to 0.900), SSC 0.650 (0.600 to 0.700)" in single
    assert "GSC 0.930 (0.920 to 0.940), SSC 0.760 (0.740 to 0.780)" in together


def test_coverage_line_has_means_over_seeds_and_the_range():
    def of(seed, test, **shares):
        return record("FLAG", 0.0, seed, test) | shares

    records = [
        of(0, "A", coverage=0.9, coverage_raw=0.8, coverage_by_lot=0.85),
        of(0, "B", coverage=0.94, coverage_raw=0.84, coverage_by_lot=0.91),
        of(1, "A", coverage=0.92, coverage_raw=0.8, coverage_by_lot=0.87),
        of(1, "B", coverage=0.96, coverage_raw=0.84, coverage_by_lot=0.93),
    ]
    line = _table.coverage_line([*records, records[0] | {"structure": 1.0, "coverage": 0.1}])
    assert "cover 0.930 ± 0.014 of the test sections (0.900 to 0.960), 0.890 ± 0.014 with zeros" in line
    assert line.endswith("as they are, 0.820 ± 0.000")
    assert _table.coverage_line([record("Ridge", None, 0, "A")]) == ""


def test_residual_line_compares_draws_with_held_out_residuals():
    def of(seed, test, drawn, crossfit):
        return record("FLAG", 0.0, seed, test) | {
            "residual_drawn": drawn, "residual_crossfit": crossfit, "residual_test": 0.125,
        }  # fmt: skip

    records = [of(0, "A", 0.1, 0.15), of(0, "B", 0.2, 0.1), of(1, "A", 0.12, 0.15), of(1, "B", 0.22, 0.1)]
    records += [record("Ridge", None, 0, "A"), of(0, "A", 9.0, 9.0) | {"structure": 1.0}]
    line = _table.residual_line(records)
    assert "add to the mean 0.160 ± 0.014," in line and "training sections 0.125 " in line
    assert "(apart by 0.075, 0.030 to 0.120)" in line and line.endswith("test sections 0.125")
    assert _table.residual_line([record("Ridge", None, 0, "A")]) == ""
