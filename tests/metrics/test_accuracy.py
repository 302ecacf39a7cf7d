"""Accuracy metrics against loops over genes, their invariances and errors."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import pearsonr

from flagst.metrics import ccc, mae, mse, pcc, per_gene_pcc


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    measured = rng.gamma(2.0, size=(40, 7))
    return 0.5 * measured + rng.normal(size=measured.shape), measured


def test_per_gene_pcc_equals_scipy_gene_by_gene(pair):
    predicted, measured = pair
    expected = [pearsonr(predicted[:, g], measured[:, g])[0] for g in range(7)]
    np.testing.assert_allclose(per_gene_pcc(predicted, measured), expected, atol=1e-12)
    assert pcc(predicted, measured) == pytest.approx(np.mean(expected), abs=1e-12)


def test_errors_equal_loops(pair):
    predicted, measured = pair
    squared, absolute = [], []
    for spot in range(40):
        for gene in range(7):
            squared.append((predicted[spot, gene] - measured[spot, gene]) ** 2)
            absolute.append(abs(predicted[spot, gene] - measured[spot, gene]))
    assert mse(predicted, measured) == pytest.approx(np.mean(squared), abs=1e-12)
    assert mae(predicted, measured) == pytest.approx(np.mean(absolute), abs=1e-12)


def test_ccc_equals_lins_formula(pair):
    predicted, measured = pair
    per_gene = []
    for p, m in zip(predicted.T, measured.T, strict=True):
        covariance = np.cov(p, m, bias=True)
        spread = covariance[0, 0] + covariance[1, 1] + (p.mean() - m.mean()) ** 2
        per_gene.append(2 * covariance[0, 1] / spread)
    assert ccc(predicted, measured) == pytest.approx(np.mean(per_gene), abs=1e-12)
    assert ccc(measured, measured) == pytest.approx(1.0)
    assert ccc(measured + 3, measured) < 0.5  # a pure shift costs concordance, not correlation
    assert pcc(measured + 3, measured) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [pcc, mse, mae, ccc])
def test_spot_order_does_not_matter(pair, metric):
    predicted, measured = pair
    order = np.random.default_rng(1).permutation(40)
    assert metric(predicted[order], measured[order]) == pytest.approx(metric(predicted, measured), abs=1e-12)


def test_pcc_ignores_rescaling_of_genes(pair):
    predicted, measured = pair
    scale, shift = np.logspace(-6, 6, 7), np.linspace(-1e4, 1e4, 7)
    rescaled = pcc(predicted * scale + shift, measured * 3 - 1)
    assert rescaled == pytest.approx(pcc(predicted, measured), abs=1e-6)


def test_constant_genes(pair):
    predicted, measured = (x.copy() for x in pair)
    measured[:, 0] = 0.1  # left out, in every metric
    predicted[:, 1] = 2.0  # counts with correlation 0
    per_gene = per_gene_pcc(predicted, measured)
    assert np.isnan(per_gene[0]) and per_gene[1] == 0.0
    assert pcc(predicted, measured) == pytest.approx(per_gene[1:].sum() / 6)
    assert mse(predicted, measured) == pytest.approx(np.mean((predicted - measured)[:, 1:] ** 2))
    assert mae(predicted, measured) == pytest.approx(np.mean(np.abs(predicted - measured)[:, 1:]))
    assert ccc(predicted, measured) == pytest.approx(ccc(predicted[:, 1:], measured[:, 1:]))


def test_float32_rounding_is_not_variation(pair):
    predicted, measured = (x.astype(np.float32) for x in pair)
    predicted[:, 0] = np.float32(3.1)
    predicted[::2, 0] = np.nextafter(np.float32(3.1), np.float32(4))
    assert per_gene_pcc(predicted, measured)[0] == 0.0


def test_large_offsets_keep_precision():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(100, 3))
    assert pcc(measured + 1e6, measured) == pytest.approx(1.0, abs=1e-8)


def test_sparse_input(pair):
    predicted, measured = pair
    assert pcc(sp.csr_matrix(predicted), sp.csr_array(measured)) == pytest.approx(pcc(predicted, measured))


@pytest.mark.parametrize("metric", [pcc, per_gene_pcc, mse, mae, ccc])
def test_bad_input_is_named(pair, metric):
    predicted, measured = pair
    with pytest.raises(ValueError, match=r"same shape; got \(40, 6\) and \(40, 7\)"):
        metric(predicted[:, :6], measured)
    with pytest.raises(ValueError, match="predicted has NaN"):
        metric(np.where(np.arange(40)[:, None] == 5, np.nan, predicted), measured)
    with pytest.raises(ValueError, match="measured has NaN or infinite"):
        metric(predicted, np.full_like(measured, np.inf))
    with pytest.raises(ValueError, match="at least 3"):
        metric(predicted[:2], measured[:2])
    with pytest.raises(ValueError, match="n_spots, n_genes"):
        metric(predicted[:, 0], measured[:, 0])
    with pytest.raises(ValueError, match="no gene that varies"):
        metric(predicted, np.ones_like(measured))
    with pytest.raises(TypeError, match="numeric"):
        metric(predicted.astype(str), measured)


def test_input_is_not_changed(pair):
    predicted, measured = pair
    before = predicted.copy(), measured.copy()
    for metric in (pcc, mse, mae, ccc):
        metric(predicted, measured)
    np.testing.assert_array_equal(predicted, before[0])
    np.testing.assert_array_equal(measured, before[1])
