"""GSC and correlation RMSE against explicit correlation matrices."""

import numpy as np
import pytest

from flagst.metrics import correlation_rmse, gene_correlation, gsc, replicate_gsc, structure


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 9)) + rng.normal(size=(60, 9))
    return measured + 2 * rng.normal(size=measured.shape), measured


def triangles(predicted, measured):
    """Both upper triangles from numpy's own correlation matrix, pair by pair."""
    p, m = np.corrcoef(predicted.T), np.corrcoef(measured.T)
    pairs = [(i, j) for i in range(len(p)) for j in range(i + 1, len(p))]
    return np.array([p[ij] for ij in pairs]), np.array([m[ij] for ij in pairs])


@pytest.mark.parametrize("block", [512, 4, 1])
def test_equal_to_explicit_matrices(pair, block, monkeypatch):
    monkeypatch.setattr(structure, "BLOCK", block)
    p, m = triangles(*pair)
    assert gsc(*pair) == pytest.approx(np.corrcoef(p, m)[0, 1], abs=1e-12)
    assert correlation_rmse(*pair) == pytest.approx(np.sqrt(np.mean((p - m) ** 2)), abs=1e-12)


def test_gene_correlation_equals_numpy_and_handles_constants(pair):
    _, measured = pair
    np.testing.assert_allclose(gene_correlation(measured), np.corrcoef(measured.T), atol=1e-12)
    measured = measured.copy()
    measured[:, 2] = 1.5
    correlation = gene_correlation(measured)
    assert correlation[2, 2] == 1 and not correlation[2, [0, 1, 3]].any()


@pytest.mark.parametrize("metric", [gsc, correlation_rmse])
def test_invariances(pair, metric):
    predicted, measured = pair
    rng = np.random.default_rng(1)
    spots, genes = rng.permutation(60), rng.permutation(9)
    value = metric(predicted, measured)
    assert metric(predicted[spots], measured[spots]) == pytest.approx(value, abs=1e-12)
    assert metric(predicted[:, genes], measured[:, genes]) == pytest.approx(value, abs=1e-12)
    scale, shift = np.logspace(-4, 4, 9), np.linspace(-50, 50, 9)
    assert metric(predicted * scale + shift, measured / scale) == pytest.approx(value, abs=1e-8)


def test_perfect_and_flipped(pair):
    _, measured = pair
    assert gsc(measured, measured) == pytest.approx(1.0)
    assert correlation_rmse(measured, measured) == pytest.approx(0.0, abs=1e-12)
    # GSC does not see that all correlations are too weak; the RMSE does.
    noisy = measured + 3 * np.random.default_rng(2).normal(size=measured.shape)
    assert correlation_rmse(noisy, measured) > 0.1


def test_constant_genes(pair):
    predicted, measured = (x.copy() for x in pair)
    predicted[:, 4] = 7.0
    expected = predicted.copy()
    p, m = np.corrcoef(np.delete(expected, 4, 1).T), np.corrcoef(measured.T)
    full = np.zeros((9, 9))
    full[np.ix_(*[np.delete(np.arange(9), 4)] * 2)] = p
    upper = np.triu_indices(9, 1)
    assert gsc(predicted, measured) == pytest.approx(np.corrcoef(full[upper], m[upper])[0, 1], abs=1e-12)
    measured[:, 0] = 1.0
    assert gsc(predicted, measured) == pytest.approx(gsc(predicted[:, 1:], measured[:, 1:]), abs=1e-12)


def test_no_structure_predicted_scores_zero(pair):
    _, measured = pair
    assert gsc(np.broadcast_to(measured.mean(0), measured.shape), measured) == 0.0
    one_profile = measured[:, :1] * np.arange(1, 10)  # all pairs correlate perfectly
    assert gsc(one_profile, measured) == 0.0


def test_too_few_genes_is_nan(pair):
    predicted, measured = pair
    assert np.isnan(gsc(predicted[:, :2], measured[:, :2]))
    assert np.isnan(correlation_rmse(predicted[:, :1], measured[:, :1]))


def test_errors(pair):
    predicted, measured = pair
    with pytest.raises(ValueError, match="same shape"):
        gsc(predicted[:-1], measured)
    with pytest.raises(ValueError, match="NaN"):
        gsc(predicted * np.nan, measured)
    with pytest.raises(ValueError, match="at least 3"):
        gene_correlation(measured[:2])


def test_replicate_has_spots_of_its_own(pair):
    replicate, measured = pair[0][:25].copy(), pair[1].copy()
    p, m = triangles(replicate, measured)
    assert replicate_gsc(replicate, measured) == pytest.approx(np.corrcoef(p, m)[0, 1], abs=1e-12)
    assert replicate_gsc(*pair) == pytest.approx(gsc(*pair), abs=1e-12)
    measured[:, 3] = 2.0
    rest = np.delete(np.arange(9), 3)
    expected = replicate_gsc(replicate[:, rest], measured[:, rest])
    assert replicate_gsc(replicate, measured) == pytest.approx(expected)
    with pytest.raises(ValueError, match="same genes; got 8 and 9"):
        replicate_gsc(replicate[:, rest], measured)
    with pytest.raises(ValueError, match="no gene that varies"):
        replicate_gsc(replicate, np.ones((4, 9)))
