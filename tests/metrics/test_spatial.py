"""Moran's I, SSC and Moran RMSE: against scanpy, loops and analytic values."""

import numpy as np
import pytest
import scipy.sparse as sp

from flagst.metrics import moran_ccc, moran_mae, moran_rmse, morans_i, replicate_ssc, spatial, ssc


@pytest.fixture
def graph():
    """A directed random graph with unequal weights, so that no symmetry hides a mistake."""
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((50, 50)) < 0.1, rng.random((50, 50)), 0.0)
    np.fill_diagonal(dense, 0.0)
    return sp.csr_matrix(dense)


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    measured = rng.poisson(1.0, size=(50, 8)).astype(float)
    return measured + rng.normal(size=measured.shape), measured


def moran_loop(x, w):
    z, top = x - x.mean(), 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            top += w[i, j] * z[i] * z[j]
    return len(x) / w.sum() * top / (z**2).sum()


@pytest.mark.parametrize("to_values", [np.asarray, sp.csr_matrix, lambda x: x.astype(np.float32)])
@pytest.mark.parametrize("row_normalised", [True, False])
def test_equals_scanpy(graph, pair, to_values, row_normalised):
    import scanpy as sc

    if row_normalised:
        graph = sp.csr_matrix(graph / graph.sum(axis=1))
    values = to_values(pair[1])
    expected = sc.metrics.morans_i(graph, values.T)
    tolerance = 1e-6 if values.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(morans_i(values, graph), expected, atol=tolerance)
    np.testing.assert_allclose(morans_i(values, graph.toarray()), morans_i(values, graph), atol=1e-12)


def test_equals_double_loop(graph, pair, monkeypatch):
    monkeypatch.setattr(spatial, "BLOCK", 3)
    values, weights = pair[0], graph.toarray()
    expected = [moran_loop(gene, weights) for gene in values.T]
    np.testing.assert_allclose(morans_i(values, graph), expected, atol=1e-12)


def test_checkerboard_is_minus_one_and_halves_are_smooth():
    ring = np.roll(np.eye(10), 1, axis=1) + np.roll(np.eye(10), -1, axis=1)
    alternating, halves = np.arange(10) % 2, np.arange(10) < 5
    values = np.column_stack([alternating, halves]).astype(float)
    np.testing.assert_allclose(morans_i(values, ring), [-1.0, 0.6])


def test_constant_gene_is_zero(graph, pair):
    predicted, measured = (x.copy() for x in pair)
    predicted[:, 0] = 0.1
    assert morans_i(predicted, graph)[0] == 0.0
    # ... and takes part in SSC with that zero.
    expected = np.corrcoef(morans_i(predicted, graph), morans_i(measured, graph))[0, 1]
    assert ssc(predicted, measured, graph) == pytest.approx(expected, abs=1e-12)
    measured[:, 1] = 4.0
    rest = np.delete(np.arange(8), 1)
    assert ssc(predicted, measured, graph) == pytest.approx(ssc(predicted[:, rest], measured[:, rest], graph))


def test_moran_rmse_equals_definition(graph, pair):
    gap = morans_i(pair[0], graph) - morans_i(pair[1], graph)
    assert moran_rmse(*pair, graph) == pytest.approx(np.sqrt(np.mean(gap**2)), abs=1e-12)


@pytest.mark.parametrize("metric", [ssc, moran_rmse])
def test_invariances(graph, pair, metric):
    predicted, measured = pair
    value = metric(predicted, measured, graph)
    order = np.random.default_rng(2).permutation(50)
    shuffled = metric(predicted[order], measured[order], graph[order][:, order])
    assert shuffled == pytest.approx(value, abs=1e-12)
    scale, shift = np.logspace(-4, 4, 8), np.linspace(-50, 50, 8)
    assert metric(predicted * scale + shift, measured / scale, graph) == pytest.approx(value, abs=1e-8)


def test_degenerate_cases(graph, pair):
    _, measured = pair
    assert ssc(np.broadcast_to(measured.mean(0), measured.shape), measured, graph) == 0.0
    assert np.isnan(ssc(measured[:, :2], measured[:, :2], graph))
    assert ssc(measured, measured, graph) == pytest.approx(1.0)


def test_bad_graph(graph, pair):
    with pytest.raises(ValueError, match=r"graph must be \(50, 50\).*got \(49, 49\)"):
        ssc(*pair, graph[:49, :49])
    with pytest.raises(ValueError, match=r"got \(50, 4\)"):  # a list of neighbours is not a graph
        morans_i(pair[0], np.zeros((50, 4), dtype=int))
    with pytest.raises(ValueError, match="no edges"):
        morans_i(pair[0], sp.csr_matrix((50, 50)))
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        morans_i(pair[0], graph * np.inf)
    with pytest.raises(ValueError, match="values has NaN"):
        morans_i(pair[0] * np.nan, graph)


def test_moran_mae_and_concordance_equal_their_definitions(graph, pair):
    guess, true = (morans_i(values, graph) for values in pair)
    assert moran_mae(*pair, graph) == pytest.approx(np.abs(guess - true).mean(), abs=1e-12)
    moments = np.cov(guess, true, bias=True)
    expected = 2 * moments[0, 1] / (moments[0, 0] + moments[1, 1] + (guess.mean() - true.mean()) ** 2)
    assert moran_ccc(*pair, graph) == pytest.approx(expected, abs=1e-12)
    assert moran_ccc(pair[1], pair[1], graph) == pytest.approx(1.0)
    assert abs(moran_ccc(*pair, graph)) <= abs(ssc(*pair, graph))
    assert np.isnan(moran_ccc(pair[0][:, :2], pair[1][:, :2], graph))
    assert moran_ccc(np.ones_like(pair[0]), pair[1], graph) == 0.0


def test_replicate_has_spots_and_a_graph_of_its_own(graph, pair):
    replicate, measured = pair[0][:30].copy(), pair[1].copy()
    own = graph[:30][:, :30]
    measured[:, 1], replicate[:, 2] = 4.0, 0.0
    kept = np.delete(np.arange(8), 1)
    expected = np.corrcoef(morans_i(replicate, own)[kept], morans_i(measured, graph)[kept])[0, 1]
    assert replicate_ssc(replicate, measured, own, graph) == pytest.approx(expected, abs=1e-12)
    assert replicate_ssc(*pair, graph, graph) == pytest.approx(ssc(*pair, graph), abs=1e-12)
    with pytest.raises(ValueError, match="same genes; got 7 and 8"):
        replicate_ssc(replicate[:, 1:], measured, own, graph)
