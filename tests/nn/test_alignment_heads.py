"""Heads for vectors per spot and gene, and per cell."""

import pytest
import torch

from flagst.nn import (
    AlignmentHead,
    CellHead,
    ContextualHead,
    GeneDenoiser,
    alignment_loss,
    choose_genes,
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


def test_genes_without_vectors_are_not_used_in_the_contextual_loss():
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
    head = AlignmentHead(WIDTH, _unit(3000, D_GENE), torch.ones(3000, dtype=torch.bool), weight=1.0).eval()
    shapes = []
    head.readout.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    head(torch.randn(N_SPOTS, WIDTH), torch.randn(N_SPOTS, 3000))
    assert shapes == [(N_SPOTS, 64, D_GENE)]
