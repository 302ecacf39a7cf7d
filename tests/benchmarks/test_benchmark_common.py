"""What the benchmarks share: options, jobs, scores of one method, means and interpolation at equal PCC."""

import json
import subprocess
import sys
from types import SimpleNamespace

import anndata as ad
import common
import numpy as np
import pytest

import flagst
from flagst import datasets
from flagst.metrics import morans_i
from flagst.tl import evaluate


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


def curve(method, *, pcc, ssc, shift=0.0):
    """A curve at structures 0, 0.5, 1 for two seeds that differ by ``shift`` in SSC."""
    return [
        record(method, structure, seed, test, pcc=p, ssc=s + seed * shift, gsc=s)
        for structure, p, s in zip((0.0, 0.5, 1.0), pcc, ssc, strict=True)
        for seed in (0, 1)
        for test in ("A", "B")
    ]


def test_interpolation_is_linear_and_order_free():
    structures, pcc, values = [1.0, 0.0, 0.5], [0.2, 0.6, 0.4], [0.9, 0.1, 0.5]
    assert common.interpolate(structures, pcc, values, at=0.5) == pytest.approx(0.3)
    assert common.interpolate(structures, pcc, values, at=0.3) == pytest.approx(0.7)
    assert common.interpolate(structures, pcc, values, at=0.6) == pytest.approx(0.1)
    assert common.interpolate(structures, pcc, values, at=0.2) == pytest.approx(0.9)


def test_no_extrapolation():
    for at in (0.61, 0.19):
        assert common.interpolate([0, 1], [0.6, 0.2], [0, 1], at=at) is None
    assert common.interpolate([0.5], [0.4], [1.0], at=0.4) is None


def test_last_crossing_counts():
    # PCC rises before it falls: 0.5 is passed at structure 0.1 and at 0.75
    value = common.interpolate([0, 0.2, 0.5, 1.0], [0.4, 0.6, 0.6, 0.4], [0, 1, 2, 4], at=0.5)
    assert value == pytest.approx(3.0)


def test_equal_pcc_is_taken_seed_by_seed():
    records = curve("FLAG", pcc=(0.6, 0.5, 0.3), ssc=(0.2, 0.6, 0.7), shift=0.1)
    records += curve("CorrelatedGaussian", pcc=(0.6, 0.4, 0.3), ssc=(0.2, 0.4, 0.5))
    records += curve("IndependentNoise", pcc=(0.54, 0.4, 0.3), ssc=(0.2, 0.4, 0.5))
    records += [record("Ridge", None, seed, "A") for seed in (0, 1)]
    equal = common.at_equal_pcc(records, 0.55)
    assert list(equal) == ["FLAG", "CorrelatedGaussian", "IndependentNoise"]
    np.testing.assert_allclose(equal["FLAG"]["ssc"], [0.4, 0.5])
    np.testing.assert_allclose(equal["CorrelatedGaussian"]["ssc"], [0.25, 0.25])
    assert equal["IndependentNoise"] is None
    best, lead = common.lead_over_noise(equal, "ssc")
    assert best == "CorrelatedGaussian"
    np.testing.assert_allclose(lead, [0.15, 0.25])
    assert "out of range" in common.equal_pcc_table(records, 0.55)
    by = "SSC at PCC 0.55 over the best noise baseline's (CorrelatedGaussian): +0.200, sd over seeds 0.071"
    assert by in common.lead_lines(records, 0.55).splitlines()[-1]
    assert "blocks" not in by and common.lead_lines(records[-2:], 0.55) == ""


def test_best_noise_baseline_is_chosen_per_metric():
    equal = {
        "FLAG": {"gsc": np.array([0.9]), "ssc": np.array([0.9])},
        "IndependentNoise": {"gsc": np.array([0.1]), "ssc": np.array([0.8])},
        "CorrelatedGaussian": {"gsc": np.array([0.7]), "ssc": np.array([0.2])},
    }
    assert common.lead_over_noise(equal, "gsc")[0] == "CorrelatedGaussian"
    assert common.lead_over_noise(equal, "ssc")[0] == "IndependentNoise"
    assert common.lead_over_noise({"FLAG": equal["FLAG"]}, "ssc") is None
    assert common.lead_over_noise(equal | {"FLAG": None}, "ssc") is None


