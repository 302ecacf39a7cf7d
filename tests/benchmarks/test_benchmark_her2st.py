"""Command line, jobs, and a small run on real sections."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import _methods
import _prepare
import _processes
import anndata as ad
import her2st
import numpy as np
import pytest

import flagst
from flagst import datasets
from flagst.data.graph import moran_graph
from flagst.metrics import morans_i
from flagst.regression import RegressionStage
from flagst.sampling.quantiles import LEVELS
from flagst.tl import evaluate


def test_defaults_are_the_rotation():
    options = her2st.parse([])
    assert [s["test"] for s in options.splits] == ["C2", "C3", "C4", "C5"]
    assert options.splits[1]["train"] == ["C2", "C4", "C5"]
    assert (options.target, options.n_genes, options.seeds) == ("log2", 200, [0, 1, 2])
    assert options.structures == [0, 0.2, 0.35, 0.5, 0.7, 1] and len(options.methods) == 9


def test_single_split():
    options = her2st.parse(["--train", "A", "B", "--test", "C"])
    assert options.splits == [{"train": ["A", "B"], "test": "C"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train", "A"],
        ["--train", "A", "--test", "A"],
        ["--train", "A", "--test", "B", "--rotate", "A", "B"],
        ["--rotate", "A"],
        ["--methods", "Nothing"],
        ["--features", "f.npz", "--methods", "KNN"],
        ["--features", "f.npz", "--preset", "paper"],
        ["--features", "f.npz", "--encoders", "folder"],
        ["--export", "f.npz", "--encoders", "folder"],
    ],
)
def test_contradictions_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        her2st.parse(arguments)
    assert "error:" in capsys.readouterr().err


def test_every_method_has_its_own_jobs():
    options = her2st.parse(["--rotate", "A", "B", "C", "--seeds", "0", "1", "--set", "max_steps=7", "gfm=null", "x=y"])
    jobs = her2st.jobs_of(options, {"A": "a.h5ad"})
    flag = [job for job in jobs if job["method"] == "FLAG"]
    assert jobs[: len(flag)] == flag  # the long ones first
    assert [(job["splits"][0]["test"], job["seeds"]) for job in flag] == [(t, [s]) for t in "ABC" for s in (0, 1)]
    others = [job["method"] for job in jobs[len(flag) :]]
    assert len(others) == len(set(others)) == 8
    assert flag[0]["settings"] == {"max_steps": 7, "gfm": None, "x": "y"}
    assert flag[0]["splits"][0]["file"] == "a.h5ad"


def test_every_split_has_the_features_of_its_own_encoder(monkeypatch, tmp_path):
    sdata = datasets.simulated_sections(n_sections=2, n_spots=30, n_genes=30)
    monkeypatch.setattr(_prepare.datasets, "her2st", lambda sections, data_dir: sdata)
    made = {}
    for test, train in (("S1", "S2"), ("S2", "S1")):
        made[test] = flagst.pp.fit_encoder(sdata, sections=train, n_steps=1, progress=False)
        made[test].save(tmp_path / f"{test}.safetensors")
    arguments = ["--rotate", "S1", "S2", "--n-genes", "10", "--encoders", str(tmp_path)]
    options, ran = her2st.parse(arguments), []

    def run_here(job, folder):
        ran.append(_prepare.prepare(job))
        return {"result": ran[0], "peak_mb": 0.0}

    monkeypatch.setattr(her2st, "run_job", run_here)
    her2st.prepare(options, tmp_path)
    for test, encoder in made.items():
        split = ad.read_h5ad(ran[0]["files"][test])
        record = split.uns["flagst"]["features"]["X_image"]
        assert record["encoder_params"]["sha256"] == encoder.params()["sha256"]
        assert split.shape == (60, 10) and split.obsm["X_image"].shape == (60, 3 * 374)
    assert made["S1"].params() != made["S2"].params()


def test_peak_memory_follows_allocation():
    """In a fresh process: the peak of this one may be far above what it holds now."""
    program = (
        "from _processes import peak_memory_mb; before = peak_memory_mb(); block = b'x' * (40 * 2**20); "
        "print(peak_memory_mb() - before)"
    )
    folder = Path(_processes.__file__).parent
    grown = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert 30 < float(grown.stdout) < 80


def test_a_failing_method_is_named(tmp_path):
    job = {
        "kind": "method",
        "method": "Ridge",
        "splits": [{"train": ["A"], "test": "B", "file": "nowhere.h5ad"}],
    }
    with pytest.raises(RuntimeError, match="(?s)method Ridge failed.*nowhere.h5ad"):
        _processes.run_job(job, tmp_path)


def test_scores_without_a_block_are_those_of_the_intervals():
    """The same scores as flagst.tl.evaluate takes its jackknife intervals from."""
    sdata = datasets.simulated_sections(n_sections=2, n_spots=120, n_genes=15)
    flagst.pp.image_features(sdata, progress=False)
    table = sdata["table"]
    first = (table.obs["section"] == "S1").to_numpy()
    model = flagst.baselines.KNN(table[first].copy())
    model.train()
    prediction = model.predict(table[~first].copy())
    evaluate(prediction, intervals=True)
    intervals = prediction.uns["flagst"]["metrics"]["flagst"]["intervals"]["S2"]
    left_out = _methods._left_out(prediction, "S2")
    assert list(left_out) == list(intervals) == ["pcc", "gsc", "ssc"]
    for name, values in left_out.items():
        n = len(values)
        assert n == intervals[name]["n_blocks"] == 20
        assert np.sqrt((n - 1) * np.var(values)) == pytest.approx(intervals[name]["standard_error"], rel=1e-6)
        assert np.std(values) > 0


@pytest.fixture(scope="module")
def trained():
    """A model of three simulated sections, and a fourth."""
    sdata = datasets.simulated_sections(n_sections=4, n_spots=60, n_genes=12)
    flagst.pp.image_features(sdata, progress=False)
    table = sdata["table"]
    table.X.data = table.X.data // 12  # many zeros
    held = (table.obs["section"] == "S4").to_numpy()
    train, test = table[~held].copy(), table[held].copy()
    flagst.FLAG.setup_anndata(train, section_key="section")
    model = flagst.FLAG(train, target="log2", seed=0)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    return model, test


def test_zeros_at_a_bound_of_zero_are_inside_by_lot(trained):
    """Lots are drawn here, as the randomised PIT does; the benchmark counts each with its probability."""
    model, test = trained
    found = _methods._coverage(model, test, seed=3)
    draws = model.sample(test, _methods.N_SAMPLES, seed=3)
    measured = np.log2(test[:, model.genes_].X.toarray() + 1)
    curves = model.intervals_.move(draws, tuple(LEVELS))
    low, high = curves[np.isclose(LEVELS, 0.05)][0], curves[np.isclose(LEVELS, 0.95)][0]
    inside = (measured >= low) & (measured <= high)
    assert found["coverage"] == pytest.approx(inside.mean())
    mass = np.where(curves <= 0, LEVELS[:, None, None], 0).max(axis=0)
    tied = (measured == 0) & (low == 0)
    assert tied.mean() > 0.02
    lots = np.random.default_rng(0).uniform(size=(2000, *mass.shape)) * mass
    by_lot = np.where(tied, (lots >= 0.05) & (lots <= 0.95), inside & (measured != low))
    assert found["coverage_by_lot"] == pytest.approx(by_lot.mean(), abs=0.005)
    assert found["coverage_by_lot"] < found["coverage"] - 0.005


def test_residuals_of_a_draw_and_of_the_cross_fitted_mean(trained):
    model, test = trained
    found = _methods._residual_order(model, test, seed=1)

    sections = model._sections(model.adata, measured=True)
    parts = [[getattr(s, name) for s in sections] for name in ("image", "neighbours", "coords", "target")]
    stage, crossfit = RegressionStage.fit(*parts)
    left = np.split(np.concatenate(parts[-1]) - stage.scaler.restore(crossfit), 3)
    orders = [morans_i(r, moran_graph(s.coords, s.layout)).mean() for r, s in zip(left, sections, strict=True)]
    assert found["residual_crossfit"] == pytest.approx(np.mean(orders), rel=1e-9)
    assert np.ptp(orders) > 0

    mean, drawn = (np.asarray(model.predict(test, structure=s, seed=1).layers["flagst"]) for s in (0, 1))
    graph = moran_graph(test.obsm["spatial"], sections[0].layout)
    measured = np.log2(test[:, model.genes_].X.toarray() + 1)
    assert found["residual_drawn"] == pytest.approx(morans_i(drawn - mean, graph).mean(), abs=1e-6)
    assert found["residual_test"] == pytest.approx(morans_i(measured - mean, graph).mean(), abs=1e-6)
    assert _methods._residual_order(SimpleNamespace(fitted_=SimpleNamespace(residual=None)), test, 0) == {}


@pytest.mark.slow
def test_small_run_on_real_sections(her2st_dir, tmp_path, capsys):
    """Records have exactly the agreed keys, and structure 0 of a sampler is ridge."""
    file, archive = tmp_path / "out.json", tmp_path / "out.npz"
    her2st.main(
        f"--data-dir {her2st_dir} --train C3 C4 --test C2 --n-genes 25 --seeds 0 1 --structures 0 1 "
        f"--target lognorm --methods Ridge IndependentNoise --json {file} --export {archive}".split()
    )
    records = json.loads(file.read_text())
    assert [(r["method"], r["structure"], r["seed"]) for r in records] == [
        ("Ridge", None, 0), ("Ridge", None, 1),
        ("IndependentNoise", 0, 0), ("IndependentNoise", 0, 1),
        ("IndependentNoise", 1, 0), ("IndependentNoise", 1, 1),
    ]  # fmt: skip
    for r in records:
        assert tuple(r) == her2st.KEYS
        assert r["target"] == "lognorm" and r["test"] == "C2" and r["n_genes"] == 25
        # a baseline's process holds no torch, whatever the process that started it holds
        assert r["seconds"] > 0 and 50 < r["peak_mb"] < 700
    scores = ("pcc", "pcc50", "mse", "gsc", "ssc", "moran_pred", "moran_true")
    assert [records[0][s] for s in scores] == [records[2][s] for s in scores]
    assert records[0]["pcc"] > 0.3 and 0 < records[0]["moran_true"] < records[0]["moran_pred"]
    printed = capsys.readouterr().out
    for line in ("Replicate reference", "of the training sections against", "At equal PCC 0.24"):
        assert line in printed
    with np.load(archive) as stored:
        assert stored["counts"].shape == (551, 25) and stored["panel_C2"].all()

    # the same numbers from features, counts and graph alone
    her2st.main(
        f"--features {archive} --train C3 C4 --test C2 --seeds 0 --target lognorm --methods Ridge --json {file}".split()
    )
    again = json.loads(file.read_text())[0]
    np.testing.assert_allclose([again[s] for s in scores], [records[0][s] for s in scores], rtol=1e-4)
