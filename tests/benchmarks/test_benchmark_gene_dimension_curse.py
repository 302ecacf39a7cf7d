"""Panels round a core, and the diffusions that the curse is shown with."""

import json
from types import SimpleNamespace

import _graph_diffusion
import gene_dimension_curse as curse
import numpy as np
import pytest
import torch

from flagst import metrics
from flagst.data.graph import knn
from flagst.data.sections import Section


def _section(name, seed, n_genes=8):
    """Expression of two smooth programs, which the image shows."""
    rng = np.random.default_rng([seed, 1])
    grid = 100.0 * np.stack(np.meshgrid(np.arange(9), np.arange(9)), -1).reshape(-1, 2)
    programs = np.sin(grid @ rng.normal(size=(2, 2)) / 150)
    image = programs @ np.random.default_rng(0).normal(size=(2, 5)) + 0.1 * rng.normal(size=(81, 5))
    target = 3 + programs @ np.random.default_rng(1).normal(size=(2, n_genes)) + 0.2 * rng.normal(size=(81, n_genes))
    names = np.array([f"{name}_{i}" for i in range(81)])
    near = knn(grid, 18)
    return Section(name, names, grid, image.astype(np.float32), *near, target.astype(np.float32), layout="square")


@pytest.mark.parametrize("joint", [False, True])
def test_a_trained_diffusion_follows_the_tissue(joint):
    model = _graph_diffusion.GraphDiffusionModel(joint=joint, seed=0, max_steps=200)
    model.fit([_section("A", 0), _section("B", 1)])
    test = _section("C", 2)
    drawn = model.predict(test)
    assert drawn.shape == (81, 8) and np.isfinite(drawn).all()
    assert metrics.pcc(drawn, test.target) > 0.4
    np.testing.assert_array_equal(model.predict(test), drawn)
    assert (model.network.edges is not None) == joint


def test_rows_of_the_joint_state_are_spots_then_correlations():
    section = _section("A", 0)
    model = _graph_diffusion.GraphDiffusionModel(joint=True, seed=0, max_steps=2)
    model.fit([section])
    state = model._state(section).numpy()
    assert state.shape == (81 + 8, 8)
    expected = np.corrcoef(section.target.T)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(state[81:] * expected.std(ddof=1), expected, atol=1e-4)


def test_noise_of_the_correlations_is_symmetric():
    noise = _graph_diffusion._symmetric_noise(torch.empty(13, 5), 8)
    assert torch.equal(noise[8:], noise[8:].T) and noise.std() > 0.5


def test_the_consistency_loss_sees_correlations_that_do_not_fit():
    """Only in the joint model, and only through the edges' rows."""
    section = _section("A", 0)
    model = _graph_diffusion.GraphDiffusionModel(joint=True, seed=0, max_steps=2)
    model.fit([section])
    state, context = model._state(section), model._encode(model._inputs(section)).detach()
    other = state.clone()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    other[81:] = state[81:][order][:, order]
    losses = []
    for clean in (state, other):
        torch.manual_seed(0)
        losses.append(np.mean([model.network.loss(clean, context).item() for _ in range(50)]))
    assert losses[1] > losses[0]


def _record(method, size, genes, value, seed=0):
    scores = {"pcc": value, "gsc": value + 0.1, "ssc": value + 0.2}
    return {"method": method, "size": size, "genes": genes, "seed": seed, "seconds": 3.0} | scores


def test_panels_grow_around_the_core(monkeypatch):
    """Whatever a larger panel leaves out stays, and smaller panels come first."""
    import pandas as pd

    names = [f"g{i}" for i in range(300)]
    ranked = {50: names[100:150], 60: names[95:155], 200: names[0:200]}
    ranked[60][3] = "g299"  # a gene of the core is not in the panel of 60
    table = SimpleNamespace(var=pd.DataFrame(index=names), var_names=pd.Index(names))

    def select_genes(table, size, *, train_sections):
        assert train_sections == ["A"]
        table.var["flagst_panel"] = np.isin(names, ranked[size])

    monkeypatch.setattr("flagst.pp.select_genes", select_genes)
    order = curse.nested_order(table, ["A"], [200, 60])
    assert len(order) == len(set(order)) == 200
    assert set(order[:50]) == set(ranked[50]) and set(order[:60]) <= set(ranked[50]) | set(ranked[60])
    assert order[:60] == curse.nested_order(table, ["A"], [60])


def test_the_table_and_the_change_of_the_core(tmp_path):
    records = [_record("FLAG", s, g, v) for s, v in ((10, 0.5), (50, 0.6), (800, 0.58)) for g in ("core", "all")]
    lines = curse.table(records).splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["FLAG", "10", "0.500", "0.600"], ["FLAG", "50", "0.600", "0.700"], ["FLAG", "800", "0.580", "0.680"],
    ]  # fmt: skip
    assert curse.change_line(records).endswith("FLAG PCC -0.020, GSC -0.020, SSC -0.020")  # 10 is not the core
    curse.draw(records, tmp_path / "curse.png")
    assert (tmp_path / "curse.png").stat().st_size > 10_000


@pytest.mark.slow
def test_small_run_on_real_sections(her2st_dir, capsys, tmp_path):
    file = tmp_path / "records.json"
    curse.main(
        f"--data-dir {her2st_dir} --train C3 C4 --test C2 --sizes 60 --max-steps 3 --json {file} --jobs 1".split()
    )
    printed = capsys.readouterr().out
    assert "\njoint " in printed and "\nnode-only " in printed and "FLAG at structure 0.5" in printed
    records = json.loads(file.read_text())
    assert {(r["method"], r["size"], r["genes"]) for r in records} == {
        (m, 60, g) for m in curse.METHODS for g in ("core", "all")
    }
    assert all(np.isfinite([r[k] for k in curse.SCORES]).all() for r in records)
