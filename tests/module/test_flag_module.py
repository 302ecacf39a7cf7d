"""The module: encode once, one loss per window, repeatable validation, samples of whole sections."""

import numpy as np
import pytest
import torch
from tiny_models import make_model, make_table

from flagst.data.graph import knn
from flagst.data.windows import N_EDGES, denoiser_window, encoder_window, partition, section_inputs, spot_pitch
from flagst.diffusion import SOLVERS
from flagst.module import FlagModule
from flagst.nn import AlignmentHead

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


def contexts_of(module, tensors, networks=None):
    """Contexts H of a section that is one window, by network."""
    networks = range(len(module.networks)) if networks is None else networks
    rows = torch.arange(N_SPOTS)
    contexts = module.encode_image([tensors | {"rows": rows, "core": rows >= 0}], N_SPOTS, networks)
    module.add_mean(contexts, rows, tensors["mean"])
    return contexts


def sampled(module, tensors, noise, *, networks=None, solver="dpm++2m", n_steps=5):
    """Samples of a section that is one window, of noise ``(n_samples, n_spots, d_state)``."""
    contexts, rows = contexts_of(module, tensors, networks), torch.arange(N_SPOTS)
    whole = [tensors | {"rows": rows, "core": rows >= 0}]
    return torch.stack([module.solve(whole, contexts, z, solver=solver, n_steps=n_steps) for z in noise])


def _attach(module):
    vectors = torch.nn.functional.normalize(torch.randn(N_GENES, 4), dim=1)
    mask = torch.ones(N_GENES, dtype=torch.bool)
    module.attach_alignment(lambda width: AlignmentHead(width, vectors, mask, weight=0.5))


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
    assert module.networks[0].encoder.input[1].weight.grad.abs().sum() > 0


def test_context_ignores_state_and_expression(module, window):
    context = contexts_of(module, window)[0]
    other = window | {"state": window["state"] + 5, "expression": window["expression"] + 5}
    assert context.shape == (N_SPOTS, 8) and not context.requires_grad
    torch.testing.assert_close(contexts_of(module, other)[0], context)


@pytest.mark.parametrize("number", [0, 2])
def test_samples_use_the_context_that_was_trained(three, window, number):
    tensors = window | {"network": torch.tensor(number)}
    expected = three.inference(**three._get_inference_input(tensors))["context"]
    torch.testing.assert_close(contexts_of(three, window)[number], expected, rtol=0, atol=0)


def _count(module, monkeypatch):
    """The numbers of the networks that encode and that denoise, in the order of the calls."""
    calls = {"encode": [], "denoise": []}
    for number, network in enumerate(module.networks):
        for name, owner, method in (("encode", network, "encode_image"), ("denoise", network.denoiser, "forward")):

            def counted(*args, _kept=getattr(owner, method), _name=name, _number=number):  # noqa: B008
                calls[_name].append(_number)
                return _kept(*args)

            monkeypatch.setattr(owner, method, counted)
    return calls


EVERY_SOLVER = pytest.mark.parametrize(("solver", "evaluations"), [("dpm++2m", 6), ("heun", 11)])


@EVERY_SOLVER
def test_samples_encode_once_and_denoise_as_often_as_said(module, window, monkeypatch, solver, evaluations):
    calls = _count(module, monkeypatch)
    found = sampled(module, window, torch.randn(3, N_SPOTS, D_STATE), solver=solver, n_steps=6)
    assert found.shape == (3, N_SPOTS, D_STATE) and torch.isfinite(found).all() and not found.requires_grad
    assert found.dtype == torch.float32 and found.device.type == "cpu"
    assert calls == {"encode": [0], "denoise": [0] * 3 * evaluations}
    assert evaluations == SOLVERS[solver].n_evaluations(6)


@pytest.fixture
def three():
    torch.manual_seed(3)
    made = FlagModule(D_IMAGE, N_GENES, D_STATE, n_networks=3, **NETWORK)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made.eval()


@EVERY_SOLVER
def test_networks_take_turns_without_more_evaluations(three, window, monkeypatch, solver, evaluations):
    calls = _count(three, monkeypatch)
    sampled(three, window, torch.randn(2, N_SPOTS, D_STATE), solver=solver, n_steps=6)
    assert calls["encode"] == [0, 1, 2]
    one_sample = [step % 3 for step in range(evaluations)]
    assert calls["denoise"] == 2 * one_sample  # every sample starts with the first network: samples do not mix


@EVERY_SOLVER
@pytest.mark.parametrize("networks", [(1,), (2, 0)])
def test_only_the_networks_asked_for_are_used(three, window, monkeypatch, solver, evaluations, networks):
    calls = _count(three, monkeypatch)
    sampled(three, window, torch.randn(1, N_SPOTS, D_STATE), solver=solver, n_steps=6, networks=networks)
    assert calls["encode"] == list(networks)
    assert calls["denoise"] == [networks[step % len(networks)] for step in range(evaluations)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_sample_of_one_network_does_not_depend_on_the_others(three, window, number):
    noise = torch.randn(1, N_SPOTS, D_STATE)

    def samples():
        return sampled(three, window, noise, networks=(number,)), sampled(three, window, noise)

    before = samples()
    context = contexts_of(three, window)[number]
    with torch.no_grad():
        for other in {0, 1, 2} - {number}:
            for parameter in three.networks[other].parameters():
                parameter.add_(0.3)
    after = samples()
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    torch.testing.assert_close(contexts_of(three, window)[number], context, rtol=0, atol=0)
    assert not torch.allclose(after[1], before[1])


def test_a_sample_of_one_network_is_that_of_a_module_of_its_own(three, window):
    noise = torch.randn(2, N_SPOTS, D_STATE)
    for number in range(3):
        single = FlagModule(D_IMAGE, N_GENES, D_STATE, **NETWORK).eval()
        single.networks[0].load_state_dict(three.networks[number].state_dict())
        expected = sampled(single, window, noise)
        found = sampled(three, window, noise, networks=(number,))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_networks_start_apart():
    module = FlagModule(D_IMAGE, N_GENES, D_STATE, n_networks=2, **NETWORK)
    first, second = (dict(network.named_parameters()) for network in module.networks)
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_window_trains_its_own_network_and_head_only(three, window, number):
    three.train()
    _attach(three)
    assert len(three.alignment) == 3
    three(window | {"network": torch.tensor(number)})[2].loss.backward()
    for part in (three.networks, three.alignment):
        for other, module in enumerate(part):
            reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters()]
            assert any(reached) == (other == number)
            if other != number:  # no gradient at all: a zero one would still decay the weights
                assert all(p.grad is None for p in module.parameters())