def with_blocks(records, *, n_blocks=4, seed=0):
    """Scores without each block: those of the whole section with noise of their own."""
    rng = np.random.default_rng(seed)
    return [r | {"left_out": {s: list(r[s] + rng.normal(0, 0.01, n_blocks)) for s in common.WITH_SD}} for r in records]


def test_the_error_over_blocks_is_that_of_independent_sections():
    methods = (("FLAG", 0.0, 0.6), ("Ridge", None, 0.5), ("KNN", None, 0.4), ("DepthOracle", None, 0.9))
    plain = [record(m, s, seed, test, pcc=pcc) for m, s, pcc in methods for seed in (0, 1) for test in "ABC"]
    records = with_blocks(plain)
    # (method, seed, test, block): a lead is a mean, so that its error is the sum of those of the sections
    left_out = np.array([r["left_out"]["pcc"] for r in records]).reshape(len(methods), 2, 3, 4)
    differences = (left_out[0] - left_out[1]).mean(axis=0)
    expected = np.sqrt(np.sum(3 * differences.var(axis=1))) / 3
    best, lead = common.lead_in_pcc(records)
    assert best == "Ridge" and lead == pytest.approx([0.1, 0.1])
    pair = [r for r in records if r["method"] in ("FLAG", "Ridge")]
    assert common.block_error(pair, lambda part: common.lead_in_pcc(part)[1].mean()) == pytest.approx(expected)
    assert np.isnan(common.block_error(plain, lambda part: 0.0))
    assert np.isnan(common.block_error(records, lambda part: None))
    (line,) = common.lead_lines(records, 0.55).splitlines()
    assert line.endswith(
        f"(Ridge): +0.100, sd over seeds 0.000, standard error over blocks of the test sections {expected:.3f}"
    )


def test_leads_at_equal_pcc_move_with_the_blocks():
    records = curve("FLAG", pcc=(0.6, 0.5, 0.3), ssc=(0.2, 0.6, 0.7))
    records += curve("BalancedGaussian", pcc=(0.6, 0.4, 0.3), ssc=(0.2, 0.4, 0.5))
    records = [r | {"left_out": {s: [r[s]] * 4 for s in common.WITH_SD}} for r in records]
    for line in common.lead_lines(records, 0.55).splitlines():
        assert line.endswith("over blocks of the test sections 0.000")
    # FLAG's SSC in section A without block 0 is higher by 0.04: the mean over two sections by 0.02
    for r in records:
        r["left_out"]["ssc"][0] += 0.04 * (r["method"] == "FLAG" and r["test"] == "A")
    gsc, ssc = common.lead_lines(records, 0.55).splitlines()
    assert gsc.endswith("sections 0.000") and ssc.endswith(f"sections {np.sqrt(3 * np.var([0.02, 0, 0, 0])):.3f}")


def test_summary_averages_sections_then_seeds():
    records = [
        record("FLAG", 0.5, 0, "A", pcc=0.2, moran_pred=0.1),
        record("FLAG", 0.5, 0, "B", pcc=0.4, moran_pred=0.3),
        record("FLAG", 0.5, 1, "A", pcc=0.4, moran_pred=0.1, peak_mb=300.0),
        record("FLAG", 0.5, 1, "B", pcc=0.6, moran_pred=0.3),
    ]
    row = common.summarise(records)
    assert row["pcc"] == pytest.approx(0.4)
    assert row["pcc_sd"] == pytest.approx(np.std([0.3, 0.5], ddof=1))
    # the signed gaps cancel, the absolute ones do not
    assert row["moran_pred"] == pytest.approx(row["moran_true"]) and row["gap"] == pytest.approx(0.1)
    assert row["peak_mb"] == 300.0
    assert np.isnan(common.summarise(records[:2])["pcc_sd"])


def testcommon_has_a_line_per_method_and_structure():
    records = curve("FLAG", pcc=(0.6, 0.5, 0.3), ssc=(0.2, 0.6, 0.7)) + [record("Ridge", None, 0, "A")]
    lines = common.main_table(records).splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[2].split()[:5] == ["FLAG", "0.5", "0.500", "±", "0.000"]
    assert lines[4].split()[:2] == ["Ridge", "0.500"]  # no structure, no sd
    assert len({len(line) for line in lines}) == 1


def test_no_sampler_no_comparison():
    assert common.equal_pcc_table([record("Ridge", None, 0, "A")], 0.5) == ""


