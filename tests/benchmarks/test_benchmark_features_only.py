"""The path from features, counts and graph: few packages, the same definitions and choices."""

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import _features_only
import numpy as np
import pytest

from flagst.data.graph import knn, moran_graph
from flagst.metrics import morans_i
from flagst.model.fitting import fit_before_diffusion
from flagst.model.flag import FLAG, MAX_WHITE
from flagst.model.presets import Settings
from flagst.model.training import EMA_DECAY
from flagst.train import FlagTrainingPlan

BENCHMARKS = Path(_features_only.__file__).parent
BLOCKED = ("scipy", "anndata", "scvi", "sklearn", "pandas", "lightning", "scanpy")


@pytest.fixture
def archive(tmp_path):
    """Three sections of 36 spots, 8 genes, 12 features, as ``--export`` writes them."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2) * 200
    features = rng.normal(size=(108, 12)).astype(np.float32)
    counts = rng.poisson(np.exp(0.4 * features @ rng.normal(size=(12, 8)) + 1))
    neighbours, distances = knn(grid, 18)
    path = tmp_path / "tiny.npz"
    np.savez(
        path,
        sections=np.array(["A", "B", "C"]),
        section=np.repeat([0, 1, 2], 36),
        spot_names=np.array([f"s{i}" for i in range(108)]),
        coords=np.tile(grid, (3, 1)),
        features=features,
        counts=counts,
        total_counts=counts.sum(axis=1) + 10.0,
        neighbours=np.tile(neighbours, (3, 1)),
        distances=np.tile(distances, (3, 1)),
        moran_neighbours=np.array([4, 4, 4]),
        genes=np.array([f"g{i}" for i in range(8)]),
        panel_C=np.arange(8) < 6,
    )
    return path


def job(archive, method, **changes):
    base = {
        "features": str(archive),
        "method": method,
        "target": "log2",
        "structures": [0.0, 0.5, 1.0],
        "seeds": [0],
        "splits": [{"train": ["A", "B"], "test": "C"}],
        "device": "cpu",
        "settings": {"max_steps": 3},
    }
    return base | changes


def test_runs_without_the_single_cell_packages(archive, tmp_path):
    program = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
sys.path.insert(0, {str(BENCHMARKS)!r})
import her2st, _features_only
options = her2st.parse(["--features", {str(archive)!r}, "--train", "A", "B", "--test", "C", "--seeds", "0",
                        "--set", "max_steps=3"])
for job in her2st.jobs_of(options, {{}}):
    for record in _features_only.run(job):
        print(record["method"], record["structure"], record["n_genes"], record["pcc"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["FLAG"] * 6 + ["Ridge"]
    assert all(line[2] == "6" and -1 <= float(line[3]) <= 1 for line in lines)


def test_same_seed_same_records(archive):
    first, again = (_features_only.run(job(archive, "FLAG")) for _ in range(2))
    other = _features_only.run(job(archive, "FLAG", seeds=[1]))
    assert [r["gsc"] for r in first] == [r["gsc"] for r in again]
    assert first[0]["gsc"] == other[0]["gsc"]  # structure 0: the fitted mean, free of the seed
    assert first[2]["gsc"] != other[2]["gsc"]


def test_panel_of_the_split_is_used(archive):
    split = {"train": ["B", "C"], "test": "A"}
    assert _features_only.run(job(archive, "Ridge", splits=[split]))[0]["n_genes"] == 8
    with pytest.raises(ValueError, match="no section 'D'"):
        _features_only.run(job(archive, "Ridge", splits=[{"train": ["A"], "test": "D"}]))


def test_moran_graph_is_the_package_s(archive):
    with np.load(archive) as stored:
        data = dict(stored)
    section = _features_only.read_section(data, "A", "A", "log2")
    expected = moran_graph(section.coords, "square")
    values = morans_i(section.target, _features_only.moran_graph(data, section))
    np.testing.assert_allclose(values, morans_i(section.target, expected))


def test_what_comes_before_the_diffusion_is_the_model_s(archive):
    with np.load(archive) as stored:
        data = dict(stored)
    sections = [_features_only.read_section(data, name, "C", "log2") for name in "ABC"]
    near = [_features_only.moran_neighbours(data, section) for section in sections]
    plain = _features_only.PlainFlag.fit(sections, near, seed=0, device="cpu", max_steps=1)
    square = [replace(section, layout="square") for section in sections]
    fitted, _ = fit_before_diffusion(square, Settings(target="log2"))
    for part in ("scale", "components", "sd", "noise"):
        np.testing.assert_allclose(getattr(plain.residual, part), getattr(fitted.residual, part), err_msg=part)
    image = sections[0].image, sections[0].neighbours
    np.testing.assert_allclose(plain.stage.predict(*image), fitted.stage.predict(*image))


def test_what_is_not_done_is_said():
    """Two defaults of the model are left out; a third needs a sentence there too."""
    assert inspect.signature(FLAG.train).parameters["early_stopping"].default is True
    stated = " ".join(_features_only.__doc__.split())
    assert "two that are not done here: early stopping" in stated and "spread of the draws" in stated


def test_choices_are_the_model_s_defaults():
    """The loop repeats FLAG's defaults because importing them would import scvi-tools."""
    settings = Settings()
    assert (settings.regression, settings.denoiser, settings.process, settings.solver) == (
        "mixed",
        "latent",
        "edm",
        "dpm++2m",
    )
    assert settings.joint and settings.edges and settings.diffusion and settings.n_average == 1
    assert settings.gfm == "coexpression" and settings.network == {}
    assert _features_only.N_LATENT == settings.n_latent
    assert _features_only.MAX_STEPS == settings.max_steps
    assert _features_only.N_SOLVER_STEPS == settings.n_steps
    assert _features_only.ALIGN_WEIGHT == settings.align_weight
    assert (_features_only.MAX_WHITE, _features_only.EMA_DECAY) == (MAX_WHITE, EMA_DECAY)
    plan = inspect.signature(FlagTrainingPlan).parameters
    assert _features_only.LEARNING_RATE == plan["lr"].default
    assert _features_only.WEIGHT_DECAY == plan["weight_decay"].default
    assert _features_only.CLIP == plan["gradient_clip"].default
