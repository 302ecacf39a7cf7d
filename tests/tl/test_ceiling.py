"""tl.structure_ceiling: per section the numbers of the metric, stored and readable."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.tl import evaluate, structure_ceiling


def by_hand(adata, section, layout, target):
    rows = (adata.obs["section"] == section).to_numpy()
    totals = adata.obs["total_counts"].to_numpy()[rows]

    def transform(half, half_totals):
        if target == "log2":
            return np.log2(half + 1.0)
        return np.log1p(1e4 * half / half_totals[:, None])

    counts, graph = adata.X[rows].toarray(), moran_graph(adata.obsm["spatial"][rows], layout)
    known = totals if target == "lognorm" else None
    return metrics.structure_ceiling(counts, graph, transform, total_counts=known, n_splits=3, seed=2)


@pytest.mark.parametrize("target", ["log2", "lognorm"])
def test_numbers_are_those_of_the_metric(predicted, target):
    table = structure_ceiling(predicted, target=target, n_splits=3, seed=2)
    assert list(table.index) == [*predicted.obs["section"].unique(), "mean"]
    for section, layout in (("A", "square"), ("B", "hex")):
        expected = by_hand(predicted, section, layout, target)
        for name in ("gsc", "ssc"):
            for part in ("half", "reliability", "reliability_sd", "ceiling"):
                value = getattr(expected[name], part)
                assert table.loc[section, f"{name}_{part}"] == pytest.approx(value, rel=1e-4), (name, part)
    np.testing.assert_allclose(table.loc["mean"], table.loc[["A", "B"]].mean())


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_record_survives_storage_and_stays_beside_metrics(predicted, tmp_path, container):
    table = structure_ceiling(predicted, n_splits=2)  # the recorded target
    evaluate(predicted)
    path = tmp_path / f"predicted.{container}"
    getattr(predicted, f"write_{container}")(path)
    stored = getattr(ad, f"read_{container}")(path)
    record = stored.uns["flagst"]["ceiling"]
    assert dict(record["mean"]) == pytest.approx(table.loc["mean"].to_dict(), nan_ok=True)
    assert record["target"] == "log2" and record["n_splits"] == 2 and "half" in record["definitions"]
    pd.testing.assert_frame_equal(structure_ceiling(stored, n_splits=2), table)


def test_genes_that_were_not_measured_are_left_out(predicted):
    kept = predicted.var_names.difference(["g2"], sort=False)
    predicted.var["flagst_measured"] = predicted.var_names != "g2"
    found = structure_ceiling(predicted, n_splits=2)
    pd.testing.assert_frame_equal(found, structure_ceiling(predicted[:, kept].copy(), n_splits=2))


def test_a_spot_with_an_empty_half(predicted):
    counts = predicted.X.toarray()
    counts[0] = 0
    counts[0, 0] = 1
    predicted.X = counts
    predicted.obs["total_counts"] = counts.sum(axis=1)
    assert structure_ceiling(predicted, target="lognorm", n_splits=2).notna().all().all()


def test_errors(predicted):
    with pytest.raises(KeyError, match="no 'where'"):
        structure_ceiling(predicted, spatial_key="where")
    with pytest.raises(ValueError, match="target must be one of"):
        structure_ceiling(predicted, target="cpm")
    no_totals = predicted.copy()
    del no_totals.obs["total_counts"]
    with pytest.raises(KeyError, match="total_counts.*over all genes"):
        structure_ceiling(no_totals, target="lognorm")
    with pytest.raises(ValueError, match="Section .*n_splits must be at least 1"):
        structure_ceiling(predicted, n_splits=0)
    assert "ceiling" not in predicted.uns["flagst"]
    fractions = predicted.copy()
    fractions.X = fractions.X * 0.5
    with pytest.raises(ValueError, match="non-integer"):
        structure_ceiling(fractions)
    del predicted.uns["flagst"]
    with pytest.raises(KeyError, match="no 'target'"):
        structure_ceiling(predicted)
    predicted.X = None
    with pytest.raises(ValueError, match="only raw counts can be split"):
        structure_ceiling(predicted, target="log2")
