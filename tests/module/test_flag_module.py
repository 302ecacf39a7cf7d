"""The module: encode once, one loss per window, repeatable validation, draws of whole sections."""

import numpy as np
import pytest
import torch

from flagst.data.graph import knn
from flagst.data.inputs import section_inputs
from flagst.module import FlagModule

N_SPOTS, N_GENES, D_IMAGE, D_STATE = 20, 7, 5, 3
NETWORK = {"d_context": 8, "denoiser_kwargs": {"width": 16, "n_blocks": 2, "align_block": 1}}


@pytest.fixture
def window():
    rng = np.random.default_rng(0)
    tensors = section_inputs(
        rng.normal(size=(N_SPOTS, D_IMAGE)),
        *knn(rng.uniform(size=(N_SPOTS, 2)), 18),
        rng.normal(size=(N_SPOTS, N_GENES)),
    )
    for key, width in (("state", D_STATE), ("expression", N_GENES)):
        tensors[key] = torch.as_tensor(rng.normal(size=(N_SPOTS, width)), dtype=torch.float32)
    return tensors | {"core": torch.arange(N_SPOTS) < 12}


@pytest.fixture
def module():
    torch.manual_seed(0)
    made = FlagModule(D_IMAGE, N_GENES, D_STATE, **NETWORK)
    with torch.no_grad():  # as after training: nothing is zero
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made.eval()


def _attach(module):
    vectors = torch.nn.functional.normalize(torch.randn(N_GENES, 4), dim=1)
    module.attach_alignment(vectors, torch.ones(N_GENES, dtype=torch.bool), weight=0.5)


def test_loss_counts_the_core_only(module, window):
    _, _, output = module(window)
    assert output.n_obs_minibatch == 12
    _, generated = module(window, compute_loss=False)
    torch.testing.assert_close(output.loss, generated["denoising"][window["core"]].mean())
    everything = module(window | {"core": torch.ones(N_SPOTS, dtype=torch.bool)})[2]
    assert not torch.isclose(everything.loss, output.loss)


def test_validation_repeats_its_noise_and_training_does_not(module, window):
    losses = [module(window)[2].loss.item() for _ in range(2)]
    assert losses[0] == losses[1]
    module.train()
    losses = [module(window)[2].loss.item() for _ in range(2)]
    assert losses[0] != losses[1]


def test_alignment_is_added_with_its_weight_and_controls(module, window):
    torch.manual_seed(1)
    plain = module(window)[2].loss.item()
    _attach(module)
    output = module(window)[2]
    parts = output.extra_metrics
    assert set(parts) == {
        "denoising_loss",
        "align_loss",
        "align_loss_shuffled_genes",
        "align_loss_shuffled_spots",
    }
    assert parts["denoising_loss"].item() == pytest.approx(plain)
    assert output.loss.item() == pytest.approx(plain + 0.5 * parts["align_loss"].item())
    module.train()
    assert set(module(window)[2].extra_metrics) == {"denoising_loss", "align_loss"}
    module.detach_alignment()
    assert set(module(window)[2].extra_metrics) == {"denoising_loss"}
    assert not any(name.startswith("alignment") for name in module.state_dict())


def test_alignment_reaches_the_encoder(module, window):
    _attach(module)
    output = module(window)[2]
    output.extra_metrics["align_loss"].backward()
    assert module.network.encoder.input[1].weight.grad.abs().sum() > 0


def test_context_ignores_state_and_expression(module, window):
    context = module.context(window)
    other = window | {"state": window["state"] + 5, "expression": window["expression"] + 5}
    assert context.shape == (N_SPOTS, 8) and not context.requires_grad
    torch.testing.assert_close(module.context(other), context)


@pytest.mark.parametrize(("solver", "evaluations"), [("dpm++2m", 6), ("heun", 11)])
def test_draws_encode_once_and_denoise_as_often_as_said(module, window, monkeypatch, solver, evaluations):
    calls = {"encode": 0, "denoise": 0}
    encode, denoise = module.network.encode, module.network.denoiser.forward
    monkeypatch.setattr(
        module.network, "encode", lambda *a: (calls.update(encode=calls["encode"] + 1), encode(*a))[1]
    )
    monkeypatch.setattr(
        module.network.denoiser,
        "forward",
        lambda *a: (calls.update(denoise=calls["denoise"] + 1), denoise(*a))[1],
    )
    drawn = module.draw(window, torch.randn(3, N_SPOTS, D_STATE), solver=solver, n_steps=6)
    assert drawn.shape == (3, N_SPOTS, D_STATE) and torch.isfinite(drawn).all() and not drawn.requires_grad
    assert calls == {"encode": 1, "denoise": 3 * evaluations}


def test_a_draw_follows_its_noise(module, window):
    noise = torch.randn(2, N_SPOTS, D_STATE)
    both = module.draw(window, noise, solver="dpm++2m", n_steps=5)
    torch.testing.assert_close(module.draw(window, noise[1:], solver="dpm++2m", n_steps=5)[0], both[1])
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("joint", [True, False])
def test_spots_are_drawn_jointly_or_not(window, joint):
    torch.manual_seed(0)
    module = FlagModule(D_IMAGE, N_GENES, D_STATE, joint=joint, **NETWORK)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    module.eval()
    noise = torch.randn(1, N_SPOTS, D_STATE)
    moved = noise.clone()
    moved[0, 0] += 1
    draws = [module.draw(window, z, solver="dpm++2m", n_steps=4)[0] for z in (noise, moved)]
    change = (draws[1] - draws[0]).abs().sum(dim=1)
    assert change[0] > 1e-3
    assert (change[1:].max() > 1e-3) == joint


def test_an_untrained_edm_draws_the_prior(window):
    # F = 0: the denoiser is that of N(0, 1), and so are the draws
    module = FlagModule(D_IMAGE, N_GENES, D_STATE, **NETWORK).eval()
    drawn = module.draw(window, torch.randn(200, N_SPOTS, D_STATE), solver="dpm++2m", n_steps=20)
    assert abs(float(drawn.mean())) < 0.05 and abs(float(drawn.std()) - 1) < 0.05
