"""Latent and gene denoiser: start at nothing, mix only along the mixing graph."""

import pytest
import torch

from flagst.nn import FlagNetwork, GeneDenoiser, LatentDenoiser, blocks
from flagst.nn.blocks import AdaLNBlock, GeneBlock, NeighbourMean
from flagst.nn.embeddings import NoiseLevelEmbedding

N_SPOTS, D_STATE, D_CONTEXT = 6, 4, 8


def _latent(n_blocks=2):
    return LatentDenoiser(D_STATE, D_CONTEXT, width=16, n_blocks=n_blocks, align_block=1)


def _gene(n_blocks=2):
    return GeneDenoiser(D_STATE, D_CONTEXT, width=16, n_blocks=n_blocks, n_heads=2, align_block=1)


def _trained(denoiser):
    """Random weights everywhere, the zero-initialised layers included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return denoiser.eval()


@pytest.fixture(params=[_latent, _gene], ids=["latent", "gene"])
def denoiser(request):
    torch.manual_seed(0)
    return request.param()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(N_SPOTS, D_STATE), torch.rand(N_SPOTS, 1) + 0.1, torch.randn(N_SPOTS, D_CONTEXT)


@pytest.fixture
def pairs():
    """Spots 0-1, 2-3, 4-5 are neighbours."""
    return torch.tensor([[1, 0, 3, 2, 5, 4], [0, 1, 2, 3, 4, 5]]), torch.ones(6)


def test_output_is_zero_before_training(denoiser, inputs, pairs):
    output, hidden = denoiser(*inputs, *pairs)
    assert output.shape == (N_SPOTS, D_STATE) and (output == 0).all()
    assert hidden.shape == ((N_SPOTS, 16) if isinstance(denoiser, LatentDenoiser) else (N_SPOTS, D_STATE, 16))


@pytest.mark.parametrize("block", [AdaLNBlock(16, 8, 0.0), GeneBlock(16, 2, 8, 0.0)], ids=["latent", "gene"])
def test_blocks_start_as_the_identity(block, pairs):
    y = torch.randn(N_SPOTS, 16) if isinstance(block, AdaLNBlock) else torch.randn(N_SPOTS, 4, 16)
    torch.testing.assert_close(block(y, torch.randn(N_SPOTS, 8), *pairs), y)


def test_the_hidden_state_is_that_of_the_alignment_block(inputs):
    x, sigma, context = inputs
    last = _trained(LatentDenoiser(D_STATE, D_CONTEXT, width=16, n_blocks=2, align_block=2))
    output, hidden = last(x, sigma, context, None, None)
    torch.testing.assert_close(last.output(hidden), output)


def test_without_mixing_spots_are_on_their_own(denoiser, inputs):
    x, sigma, context = inputs
    denoiser = _trained(denoiser)
    output, _ = denoiser(x, sigma, context, None, None)
    one, _ = denoiser(x[2:3], sigma[2:3], context[2:3], None, None)
    torch.testing.assert_close(output[2:3], one)
    moved = x.clone()
    moved[0] += 1
    change = (denoiser(moved, sigma, context, None, None)[0] - output).abs().sum(dim=1)
    assert change[0] > 1e-3 and change[1:].max() < 1e-6


def test_mixing_reaches_neighbours_and_no_further(denoiser, inputs, pairs):
    x, sigma, context = inputs
    denoiser = _trained(denoiser)
    moved = x.clone()
    moved[0] += 1
    change = denoiser(moved, sigma, context, *pairs)[0] - denoiser(x, sigma, context, *pairs)[0]
    change = change.abs().sum(dim=1)
    assert change[:2].min() > 1e-3 and change[2:].max() < 1e-6


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
@pytest.mark.parametrize("make", [_latent, _gene], ids=["latent", "gene"])
def test_one_evaluation_reaches_as_many_edges_as_it_says(make, n_blocks):
    """On a line of spots, a change is seen ``n_hops`` edges away and no further."""
    n_spots, itself = 7, torch.arange(7)
    index = torch.cat([torch.stack([itself[1:], itself[:-1]]), torch.stack([itself[:-1], itself[1:]])], dim=1)
    weight = 1 / torch.bincount(index[1])[index[1]]
    x, sigma, context = torch.randn(n_spots, D_STATE), torch.ones(n_spots, 1), torch.randn(n_spots, D_CONTEXT)
    denoiser = _trained(make(n_blocks))
    moved = x.clone()
    moved[0] += 1
    output, hidden = denoiser(x, sigma, context, index, weight)
    change = (denoiser(moved, sigma, context, index, weight)[0] - output).abs().sum(dim=1)
    assert denoiser.n_hops == n_blocks
    assert change[: n_blocks + 1].min() > 1e-4 and change[n_blocks + 1 :].max() == 0
    assert hidden.shape[-1] == denoiser.d_hidden


def test_noise_level_and_context_matter(denoiser, inputs):
    x, sigma, context = inputs
    denoiser = _trained(denoiser)
    output = denoiser(x, sigma, context, None, None)[0]
    assert not torch.allclose(output, denoiser(x, 1.1 * sigma, context, None, None)[0], atol=1e-4)
    assert not torch.allclose(output, denoiser(x, sigma, context + 1, None, None)[0], atol=1e-4)


def test_order_of_spots_does_not_matter(denoiser, inputs, pairs):
    denoiser, (index, weight) = _trained(denoiser), pairs
    order = torch.randperm(N_SPOTS)
    shuffled = denoiser(*(values[order] for values in inputs), torch.argsort(order)[index], weight)[0]
    torch.testing.assert_close(shuffled, denoiser(*inputs, *pairs)[0][order])


def test_gene_tokens_see_each_other_and_have_an_identity(inputs):
    x, sigma, context = inputs
    denoiser = _trained(_gene())
    output = denoiser(x, sigma, context, None, None)[0]
    moved = x.clone()
    moved[:, 0] += 1
    assert ((denoiser(moved, sigma, context, None, None)[0] - output)[:, 1:].abs() > 1e-5).all()
    same = torch.zeros(1, D_STATE)
    assert denoiser(same, sigma[:1], context[:1], None, None)[0].std() > 1e-3


def test_neighbour_mean():
    index = torch.tensor([[1, 2, 0], [0, 0, 1]])
    weight = torch.tensor([0.25, 0.75, 1.0])
    y = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    expected = torch.tensor([[0.25 * 3 + 0.75 * 5, 0.25 * 4 + 0.75 * 6], [1, 2], [0, 0]])
    torch.testing.assert_close(NeighbourMean()(y, index, weight), expected)
    tokens = torch.stack([y, 2 * y], dim=1)
    torch.testing.assert_close(NeighbourMean()(tokens, index, weight), torch.stack([expected, 2 * expected], dim=1))


def test_neighbour_mean_is_the_one_of_message_passing_with_its_gradients(monkeypatch):
    index, weight, order = torch.randint(N_SPOTS, (2, 20)), torch.rand(20), torch.randperm(20)
    start, found = torch.randn(N_SPOTS, 3, 4), []
    for devices, edges in (((), torch.arange(20)), (("cpu",), order), (("cpu",), torch.argsort(index[1]))):
        monkeypatch.setattr(blocks, "SUMMED_IN_PLACE", devices)
        y, w = start.clone().requires_grad_(), weight.clone().requires_grad_()
        out = NeighbourMean()(y, index[:, edges], w[edges])
        out.square().sum().backward()
        found.append((out, y.grad, w.grad))
    for values in found[1:]:
        torch.testing.assert_close(values, found[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_neighbour_mean_of_half_precision(dtype, pairs):
    """As under mixed precision: states are half, weights of edges are not."""
    y = torch.randn(N_SPOTS, 4, dtype=dtype)
    torch.testing.assert_close(NeighbourMean()(y, pairs[0], 0.5 * pairs[1]).float(), y[pairs[0][0]].float() / 2)


def test_noise_levels_a_tenth_of_a_decade_apart_differ():
    embedding = NoiseLevelEmbedding(16)
    sigma = torch.logspace(-2, 1.3, 34)[:, None]
    phase = sigma.log() / 4 * embedding.frequencies
    features = torch.cat([phase.sin(), phase.cos()], dim=1)
    gaps = (features[1:] - features[:-1]).norm(dim=1) / features.norm(dim=1)[:-1]
    assert embedding(sigma).shape == (34, 16)
    assert gaps.min() > 0.3


@pytest.mark.parametrize("kind", ["latent", "gene"])
def test_network_joins_encoder_and_denoiser(kind):
    torch.manual_seed(0)
    kwargs = {"width": 16, "n_blocks": 2, "align_block": 2}
    network = FlagNetwork(5, D_STATE, D_STATE, denoiser=kind, d_context=8, denoiser_kwargs=kwargs).eval()
    itself = torch.arange(N_SPOTS)
    edges = torch.stack([itself, itself]), torch.ones(N_SPOTS, 2)
    image, mean = torch.randn(N_SPOTS, 5), torch.randn(N_SPOTS, D_STATE)
    of_image = network.encode_image(image, *edges)
    context = network.add_mean(of_image, mean)
    assert context.shape == of_image.shape == (N_SPOTS, network.encoder.d_out) == (N_SPOTS, 8)
    assert network.denoiser.d_hidden == 16
    assert not torch.allclose(context, of_image)
    assert not torch.allclose(context, network.add_mean(of_image, mean + 1))
    output, _ = network(torch.randn(N_SPOTS, D_STATE), torch.ones(N_SPOTS, 1), context, None, None)
    assert output.shape == (N_SPOTS, D_STATE)


def test_network_without_a_mean():
    network = FlagNetwork(5, 30, 4, condition_on_mean=False, d_context=8).eval()
    itself = torch.arange(3)
    of_image = network.encode_image(torch.randn(3, 5), torch.stack([itself, itself]), torch.ones(3, 2))
    context = network.add_mean(of_image, None)
    assert context.shape == (3, 8)
    torch.testing.assert_close(context, of_image, rtol=0, atol=0)
