"""pl.structure: both heat maps in one order and scale, numbers in titles are those of the metrics."""

import numpy as np
import pytest

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.data.targets import to_target
from flagst.pl import structure


def parts(adata, section):
    rows = (adata.obs["section"] == section).to_numpy()
    graph = moran_graph(adata.obsm["spatial"][rows], "square")
    return adata.layers["flagst"][rows], to_target(adata.X[rows], None, "log2"), graph


def test_titles_carry_the_metrics(predicted):
    axes = structure(predicted)
    assert axes.shape == (2, 3)
    for row, section in enumerate(("S1", "S2")):
        p, m, graph = parts(predicted, section)
        assert axes[row, 0].get_title() == f"{section}, measured"
        assert axes[row, 1].get_title() == f"predicted, GSC {metrics.gsc(p, m):.2f}"
        assert axes[row, 2].get_title() == f"Moran's I, SSC {metrics.ssc(p, m, graph):.2f}"


def test_heat_maps_share_order_and_scale(predicted):
    left, right, _ = structure(predicted, section="S2")[0]
    p, m, _ = parts(predicted, "S2")
    order = predicted.var_names.get_indexer([t.get_text() for t in left.get_yticklabels()])
    assert sorted(order) == list(range(30))
    for ax, values in ((left, m), (right, p)):
        np.testing.assert_allclose(ax.images[0].get_array(), np.corrcoef(values[:, order].T), atol=1e-6)
        assert ax.images[0].get_clim() == (-1, 1)
    # Clustering puts correlated genes side by side.
    shown, unordered = left.images[0].get_array(), np.corrcoef(m.T)
    assert np.diag(shown, 1).mean() > np.diag(unordered, 1).mean() + 0.2


def test_moran_points(predicted):
    ax = structure(predicted, section="S1")[0, 2]
    p, m, graph = parts(predicted, "S1")
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], metrics.morans_i(m, graph))
    np.testing.assert_allclose(points[:, 1], metrics.morans_i(p, graph))
    assert ax.get_xlim() == ax.get_ylim()


def test_genes_constant_in_the_measurement_are_left_out(predicted):
    counts = predicted.X.toarray()
    counts[:, 4] = 3
    predicted.X = counts
    left, _, right = structure(predicted, section="S1")[0]
    assert "GENE4" not in [t.get_text() for t in left.get_yticklabels()]
    assert left.get_xlabel() == "29 genes" and len(right.collections[0].get_offsets()) == 29


def test_genes_that_were_not_measured_are_left_out(predicted):
    expected = structure(predicted[:, predicted.var_names != "GENE4"].copy(), section="S1")[0]
    predicted.var["flagst_measured"] = predicted.var_names != "GENE4"
    # counts in the column make sure that it is the mark that is read
    left, middle, right = structure(predicted, section="S1")[0]
    assert left.get_xlabel() == "29 genes"
    assert [t.get_text() for t in left.get_yticklabels()] == [t.get_text() for t in expected[0].get_yticklabels()]
    np.testing.assert_array_equal(middle.images[0].get_array(), expected[1].images[0].get_array())
    assert (middle.get_title(), right.get_title()) == (expected[1].get_title(), expected[2].get_title())
    assert len(right.collections[0].get_offsets()) == 29
    given = structure(predicted, section="S1", truth=to_target(predicted.X, None, "log2"))
    assert given[0, 0].get_xlabel() == "30 genes"


def test_many_genes_have_no_names(predicted, monkeypatch):
    from flagst.pl import agreement

    monkeypatch.setattr(agreement, "MAX_NAMES", 10)
    assert not structure(predicted, section="S1")[0, 0].get_yticklabels()


def test_two_genes_and_a_flat_prediction(predicted):
    two = predicted[:, :2].copy()
    two.layers["flagst"][:] = 1.0
    axes = structure(two, section="S1")
    assert axes[0, 1].get_title() == "predicted, GSC undefined"
    assert axes[0, 2].get_title() == "Moran's I, SSC undefined"


def test_errors(predicted):
    with pytest.raises(KeyError, match="no 'S9'"):
        structure(predicted, section="S9")
    with pytest.raises(KeyError, match="no 'flagst_std'"):
        structure(predicted, "flagst_std")
    predicted.X = None
    with pytest.raises(ValueError, match="no measured expression"):
        structure(predicted)
