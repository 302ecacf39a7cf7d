"""The path from features, counts and graph: few packages, the same definitions and choices."""

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import _features_only
import numpy as np
import pytest
import torch

from flagst.data.graph import knn, moran_graph
from flagst.metrics import morans_i
from flagst.model.flag import MAX_WHITE
from flagst.model.training import EMA_DECAY
from flagst.regression import network_folds
from flagst.sampling.fit import fit_before_diffusion
from flagst.settings import Settings
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
    plain = _features_only.PlainFlag.fit(sections, near(sections), seed=0, device="cpu", max_steps=1)
    square = [replace(section, layout="square") for section in sections]
    fitted, _ = fit_before_diffusion(square, Settings(target="log2"))
    for part in ("scale", "components", "sd", "noise", "jitter"):
        np.testing.assert_allclose(getattr(plain.residual, part), getattr(fitted.residual, part), err_msg=part)
    image = sections[0].image, sections[0].neighbours
    np.testing.assert_allclose(plain.stage.predict(*image), fitted.stage.predict(*image))


def near(sections):
    """What Moran's I is taken over on a square array."""
    return [section.neighbours[:, :4] for section in sections]


@pytest.fixture
def sections(archive):
    with np.load(archive) as stored:
        data = dict(stored)
    return [_features_only.read_section(data, name, "C", "log2") for name in "ABC"]


@pytest.mark.parametrize("n_sections", [1, 2, 3])
def test_there_are_as_many_networks_as_folds(sections, n_sections):
    sections = sections[:n_sections]
    plain = _features_only.PlainFlag.fit(sections, near(sections), seed=0, device="cpu", max_steps=1)
    assert len(plain.networks) == (3 if n_sections == 3 else 4)


@pytest.mark.parametrize("n_sections", [2, 3])
def test_no_network_is_trained_on_its_fold(sections, n_sections):
    """States carry the number of their spot, so that windows tell where they come from."""
    sections = sections[:n_sections]
    plain = _features_only.PlainFlag.fit(sections, near(sections), seed=0, device="cpu", max_steps=1)
    n_spots = 36 * n_sections
    number = np.arange(n_spots)[:, None].astype(float)
    fold = np.concatenate(network_folds([s.coords for s in sections]))
    windows = plain.windows(sections, np.zeros((n_spots, 6)), number, number)
    for network in range(len(plain.networks)):
        parts = [part["state"][:, 0].int().tolist() for k, part in windows if k == network]
        assert all(len({spot // 36 for spot in part}) == 1 for part in parts)
        assert sorted(sum(parts, [])) == np.flatnonzero(fold != network).tolist()


def test_networks_take_turns(sections, monkeypatch):
    plain = _features_only.PlainFlag.fit(sections, near(sections), seed=0, device="cpu", max_steps=1)
    calls, kept = [], _features_only._denoise

    def recorded(network, *args):
        calls.append(next(k for k, own in enumerate(plain.networks) if own is network))
        return kept(network, *args)

    monkeypatch.setattr(_features_only, "_denoise", recorded)
    plain.predict(sections[0], structure=1.0, seed=0)
    assert calls == [step % 3 for step in range(_features_only.N_SOLVER_STEPS)]


@pytest.mark.parametrize("balance_noise", [True, False])
def test_the_same_weights_draw_what_the_model_draws(sections, monkeypatch, balance_noise):
    """The model's prediction from the loop's networks: the same noise, turns, solver and decoding."""
    from flagst.model.predicting import SectionPredictor

    from flagst.module import FlagModule
    from flagst.sampling.fit import Fitted

    monkeypatch.setattr(_features_only, "N_LATENT", 3)  # leaves noise of the genes, and axes enough to balance it
    plain = _features_only.PlainFlag.fit(sections, near(sections), seed=0, device="cpu", max_steps=20)
    assert plain.residual.noise.min() > 0.1
    plain.residual = replace(plain.residual, jitter=np.full(len(plain.residual.sd), 0.3))
    module = FlagModule(plain.d_image, 6, _features_only.N_LATENT, n_networks=3).eval()
    for found, own in zip(module.networks, plain.networks, strict=True):
        found.load_state_dict(own.state_dict())
    fitted = Fitted(plain.stage, plain.residual, np.zeros(6), {"square": plain.order})
    settings = Settings(target="log2", n_latent=3, balance_noise=balance_noise)
    predictor = SectionPredictor(replace(sections[0], layout="square"), fitted, settings, module)
    expected, _ = predictor.predict(0.7, 3)
    apart = np.abs(plain.predict(sections[0], structure=0.7, seed=3) - expected).max()
    assert apart < 1e-5 if balance_noise else apart > 0.1


def test_a_step_moves_one_network_and_its_average_slowly(sections, monkeypatch):
    """One step of one network of three: the average moves by its share, the other networks not at all."""
    plain = _features_only.PlainFlag.fit(sections, near(sections), seed=0, device="cpu", max_steps=1)
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in plain.networks]
    head = torch.nn.Linear(1, 1)
    seen = []

    def loss(network, head, part, process):
        seen.append([k for k, own in enumerate(plain.networks) if own is network][0])
        return sum(p.sum() for p in network.parameters())

    monkeypatch.setattr(_features_only, "_loss", loss)
    _features_only.optimise(plain.networks, [head] * 3, [(1, {})], plain.process, 1)
    assert seen == [1]
    for number, network in enumerate(plain.networks):
        moved = max(float((before[number][k] - v).abs().max()) for k, v in network.state_dict().items())
        if number == 1:
            # one step of Adam is as long as the learning rate, here at its start of a 25th
            step = _features_only.LEARNING_RATE / 25 * (1 - EMA_DECAY)
            assert moved == pytest.approx(step, rel=0.3)
        else:
            assert moved == 0


def test_what_is_not_done_is_said(sections):
    """Two defaults of the model are left out; a third needs a sentence there too."""
    stated = " ".join(_features_only.__doc__.split())
    assert "but for two that are not done here: the spread of the draws set on held-out tissue" in stated
    assert "less trust in the training sections' spatial order where tissue is unlike theirs" in stated
    assert "three networks that each leave out every third section and take turns in a draw" in stated
    # and it is not done: the residual model leaves as it was fitted
    plain = _features_only.PlainFlag.fit(sections, near(sections), seed=0, device="cpu", max_steps=3)
    assert (plain.residual.jitter == 0).all()


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
    assert settings.cross_fit and settings.match_moran and settings.balance_noise
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