def test_replicates():
    pairs = [{"section": "A", "gsc": 0.8, "ssc": 0.6}, {"section": "B", "gsc": 0.9, "ssc": 0.7}]
    average = [{"section": None, "gsc": 0.92, "ssc": 0.74}, {"section": None, "gsc": 0.94, "ssc": 0.78}]
    single, together = common.replicate_line(pairs + average).splitlines()
    assert "GSC 0.850 (0.800 to 0.900), SSC 0.650 (0.600 to 0.700)" in single
    assert "GSC 0.930 (0.920 to 0.940), SSC 0.760 (0.740 to 0.780)" in together


def test_coverage_line_has_means_over_seeds_and_the_range():
    def of(seed, test, **shares):
        return record("FLAG", 0.0, seed, test) | shares

    records = [
        of(0, "A", coverage=0.9, coverage_raw=0.8, coverage_by_share=0.85),
        of(0, "B", coverage=0.94, coverage_raw=0.84, coverage_by_share=0.91),
        of(1, "A", coverage=0.92, coverage_raw=0.8, coverage_by_share=0.87),
        of(1, "B", coverage=0.96, coverage_raw=0.84, coverage_by_share=0.93),
    ]
    line = common.coverage_line([*records, records[0] | {"structure": 1.0, "coverage": 0.1}])
    assert "cover 0.930 ± 0.014 of the test sections (0.900 to 0.960), 0.890 ± 0.014 with zeros" in line
    assert line.endswith("without calibration 0.820 ± 0.000")
    assert common.coverage_line([record("Ridge", None, 0, "A")]) == ""


def test_residual_line_compares_draws_with_held_out_residuals():
    def of(seed, test, drawn, crossfit):
        return record("FLAG", 0.0, seed, test) | {
            "residual_sample": drawn, "residual_crossfit": crossfit, "residual_test": 0.125,
        }  # fmt: skip

    records = [of(0, "A", 0.1, 0.15), of(0, "B", 0.2, 0.1), of(1, "A", 0.12, 0.15), of(1, "B", 0.22, 0.1)]
    records += [record("Ridge", None, 0, "A"), of(0, "A", 9.0, 9.0) | {"structure": 1.0}]
    line = common.residual_line(records)
    assert "at structure 1 0.160 ± 0.014," in line and "training sections 0.125 " in line
    assert "(difference 0.075, 0.030 to 0.120)" in line and line.endswith("test sections 0.125")
    assert common.residual_line([record("Ridge", None, 0, "A")]) == ""


def options_of(*arguments):
    parser = common.parser("Doc.", *common.OPTIONS, rotate=None)
    options = parser.parse_args(arguments)
    options.splits = common.splits_of(parser, options)
    return options


def test_defaults_are_the_rotation():
    options = options_of()
    assert [s["test"] for s in options.splits] == ["C2", "C3", "C4", "C5"]
    assert options.splits[1]["train"] == ["C2", "C4", "C5"]
    assert (options.target, options.n_genes, options.seeds) == ("log2", 200, [0, 1, 2])
    assert options.structures == [0, 0.2, 0.35, 0.5, 0.7, 1] and len(options.methods) == 9
    assert options_of("--train", "A", "B", "--test", "C").splits == [{"train": ["A", "B"], "test": "C"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train", "A"],
        ["--train", "A", "--test", "A"],
        ["--train", "A", "--test", "B", "--rotate", "A", "B"],
        ["--rotate", "A"],
        ["--methods", "Nothing"],
    ],
)
def test_contradictions_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        options_of(*arguments)
    assert "error:" in capsys.readouterr().err


def test_every_method_has_its_own_jobs():
    options = options_of("--rotate", "A", "B", "C", "--seeds", "0", "1", "--set", "max_steps=7", "gfm=null", "x=y")
    jobs = common.jobs_of(options, {test: f"{test}.h5ad" for test in "ABC"})
    flag = [job for job in jobs if job["method"] == "FLAG"]
    assert jobs[: len(flag)] == flag  # the long ones first
    assert [(job["splits"][0]["test"], job["seeds"]) for job in flag] == [(t, [s]) for t in "ABC" for s in (0, 1)]
    others = [job["method"] for job in jobs[len(flag) :]]
    assert len(others) == len(set(others)) == 8
    assert flag[0]["settings"] == {"max_steps": 7, "gfm": None, "x": "y"}
    assert flag[0]["splits"][0]["file"] == "A.h5ad" and json.loads(json.dumps(jobs)) == jobs


