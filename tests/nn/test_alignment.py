"""Alignment: what the target is, what the mask leaves out, and that the controls tell learning from none."""

import pytest
import torch

from flagst.nn import AlignmentHead, GeneReadout, alignment_loss, contextual_embedding

N_SPOTS, N_GENES, D_GENE, WIDTH = 60, 12, 4, 16


@pytest.fixture
def toy():
    """Gene vectors, expression driven by a few programs of the spot, and those programs."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(N_GENES, D_GENE, generator=generator), dim=1)
    programs = torch.randn(N_SPOTS, D_GENE, generator=generator)
    expression = programs @ vectors.T
    return vectors, (expression - expression.mean(0)) / expression.std(0), programs


def test_contextual_embedding_is_the_double_sum(toy):
    vectors, expression, _ = toy
    expected = torch.zeros(N_SPOTS, N_GENES, D_GENE)
    for s in range(N_SPOTS):
        for g in range(N_GENES):
            for other in range(N_GENES):
                expected[s, g] += (vectors[g] @ vectors[other]) * expression[s, other] * vectors[other] / N_GENES
    torch.testing.assert_close(contextual_embedding(expression, vectors), expected)


def test_contextual_embedding_depends_on_the_spot(toy):
    vectors, expression, _ = toy
    context = contextual_embedding(expression, vectors)
    torch.testing.assert_close(contextual_embedding(-expression, vectors), -context)
    cosine = torch.nn.functional.cosine_similarity(context[:-1], context[1:], dim=-1)
    assert cosine.abs().mean() < 0.9


def test_readout_shapes():
    readout = GeneReadout(WIDTH, N_GENES, D_GENE)
    assert readout(torch.randn(5, WIDTH)).shape == (5, N_GENES, D_GENE)
    assert readout(torch.randn(5, N_GENES, WIDTH)).shape == (5, N_GENES, D_GENE)


def test_some_genes_are_those_of_all(toy):
    vectors, expression, _ = toy
    some = torch.tensor([4, 0, 9])
    torch.testing.assert_close(
        contextual_embedding(expression, vectors, some), contextual_embedding(expression, vectors)[:, some]
    )
    readout = GeneReadout(WIDTH, N_GENES, D_GENE)
    for hidden in (torch.randn(5, WIDTH), torch.randn(5, N_GENES, WIDTH)):
        torch.testing.assert_close(readout(hidden, some), readout(hidden)[:, some])


def test_loss_is_one_minus_the_cosine():
    vectors = torch.randn(3, N_GENES, D_GENE)
    torch.testing.assert_close(alignment_loss(5 * vectors, vectors), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(alignment_loss(-vectors, vectors), 2 * torch.ones(3))


def test_training_reads_a_fresh_subset_of_a_large_panel(toy, monkeypatch):
    vectors, expression, _ = toy
    monkeypatch.setattr("flagst.nn.alignment_heads.MAX_GENES", 3)
    head, hidden = _head(vectors), torch.randn(N_SPOTS, WIDTH)
    torch.manual_seed(0)
    losses = torch.stack([head(hidden, expression)["align_loss"] for _ in range(200)]).detach()
    assert len(torch.unique(losses[:, 0])) > 20
    head.eval()
    torch.testing.assert_close(head(hidden, expression)["align_loss"], head(hidden, expression)["align_loss"])
    monkeypatch.setattr("flagst.nn.alignment_heads.MAX_GENES", N_GENES)
    whole = head(hidden, expression)["align_loss"].detach()
    torch.testing.assert_close(losses.mean(), whole.mean(), atol=0.02, rtol=0)


def _fit(head, hidden, expression, n_steps=300):
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(n_steps):
        optimiser.zero_grad()
        head(hidden, expression)["align_loss"].mean().backward()
        optimiser.step()
    with torch.no_grad():
        losses = head(hidden, expression, controls=torch.Generator().manual_seed(0))
    return {name: float(value.mean()) for name, value in losses.items()}


def _head(vectors, known=None):
    torch.manual_seed(0)
    known = torch.ones(N_GENES, dtype=torch.bool) if known is None else known
    return AlignmentHead(WIDTH, vectors, known, weight=0.5)


def test_controls_come_only_when_asked_for(toy):
    vectors, expression, _ = toy
    losses = _head(vectors)(torch.randn(N_SPOTS, WIDTH), expression)
    assert set(losses) == {"align_loss"} and losses["align_loss"].shape == (N_SPOTS,)


def test_a_hidden_state_with_the_context_teaches_more_than_gene_identities(toy):
    vectors, expression, programs = toy
    hidden = programs @ torch.randn(D_GENE, WIDTH, generator=torch.Generator().manual_seed(1))
    losses = _fit(_head(vectors), hidden, expression)
    assert losses["align_loss"] < 0.1
    assert losses["align_loss_shuffled_genes"] > losses["align_loss"] + 0.3
    assert losses["align_loss_shuffled_spots"] > losses["align_loss"] + 0.3


def test_gene_identities_alone_cannot_match_the_context(toy):
    vectors, expression, _ = toy
    losses = _fit(_head(vectors), torch.ones(N_SPOTS, WIDTH), expression)
    assert losses["align_loss"] > 0.5
    # nothing of the spot was learnt, and the control says so
    assert abs(losses["align_loss_shuffled_spots"] - losses["align_loss"]) < 0.05


def test_the_head_leaves_unknown_genes_out(toy):
    vectors, expression, programs = toy
    known = torch.arange(N_GENES) != 3
    head = _head(vectors * known[:, None], known)
    hidden = torch.randn(N_SPOTS, WIDTH)
    loss = head(hidden, expression)["align_loss"]
    assert torch.isfinite(loss).all()
    changed = expression.clone()
    changed[:, 3] += 5  # a zero vector adds nothing to the context of other genes
    torch.testing.assert_close(head(hidden, changed)["align_loss"], loss)
