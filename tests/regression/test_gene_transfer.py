"""Kernel ridge over genes, against its definition, and on genes whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from flagst.regression import GeneTransfer
from flagst.regression.gene_transfer import ALPHAS, GAINS, OWN_SHARE, WIDTHS

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
    weights, noise, level, sd = transfer.weights(genes[0][N_GENES:])
    predicted, measured = genes[1][:, :N_GENES] @ weights.T, genes[2][:, N_GENES:]
    pcc = [np.corrcoef(predicted[:, i], measured[:, i])[0, 1] for i in range(10)]
    assert min(pcc) > 0.8 and abs(transfer.pcc - np.mean(pcc)) < 0.05  # the score of left-out genes is honest
    np.testing.assert_allclose(level, 3)
    np.testing.assert_allclose(sd, 2)
    # noise fills up what the others do not say
    total = (genes[2][:, :N_GENES] @ weights.T).var(axis=0) + noise**2
    np.testing.assert_allclose(total, 1, atol=0.02)


def test_no_gene_varies_more_than_it_should(genes):
    """Vectors beyond all others', where weights alone would overshoot."""
    transfer = fit(genes)
    weights = transfer.weights(genes[0][:N_GENES])[0]
    assert (genes[2][:, :N_GENES] @ weights.T).var(axis=0).max() < 1 + 1e-6


def predictions(genes, width, alpha, gain, rest, new):
    """Kernel ridge from some genes to others, of what is shared and of what is not, by the definition."""
    vectors, mean = genes[0], genes[1][:, rest]
    average, of_others = genes[1][:, :N_GENES].mean(axis=1), mean.mean(axis=1)
    loading = np.array([np.polyfit(average, column, 1)[0] for column in genes[1][:, :N_GENES].T])
    kernel = np.exp(-width * ((vectors[:, None] - vectors[None]) ** 2).sum(-1))
    like = np.linalg.solve(kernel[np.ix_(rest, rest)] + alpha * np.eye(len(rest)), kernel[np.ix_(rest, new)]).T
    shared = np.outer(of_others, loading.mean() + like @ (loading[rest] - loading.mean()))
    return shared + gain * (mean - np.outer(average, loading[rest])) @ like.T


def test_weights_are_those_of_kernel_ridge(genes):
    transfer, panel, new = fit(genes), np.arange(N_GENES), np.arange(N_GENES, N_GENES + 10)
    weights = transfer.weights(3 * genes[0][N_GENES:])[0]  # length does not count
    found = genes[1][:, :N_GENES] @ weights.T
    expected = [predictions(genes, transfer.width, alpha, transfer.gain, panel, new) for alpha in ALPHAS]
    # where the variance would exceed 1 all weights of a gene are smaller, by the same factor
    scale = [(found / values).mean(axis=0) for values in expected]
    apart = [np.abs(found - values * s).max() for values, s in zip(expected, scale, strict=True)]
    assert min(apart) < 1e-8 and (scale[int(np.argmin(apart))] < 1 + 1e-8).all()
    assert transfer.width in WIDTHS and transfer.gain in GAINS


def test_choice_is_made_on_genes_left_out_one_at_a_time(genes):
    """The scores equal refitting without each gene."""
    transfer, measured = fit(genes), genes[2][:, :N_GENES]
    shared, scores = measured.mean(axis=1), {}
    design = np.stack([np.ones(N_SPOTS), shared, shared**2], axis=1)

    def apart(values):
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]

    for alpha in ALPHAS:
        for gain in GAINS:
            pcc = []
            for gene in range(N_GENES):
                rest = np.delete(np.arange(N_GENES), gene)
                found = predictions(genes, transfer.width, alpha, gain, rest, [gene])[:, 0]
                own = np.corrcoef(apart(found), apart(measured[:, gene]))[0, 1]
                pcc.append((np.corrcoef(found, measured[:, gene])[0, 1], own))
            scores[alpha, gain] = np.mean(pcc, axis=0)
    best = max(scores, key=lambda choice: scores[choice] @ [1, OWN_SHARE])
    assert best[1] == transfer.gain and scores[best] == pytest.approx([transfer.pcc, transfer.own_pcc], abs=1e-8)


def test_what_is_shared_does_not_drown_what_is_not(genes):
    """A strong part that all genes have, and two programs: both are found in genes that are new."""
    depth = 3 * RNG.normal(size=(N_SPOTS, 1))
    vectors, mean, expression = genes[0], genes[1] + depth, genes[2] + depth
    scale = expression.std(axis=0)
    transfer = fit((vectors, mean / scale, expression / scale))
    weights = transfer.weights(vectors[N_GENES:])[0]
    found = (mean / scale)[:, :N_GENES] @ weights.T
    for gene in range(10):
        measured = expression[:, N_GENES + gene]
        own = np.corrcoef(found[:, gene] - np.polyval(np.polyfit(depth[:, 0], found[:, gene], 1), depth[:, 0]),
                          measured - depth[:, 0])[0, 1]  # fmt: skip
        assert np.corrcoef(found[:, gene], measured)[0, 1] > 0.95 and own > 0.7
    assert transfer.own_pcc > 0.7


def test_a_gene_like_no_other_gets_the_average(genes):
    """Vectors at right angles to all others, and a narrow kernel."""
    transfer = replace(fit(genes), width=50.0)
    kernel = np.exp(-100 * (1 - transfer.vectors @ transfer.vectors.T))
    transfer = replace(transfer, solve=np.linalg.inv(kernel + 0.1 * np.eye(N_GENES)))
    wide = replace(transfer, vectors=np.pad(transfer.vectors, ((0, 0), (0, 1))))
    weights = wide.weights(np.array([[0.0, 0.0, 1.0]]))[0]
    np.testing.assert_allclose(weights, 1 / N_GENES, atol=1e-9)


def test_genes_without_a_vector_are_not_used(genes):
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