def test_a_failing_job_is_named(tmp_path):
    splits = [{"train": ["A"], "test": "B", "file": "nowhere.h5ad"}]
    with pytest.raises(RuntimeError, match="(?s)common Ridge failed.*nowhere.h5ad"):
        common.run_job({"script": "common", "method": "Ridge", "splits": splits}, tmp_path)


def test_peak_memory_follows_allocation():
    """In a fresh process: the peak of this one may be far above what it holds now."""
    program = (
        "from common import peak_memory_mb; before = peak_memory_mb(); block = b'x' * (40 * 2**20); "
        "print(peak_memory_mb() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", program], cwd=common.HERE, capture_output=True, text=True, check=True)
    assert 30 < float(grown.stdout) < 80


def test_features_are_made_once_and_a_split_has_those_of_its_own_encoder(monkeypatch, tmp_path):
    made, kind = [], {"n_sections": 2, "n_spots": 30, "n_genes": 30}

    def her2st(sections, data_dir):
        made.append(sections)
        return datasets.simulated_sections(**kind)

    monkeypatch.setattr(datasets, "her2st", her2st)
    arguments = ["--rotate", "S1", "S2", "--n-genes", "10", "--cache", str(tmp_path / "cache")]
    options = options_of(*arguments)
    (tmp_path / "first").mkdir()
    ready = common.prepare(options, tmp_path / "first")
    again = common.load(["S2", "S1"], options)
    assert made == [["S2", "S1"]] and len(list((tmp_path / "cache").iterdir())) == 1
    split = ad.read_h5ad(ready["files"]["S1"])
    assert split.shape == (60, 10)
    np.testing.assert_array_equal(split.obsm["X_image"], again.obsm["X_image"])
    assert [(r["test"], r["section"]) for r in ready["replicates"]] == [
        ("S1", None), ("S1", "S2"), ("S2", None), ("S2", "S1"),
    ]  # fmt: skip

    sdata = datasets.simulated_sections(**kind)
    encoder = flagst.pp.fit_encoder(sdata, sections="S2", n_steps=1, progress=False)
    encoder.save(tmp_path / "S1.safetensors")
    options.encoders, options.splits = tmp_path, options.splits[:1]
    split = ad.read_h5ad(common.prepare(options, tmp_path)["files"]["S1"])
    record = split.uns["flagst"]["features"]["X_image"]
    assert record["encoder_params"]["sha256"] == encoder.params()["sha256"]
    assert split.obsm["X_image"].shape == (60, 3 * 374) and len(made) == 2


def test_a_measured_section_stands_in_for_itself():
    """GSC and SSC of the replicate reference are 1 for the same section twice."""
    table = datasets.simulated_sections(n_sections=1, n_spots=60, n_genes=12)["table"]
    twice = ad.concat([table, table], keys=["A", "B"], index_unique="_")
    twice.obs["section"] = np.repeat(["A", "B"], table.n_obs)
    average, single = common.replicate_reference(twice, {"train": ["A"], "test": "B"}, "log2")
    for record in (average, single):
        assert record["gsc"] == pytest.approx(1) and record["ssc"] == pytest.approx(1)


def test_scores_without_a_block_are_those_of_the_intervals():
    """The same scores as flagst.tl.evaluate takes its jackknife intervals from."""
    sdata = datasets.simulated_sections(n_sections=2, n_spots=120, n_genes=15)
    flagst.pp.image_features(sdata, progress=False)
    table = sdata["table"]
    model = flagst.baselines.KNN(common.part_of(table, ["S1"]))
    model.train()
    prediction = model.predict(common.part_of(table, ["S2"]))
    evaluate(prediction, intervals=True)
    intervals = prediction.uns["flagst"]["metrics"]["flagst"]["intervals"]["S2"]
    left_out = common.left_out(prediction, "lognorm")
    assert list(left_out) == list(intervals) == ["pcc", "gsc", "ssc"]
    for name, values in left_out.items():
        n = len(values)
        assert n == intervals[name]["n_blocks"] == 20
        assert np.sqrt((n - 1) * np.var(values)) == pytest.approx(intervals[name]["standard_error"], rel=1e-6)
        assert np.std(values) > 0


