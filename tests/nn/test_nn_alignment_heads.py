"""Heads for vectors per spot, per cell and for similarities; gene identities that follow a gene model."""

import pytest
import torch

from flagst.nn import (
    CellHead,
    ContextualHead,
    GeneDenoiser,
    GeneReadout,
    SimilarityHead,
    TiedIdentity,
    alignment_loss,
    choose_genes,
    similarity_loss,
    start_from_vectors,
)

N_SPOTS, N_GENES, D_GENE, WIDTH = 40, 9, 4, 16
EVERYWHERE = torch.ones(N_GENES, dtype=torch.bool)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def _unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


EVERY_GENE = torch.arange(N_GENES)


def _fit(head, hidden, embedding, genes=None, n_steps=300):
    """Losses, with controls, after fitting the head to one batch."""
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(n_steps):
        optimiser.zero_grad()
        head(hidden, hidden, embedding, genes)["align_loss"].mean().backward()
        optimiser.step()
    with torch.no_grad():
        losses = head(hidden, hidden, embedding, genes, controls=torch.Generator().manual_seed(0))
    return {name: float(value.mean()) for name, value in losses.items()}


def test_a_masked_loss_is_the_mean_over_the_genes_that_are_there():
    readout, embedding = torch.randn(2, N_SPOTS, N_GENES, D_GENE)
    there = torch.rand(N_SPOTS, N_GENES) > 0.5
    there[0] = False
    losses = alignment_loss(readout, embedding, there)
    assert losses[0] == 0
    for spot in range(1, 5):
        expected = alignment_loss(readout[spot : spot + 1, there[spot]], embedding[spot : spot + 1, there[spot]])
        torch.testing.assert_close(losses[spot : spot + 1], expected)


def test_similarity_loss_is_zero_for_equal_and_one_for_unlike_genes():
    vectors = _unit(N_GENES, D_GENE)
    rotated = vectors @ torch.linalg.qr(torch.randn(D_GENE, D_GENE)).Q
    torch.testing.assert_close(similarity_loss(3 * rotated[None], vectors), torch.zeros(1), atol=1e-6, rtol=0)
    orthogonal = torch.eye(N_GENES)[None]
    torch.testing.assert_close(similarity_loss(orthogonal, vectors), torch.ones(1))
    a, b = 2, 5  # by hand, for one pair
    one_pair = similarity_loss(torch.stack([vectors[a], -vectors[b]])[None], vectors[[a, b]])
    torch.testing.assert_close(one_pair, torch.full((1,), 4.0), atol=1e-4, rtol=0)


def test_the_similarity_head_learns_the_vectors_and_its_control_does_not():
    losses = _fit(
        SimilarityHead(WIDTH, _unit(N_GENES, D_GENE), EVERYWHERE, weight=1.0), torch.randn(N_SPOTS, WIDTH), None
    )
    assert losses["align_loss"] < 0.1
    assert losses["align_loss_shuffled_genes"] > 0.5
    assert "align_loss_shuffled_spots" not in losses


def test_the_contextual_head_takes_the_gene_off_and_learns_the_spot():
    gene, hidden = 5 * torch.randn(N_GENES, D_GENE), torch.randn(N_SPOTS, WIDTH)
    spot = (hidden @ torch.randn(WIDTH, N_GENES * D_GENE) / 4).view(N_SPOTS, N_GENES, D_GENE)
    embedding = gene + spot
    embedding[:, 3] = 0  # no vectors of this gene
    embedding[::2, 1] = 0  # of this one in every other spot
    mask = embedding.any(-1).any(0)
    centre = embedding.sum(0) / embedding.any(-1).sum(0).clamp(min=1)[:, None]
    genes = choose_genes(mask, training=True)
    assert set(genes.tolist()) == set(range(N_GENES)) - {3}
    losses = _fit(ContextualHead(WIDTH, centre, mask, weight=1.0), hidden, embedding[:, genes], genes)
    assert losses["align_loss"] < 0.3
    assert losses["align_loss_shuffled_spots"] > 0.8 and losses["align_loss_shuffled_genes"] > 0.5


def test_what_is_not_there_has_no_part_in_the_contextual_loss():
    embedding = torch.randn(N_SPOTS, N_GENES, D_GENE)
    embedding[:, 4] = 0
    head = ContextualHead(WIDTH, torch.zeros(N_GENES, D_GENE), EVERYWHERE, weight=1.0).eval()
    hidden = torch.randn(N_SPOTS, N_GENES, WIDTH)  # gene tokens
    before = head(hidden, hidden, embedding, EVERY_GENE)["align_loss"]
    hidden[:, 4] += 10
    torch.testing.assert_close(head(hidden, hidden, embedding, EVERY_GENE)["align_loss"], before)
    assert (before > 0).all()