def test_the_loss_is_that_of_the_window_s_network(three, window):
    losses = [three(window | {"network": torch.tensor(number)})[2].loss.item() for number in range(3)]
    assert len(set(losses)) == 3
    assert three(window)[2].loss.item() == losses[0]
    for number, loss in enumerate(losses):
        single = FlagModule(D_IMAGE, N_GENES, D_STATE, **NETWORK).eval()
        single.networks[0].load_state_dict(three.networks[number].state_dict())
        assert single(window)[2].loss.item() == pytest.approx(loss)


def test_a_sample_follows_its_noise(module, window):
    noise = torch.randn(2, N_SPOTS, D_STATE)
    both = sampled(module, window, noise)
    torch.testing.assert_close(sampled(module, window, noise[1:])[0], both[1])
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("joint", [True, False])
def test_spots_are_sampled_jointly_or_not(window, joint):
    torch.manual_seed(0)
    module = FlagModule(D_IMAGE, N_GENES, D_STATE, joint=joint, **NETWORK)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    module.eval()
    noise = torch.randn(1, N_SPOTS, D_STATE)
    moved = noise.clone()
    moved[0, 0] += 1
    first, second = (sampled(module, window, z, n_steps=4)[0] for z in (noise, moved))
    change = (second - first).abs().sum(dim=1)
    assert change[0] > 1e-3
    assert (change[1:].max() > 1e-3) == joint
    assert module.denoiser_hops == (2 if joint else 0)


def test_an_untrained_edm_samples_the_prior(window):
    # F = 0: the denoiser is that of N(0, 1), and so are the samples
    module = FlagModule(D_IMAGE, N_GENES, D_STATE, **NETWORK).eval()
    found = sampled(module, window, torch.randn(200, N_SPOTS, D_STATE), n_steps=20)
    assert abs(float(found.mean())) < 0.05 and abs(float(found.std()) - 1) < 0.05


@EVERY_SOLVER
@pytest.mark.parametrize("joint", [True, False])
def test_several_windows_give_the_sample_of_one(solver, evaluations, joint):
    """Each window has the halo of one evaluation, so that no window has borders of its own."""
    rng, n_spots = np.random.default_rng(1), 120
    torch.manual_seed(0)
    module = FlagModule(D_IMAGE, N_GENES, D_STATE, joint=joint, n_networks=2, **NETWORK)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    module.eval()
    coords, white = rng.uniform(size=(n_spots, 2)), rng.normal(size=(n_spots, D_IMAGE))
    graph = knn(coords, N_EDGES)
    pitch, mean = spot_pitch(graph[1]), torch.randn(n_spots, N_GENES)
    noise, found = torch.randn(n_spots, D_STATE), []
    for size in (n_spots, 20):
        cores, done = partition(coords, size), []
        hops = module.encoder_hops, module.denoiser_hops
        encoded = [encoder_window(white, *graph, core, n_hops=hops[0], pitch=pitch) for core in cores]
        windows = [denoiser_window(*graph, core, n_hops=hops[1], pitch=pitch) for core in cores]
        contexts = module.encode_image(encoded, n_spots, (0, 1))
        for core in cores:
            module.add_mean(contexts, torch.as_tensor(core), mean[core])
        counted = {"solver": solver, "n_steps": 6, "done": lambda done=done: done.append(1)}
        state = module.solve(windows, contexts, noise, **counted)
        assert len(done) == len(cores) * evaluations
        found.append((contexts[0], contexts[1], state))
    assert len(cores) > 5 and max(len(window["rows"]) for window in windows) < n_spots
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)


def test_constants_of_the_noise_process_reach_the_samples(window):
    made, noise = [], torch.randn(1, N_SPOTS, D_STATE)
    for kwargs in (None, {"sigma_max": 5.0}):
        torch.manual_seed(0)
        made.append(FlagModule(D_IMAGE, N_GENES, D_STATE, process_kwargs=kwargs, **NETWORK).eval())
    assert [module.process.sigma_max for module in made] == [20.0, 5.0]
    assert made[1].process.schedule(6)[0] == 5 != made[0].process.schedule(6)[0]
    first, second = (sampled(module, window, noise) for module in made)
    assert not torch.allclose(first, second)
    with pytest.raises(TypeError, match="sigma_maximum"):
        FlagModule(D_IMAGE, N_GENES, D_STATE, process_kwargs={"sigma_maximum": 5.0}, **NETWORK)


@pytest.mark.parametrize("process", ["edm", "ve"])
def test_a_model_hands_the_constants_of_the_noise_process_to_its_module(process):
    model = make_model(make_table(), process=process, process_kwargs={"sigma_max": 5.0})
    assert model.module.process.schedule(6)[0] == 5 == model.module.process.sigma_max