@pytest.fixture(scope="module")
def trained():
    """A model of three simulated sections, and a fourth."""
    sdata = datasets.simulated_sections(n_sections=4, n_spots=49, n_genes=12)
    flagst.pp.image_features(sdata, progress=False)
    table = sdata["table"]
    table.X.data = table.X.data // 12  # many zeros
    train, test = common.part_of(table, ["S1", "S2", "S3"]), common.part_of(table, ["S4"])
    flagst.FLAG.setup_anndata(train, section_key="section")
    model = flagst.FLAG(train, target="log2", seed=0)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    return model, test


def test_zeros_at_a_bound_of_zero_are_inside_by_their_probability(trained, monkeypatch):
    """Lots are drawn here, as the randomised PIT does; the benchmark counts each with its probability."""
    monkeypatch.setattr(common, "N_SAMPLES", 20)
    model, test = trained
    found = common.coverage_of(model, test, seed=3)
    curves, measured, calibrated = common.quantiles_of(model, test, 3)
    assert calibrated and list(curves) == list(common.LEVELS)
    np.testing.assert_allclose(measured, np.log2(test[:, model.genes_].X.toarray() + 1))
    low, high = curves[0.05], curves[0.95]
    inside = (measured >= low) & (measured <= high)
    assert found["coverage"] == pytest.approx(inside.mean())
    mass = np.max([np.where(values <= 0, level, 0) for level, values in curves.items()], axis=0)
    tied = (measured == 0) & (low == 0)
    assert tied.mean() > 0.02
    lots = np.random.default_rng(0).uniform(size=(500, *mass.shape)) * mass
    by_lot = np.where(tied, (lots >= 0.05) & (lots <= 0.95), inside & (measured != low))
    assert found["coverage_by_share"] == pytest.approx(by_lot.mean(), abs=0.005)
    assert found["coverage_by_share"] < found["coverage"] - 0.005
    assert found["coverage_raw"] < found["coverage"]
    paper = SimpleNamespace(settings_=SimpleNamespace(cross_fit=False, regression=None))
    assert common.coverage_of(paper, test, 0) == common.residual_moran(paper, test, 0) == {}


def test_residuals_of_a_sample_and_of_the_cross_fitted_mean(trained):
    model, test = trained
    found = common.residual_moran(model, test, seed=1)
    sections = common.arrays(model.adata, model.genes_, "log2")
    stage, crossfit = common.fit_mean(sections)
    means = [stage.scaler.restore(mean) for mean in common.by_section(crossfit, sections)]
    graphs = [common.moran_graph(s.coords, s.layout) for s in sections]
    values = [morans_i(s.target - mean, graph).mean() for s, mean, graph in zip(sections, means, graphs, strict=True)]
    assert found["residual_crossfit"] == pytest.approx(np.mean(values), rel=1e-9) and np.ptp(values) > 0

    mean, sample = (np.asarray(model.predict(test, structure=s, seed=1).layers["flagst"]) for s in (0, 1))
    graph, measured = common.graph_of(test), np.log2(test[:, model.genes_].X.toarray() + 1)
    assert found["residual_sample"] == pytest.approx(morans_i(sample - mean, graph).mean(), abs=1e-6)
    assert found["residual_test"] == pytest.approx(morans_i(measured - mean, graph).mean(), abs=1e-6)


def test_samples_by_prior_share_their_mean_and_nothing_else_is_changed(trained):
    model, test = trained
    query = test[:, model.genes_].copy()
    before = np.asarray(model.predict(query.copy(), structure=1, seed=0).layers["flagst"])
    priors = {"none": (0.0, 0.0), "training": (1.0, 0.0)}
    found = dict(common.samples_by_prior(model, query, priors, (0.0, 1.0)))
    np.testing.assert_array_equal(found["none"][0], found["training"][0])
    assert np.abs(found["none"][1] - found["training"][1]).max() > 0
    after = np.asarray(model.predict(query.copy(), structure=1, seed=0).layers["flagst"])
    np.testing.assert_array_equal(before, after)


def test_cells_of_tables():
    assert common.mean_sd([0.2, 0.4]) == f"0.300 ± {np.std([0.2, 0.4], ddof=1):.3f}"
    assert common.mean_sd([0.25]) == "0.250" and common.dial(None) == "" and common.dial(0.5) == "0.5"
    assert common.settings(["a=1", "b=x", "c=null"]) == {"a": 1, "b": "x", "c": None}
