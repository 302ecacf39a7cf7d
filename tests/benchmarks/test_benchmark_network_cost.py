"""Seconds of network evaluations, and their arithmetic."""

import network_cost
import pytest
import scaling
import torch


def test_the_published_schedule_encodes_the_graph_at_each_of_its_evaluations(monkeypatch):
    from flagst.module import FlagModule

    module = FlagModule(network_cost.D_IMAGE, 3, 3, process="ve", joint=False, denoiser="gene").eval()
    calls = []
    monkeypatch.setattr(module, "context", lambda *a, f=module.context: calls.append("graph") or f(*a))
    monkeypatch.setattr(
        module.networks[0], "forward", lambda *a, f=module.networks[0].forward: calls.append(0) or f(*a)
    )
    with torch.no_grad():
        network_cost.published(module, network_cost.inputs(9, 3), torch.randn(9, 3))
    assert calls == ["graph", 0] * 201


def test_the_rate_of_a_matrix_product(monkeypatch):
    monkeypatch.setattr(network_cost, "MATRIX", 64)
    monkeypatch.setattr(network_cost, "seconds", lambda *a, **kw: 2.0)
    assert network_cost.matrix_rate() == 64**3


@pytest.mark.filterwarnings("ignore")
def test_both_tables(monkeypatch, capsys):
    from flagst.model import slide

    monkeypatch.setattr(scaling, "TRAIN_SPOTS", 20)
    monkeypatch.setattr(network_cost, "N_LEVELS", 3)
    monkeypatch.setattr(network_cost, "MATRIX", 64)
    monkeypatch.setattr(slide, "WINDOW_SPOTS", 100)
    draw = slide.draw_in_windows
    sizes = ["--spots", "150", "--genes", "6", "--section-spots", "30", "--width", "8", "--blocks", "3"]
    network_cost.main([*sizes, "--threads", str(torch.get_num_threads())])
    assert slide.draw_in_windows is draw
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    by_name = {row[0]: row[1:] for row in rows}
    assert by_name["gene tokens, published"][0] == "40" and by_name["gene tokens, published"][2] == "1 times"
    assert by_name["gene tokens, ours"][0] == by_name["latent, ours (default)"][0] == "20"
    assert all(float(by_name[name][1]) > 0 for name in by_name if "ours" in name)
    network, whole, rate, matrix, share = map(float, rows[-1])
    assert 0 < network <= whole and share == pytest.approx(rate / matrix, rel=0.05, abs=0.005)


def test_arithmetic_is_that_of_matrix_products():
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    draws = network_cost.Draws(torch.matmul)
    draws.counting = True
    assert torch.equal(draws(a, b), a @ b) and draws.operations == 2 * 3 * 4 * 5 and draws.seconds == 0
    draws.counting = False
    draws(a, b)
    assert draws.operations == 2 * 3 * 4 * 5 and draws.seconds > 0
