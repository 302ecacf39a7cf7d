"""Kernel ridge over genes, against its definition, and on genes whose answer is known."""

import numpy as np
import pytest

from flagst.regression import GeneTransfer
from flagst.regression.gene_transfer import ALPHAS, WIDTHS

RNG = np.random.default_rng(0)
N_SPOTS, N_GENES = 500, 40


@pytest.fixture(scope="module")
def genes():
    """Genes on two programs: vectors are their loadings, expression follows them."""
    vectors = RNG.normal(size=(N_GENES + 10, 2))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    programs = RNG.normal(size=(N_SPOTS, 2))
    expression = programs @ vectors.T + 0.5 * RNG.normal(size=(N_SPOTS, N_GENES + 10))
    expression = (expression - expression.mean(axis=0)) / expression.std(axis=0)
    return vectors, programs @ vectors.T, expression


def fit(genes, vectors=None, **changes):
    known, mean, expression = genes[0][:N_GENES], genes[1][:, :N_GENES], genes[2][:, :N_GENES]
    level = changes.get("level", np.full(N_GENES, 3.0))
    return GeneTransfer.fit(known if vectors is None else vectors, mean, expression, level, np.full(N_GENES, 2.0))


def test_new_genes_are_predicted_from_their_vectors(genes):
    transfer = fit(genes)
    weights, noise, level, spread = transfer.weights(genes[0][N_GENES:])
    predicted, measured = genes[1][:, :N_GENES] @ weights.T, genes[2][:, N_GENES:]
    pcc = [np.corrcoef(predicted[:, i], measured[:, i])[0, 1] for i in range(10)]
    assert min(pcc) > 0.8 and abs(transfer.pcc - np.mean(pcc)) < 0.05  # the score of left-out genes is honest
    np.testing.assert_allclose(level, 3)
    np.testing.assert_allclose(spread, 2)
    # noise fills up what the others do not say
    total = (genes[2][:, :N_GENES] @ weights.T).var(axis=0) + noise**2
    np.testing.assert_allclose(total, 1, atol=0.02)


def test_no_gene_varies_more_than_it_should(genes):
    """Vectors beyond all others', where weights alone would overshoot."""
    transfer = fit(genes)
    weights = transfer.weights(genes[0][:N_GENES])[0]
    assert (genes[2][:, :N_GENES] @ weights.T).var(axis=0).max() < 1 + 1e-6


def test_weights_are_those_of_kernel_ridge(genes):
    transfer = fit(genes)
    vectors, new = genes[0][:N_GENES], genes[0][N_GENES:]

    def kernel(a, b):
        return np.exp(-transfer.width * ((a[:, None] - b[None]) ** 2).sum(-1))

    expected = [
        np.linalg.solve(kernel(vectors, vectors) + alpha * np.eye(N_GENES), kernel(vectors, new)).T for alpha in ALPHAS
    ]
    found = transfer.weights(3 * new)[0]  # length does not count
    assert min(np.abs(found - weights).max() for weights in expected) < 1e-8 and transfer.width in WIDTHS


def test_choice_is_made_on_genes_left_out_one_at_a_time(genes):
    """The score equals refitting without each gene."""
    transfer = fit(genes)
    without = []
    for alpha in ALPHAS:
        pcc = []
        for gene in range(N_GENES):
            rest = np.delete(np.arange(N_GENES), gene)
            vectors = genes[0][:N_GENES]
            squared = ((vectors[:, None] - vectors[None]) ** 2).sum(-1)
            kernel = np.exp(-transfer.width * squared)
            weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + alpha * np.eye(len(rest)), kernel[rest, gene])
            pcc.append(np.corrcoef(genes[1][:, rest] @ weights, genes[2][:, gene])[0, 1])
        without.append(np.mean(pcc))
    assert max(without) == pytest.approx(transfer.pcc, abs=1e-8)


def test_genes_without_a_vector_play_no_part(genes):
    vectors = genes[0][:N_GENES].copy()
    vectors[[0, 7]] = 0
    transfer = fit(genes, vectors)
    assert 0 not in transfer.known and 7 not in transfer.known and len(transfer.known) == N_GENES - 2
    assert transfer.weights(genes[0][N_GENES:])[0].shape == (10, N_GENES - 2)


def test_level_is_that_of_like_genes(genes):
    level = np.where(genes[0][:N_GENES, 0] > 0, 5.0, 1.0)
    found = fit(genes, level=level).weights(np.array([[1.0, 0.0], [-1.0, 0.0]]))[2]
    assert found[0] > found[1] and (found >= 1).all() and (found <= 5).all()


def test_shuffled_vectors_say_less(genes):
    shuffled = fit(genes, RNG.permutation(genes[0][:N_GENES]))
    assert shuffled.pcc < fit(genes).pcc - 0.3


def test_too_few_vectors(genes):
    vectors = np.zeros((N_GENES, 2))
    vectors[:2] = 1
    with pytest.raises(ValueError, match="2 genes of the panel have a vector"):
        fit(genes, vectors)
