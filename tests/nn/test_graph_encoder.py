"""The graph encoder against the formula written as loops, and what it must not mix."""

import math

import pytest
import torch

from flagst.nn import EdgeModulatedAttention, FlagNetwork, SpatialGraphEncoder

D_MODEL, N_HEADS = 8, 2


def ring(n_spots, offset=0):
    """Every spot hears its two ring neighbours and itself."""
    itself = torch.arange(n_spots)
    source = torch.cat([(itself - 1) % n_spots, (itself + 1) % n_spots, itself])
    return torch.stack([source, itself.repeat(3)]) + offset


@pytest.fixture
def graph():
    generator = torch.Generator().manual_seed(0)
    edge_index = ring(5)
    return edge_index, torch.rand(edge_index.shape[1], 2, generator=generator)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    layer = EdgeModulatedAttention(D_MODEL, 2, N_HEADS)
    with torch.no_grad():  # as after training: all terms of the score count
        layer.a.copy_(torch.tensor([0.7, -0.4]))
        layer.c.copy_(torch.tensor([1.3, 0.5]))
    return layer


def dense(layer, h, edge_index, edge_attr):
    """S_ij = (q_i.k_j / sqrt(d)) (1 + a Lin(e_ij)) + c Lin(e_ij), softmax over the j that point at i."""
    query, key, value = layer.query(h), layer.key(h), layer.value(h)
    scale, bias = layer.edge_scale(edge_attr), layer.edge_bias(edge_attr)
    d = D_MODEL // N_HEADS
    out = torch.zeros_like(h)
    for i in range(len(h)):
        into = (edge_index[1] == i).nonzero().flatten()
        for head in range(N_HEADS):
            part = slice(head * d, (head + 1) * d)
            scores = []
            for edge in into:
                j = edge_index[0, edge]
                dot = (query[i, part] @ key[j, part]) / math.sqrt(d)
                scores.append(dot * (1 + layer.a[head] * scale[edge, head]) + layer.c[head] * bias[edge, head])
            weights = torch.softmax(torch.stack(scores), 0)
            out[i, part] = sum(w * value[edge_index[0, e], part] for w, e in zip(weights, into, strict=True))
    return out


def test_attention_is_the_formula(attention, graph):
    h = torch.randn(5, D_MODEL)
    torch.testing.assert_close(attention(h, *graph), dense(attention, h, *graph))


def test_a_spot_with_only_itself_returns_its_value(attention):
    h, itself = torch.randn(3, D_MODEL), torch.arange(3)
    out = attention(h, torch.stack([itself, itself]), torch.rand(3, 2))
    torch.testing.assert_close(out, attention.value(h))


@pytest.fixture
def encoder():
    torch.manual_seed(1)
    return SpatialGraphEncoder(6, D_MODEL, n_layers=2, n_heads=N_HEADS).eval()


def test_edges_matter(encoder, graph):
    image, (edge_index, edge_attr) = torch.randn(5, 6), graph
    out = encoder(image, edge_index, edge_attr)
    assert out.shape == (5, D_MODEL)
    assert not torch.allclose(out, encoder(image, edge_index, 1 - edge_attr))
    moved = image.clone()
    moved[0] += 1
    change = (encoder(moved, edge_index, edge_attr) - out).abs().sum(dim=1)
    assert (change > 1e-6).all()  # two layers on a ring of five reach everyone


def test_order_of_spots_and_edges_does_not_matter(encoder, graph):
    image, (edge_index, edge_attr) = torch.randn(5, 6), graph
    order, edges = torch.randperm(5), torch.randperm(edge_index.shape[1])
    position = torch.argsort(order)
    shuffled = encoder(image[order], position[edge_index][:, edges], edge_attr[edges])
    torch.testing.assert_close(shuffled, encoder(image, edge_index, edge_attr)[order])


def test_components_without_a_shared_edge_do_not_meet(encoder):
    first, second = torch.randn(5, 6), torch.randn(4, 6)
    attr = torch.rand(15, 2), torch.rand(12, 2)
    alone = encoder(first, ring(5), attr[0])
    together = encoder(torch.cat([first, second]), torch.cat([ring(5), ring(4, 5)], dim=1), torch.cat(attr))
    torch.testing.assert_close(together[:5], alone)
    torch.testing.assert_close(together[5:], encoder(second, ring(4), attr[1]))


def test_memory_is_linear_in_edges(encoder):
    # 20,000 spots with 9 edges each: a dense attention matrix alone would take 3 GB
    n_spots = 20_000
    index = torch.stack([torch.randint(n_spots, (9 * n_spots,)), torch.arange(n_spots).repeat(9)])
    with torch.no_grad():
        assert encoder(torch.randn(n_spots, 6), index, torch.rand(9 * n_spots, 2)).shape == (n_spots, D_MODEL)


def test_without_edge_features_attention_is_plain(attention, graph):
    h, (edge_index, edge_attr) = torch.randn(5, D_MODEL), graph
    plain = EdgeModulatedAttention(D_MODEL, 0, N_HEADS)
    plain.load_state_dict({name: attention.state_dict()[name] for name in plain.state_dict()})
    with torch.no_grad():
        attention.a.zero_()
        attention.c.zero_()
    torch.testing.assert_close(plain(h, edge_index, edge_attr), dense(attention, h, edge_index, edge_attr))
    torch.testing.assert_close(plain(h, edge_index, edge_attr), plain(h, edge_index, 1 - edge_attr))


def test_without_layers_every_spot_is_encoded_by_itself(graph):
    encoder = SpatialGraphEncoder(6, D_MODEL, n_layers=0).eval()
    image, (edge_index, edge_attr) = torch.randn(5, 6), graph
    moved = image.clone()
    moved[0] += 1
    change = (encoder(moved, edge_index, edge_attr) - encoder(image, edge_index, edge_attr)).abs().sum(dim=1)
    assert change[0] > 0.01 and (change[1:] == 0).all()


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_one_evaluation_reaches_as_many_edges_as_it_says(n_layers):
    """On a ring of eleven spots, a change is seen ``n_hops`` edges away and no further."""
    torch.manual_seed(0)
    encoder = SpatialGraphEncoder(6, D_MODEL, n_layers=n_layers, n_heads=N_HEADS).eval()
    image, edge_index = torch.randn(11, 6), ring(11)
    edge_attr, moved = torch.rand(edge_index.shape[1], 2), image.clone()
    moved[0] += 1
    context = encoder(image, edge_index, edge_attr)
    change = (encoder(moved, edge_index, edge_attr) - context).abs().sum(dim=1)
    apart = torch.minimum(torch.arange(11), 11 - torch.arange(11))
    assert encoder.n_hops == n_layers and context.shape == (11, encoder.d_out)
    assert change[apart <= n_layers].min() > 1e-6 and change[apart > n_layers].max() == 0


@pytest.mark.parametrize("d_edge", [-1, 3])
def test_edge_features_that_there_are_not_are_refused(d_edge):
    with pytest.raises(ValueError, match="d_edge must be 0 to 2"):
        FlagNetwork(6, 10, 4, d_edge=d_edge)