def test_half_precision_vectors_are_taken():
    embedding = torch.randn(N_SPOTS, N_GENES, D_GENE).half()
    head = ContextualHead(WIDTH, torch.zeros(N_GENES, D_GENE), EVERYWHERE, weight=1.0)
    assert head(torch.randn(N_SPOTS, WIDTH), None, embedding, EVERY_GENE)["align_loss"].dtype == torch.float32


@pytest.mark.parametrize("shape", [(N_SPOTS, WIDTH), (N_SPOTS, N_GENES, WIDTH)])
def test_the_cell_head_learns_a_vector_per_spot(shape):
    hidden = torch.randn(shape)
    spot = hidden if hidden.dim() == 2 else hidden.mean(1)
    embedding = 7 + spot @ torch.randn(WIDTH, D_GENE)
    embedding[0] = 0
    head = CellHead(WIDTH, embedding[1:].mean(0), weight=1.0)
    losses = _fit(head, hidden, embedding)
    assert losses["align_loss"] < 0.2 and losses["align_loss_shuffled_spots"] > 0.6
    assert head(hidden, hidden, embedding)["align_loss"][0] == 0


def test_tied_identities_are_a_linear_map_and_unknown_genes_keep_theirs():
    vectors, mask, free = _unit(N_GENES, D_GENE), EVERYWHERE.clone(), torch.randn(N_GENES, WIDTH)
    mask[2] = False
    tied = TiedIdentity(vectors, mask, free)
    out = tied(free)
    torch.testing.assert_close(out[2], free[2])
    torch.testing.assert_close(out[mask], vectors[mask] @ tied.map.weight.T)


def test_free_identities_can_start_from_vectors():
    vectors = _unit(200, D_GENE)
    free = torch.nn.Parameter(0.02 * torch.randn(200, 128))
    start_from_vectors(free, vectors, torch.ones(200, dtype=torch.bool))
    unit = torch.nn.functional.normalize(free.detach(), dim=1)
    like = torch.corrcoef(torch.stack([(unit @ unit.T).flatten(), (vectors @ vectors.T).flatten()]))[0, 1]
    assert like > 0.9 and 0.5 < free.std() / (0.02 / D_GENE**0.5) / D_GENE**0.5 < 2


def test_untied_gene_tokens_give_what_the_tied_ones_gave():
    denoiser = GeneDenoiser(N_GENES, 8, width=16, n_blocks=2, n_heads=2, align_block=1)
    torch.nn.init.normal_(denoiser.output.weight)
    given = torch.randn(N_SPOTS, N_GENES), torch.rand(N_SPOTS, 1), torch.randn(N_SPOTS, 8), None, None
    free = denoiser(*given)[0]
    denoiser.tie(_unit(N_GENES, D_GENE), EVERYWHERE)
    tied = denoiser(*given)[0]
    names = set(denoiser.state_dict())
    denoiser.untie()
    torch.testing.assert_close(denoiser(*given)[0], tied)
    assert not torch.allclose(free, tied)
    assert not any("tied" in name for name in denoiser.state_dict()) and any("tied" in name for name in names)


def test_tied_queries_are_read_out():
    readout, hidden = GeneReadout(WIDTH, N_GENES, D_GENE), torch.randn(5, WIDTH)
    vectors = _unit(N_GENES, D_GENE)
    vectors[1] = vectors[0]
    assert not torch.allclose(readout(hidden)[:, 0], readout(hidden)[:, 1])
    readout.tie(vectors, EVERYWHERE)
    torch.testing.assert_close(readout(hidden)[:, 0], readout(hidden)[:, 1])  # genes of one vector are one gene
    torch.testing.assert_close(readout(hidden, torch.tensor([4, 2])), readout(hidden)[:, [4, 2]])


@pytest.mark.parametrize("align_block", [0, 3])
def test_a_block_that_is_not_there_is_refused(align_block):
    from flagst.nn import LatentDenoiser

    for make in (LatentDenoiser, GeneDenoiser):
        with pytest.raises(ValueError, match="align_block must be a block of the denoiser, 1 to 2"):
            make(4, 8, width=16, n_blocks=2, align_block=align_block)


def test_of_many_genes_a_few_are_chosen_afresh_in_training_and_always_the_same_otherwise():
    mask = torch.arange(300) % 2 == 0
    chosen = [set(choose_genes(mask, training=True).tolist()) for _ in range(20)]
    assert all(len(genes) == 64 and all(mask[list(genes)]) for genes in chosen)
    assert len(set.union(*chosen)) > 140
    torch.testing.assert_close(choose_genes(mask, training=False), choose_genes(mask, training=False))
    assert len(choose_genes(mask, training=False).unique()) == 64


def test_a_wide_panel_costs_no_more_in_validation():
    head = SimilarityHead(WIDTH, _unit(3000, D_GENE), torch.ones(3000, dtype=torch.bool), weight=1.0).eval()
    shapes = []
    head.readout.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    head(torch.randn(N_SPOTS, WIDTH), None)
    assert shapes == [(N_SPOTS, 64, D_GENE)]
