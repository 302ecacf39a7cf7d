"""Panels around a core, and the table of the gene dimension curse."""

from types import SimpleNamespace

import gene_dimension_curse as curse
import numpy as np
import pytest

from flagst import datasets
from flagst.settings import resolve


def _record(method, size, genes, value, seed=0):
    scores = {"pcc": value, "gsc": value + 0.1, "ssc": value + 0.2}
    return {"method": method, "size": size, "genes": genes, "seed": seed, "seconds": 3.0} | scores


def test_panels_grow_around_the_core(monkeypatch):
    """Whatever a larger panel leaves out stays, and smaller panels come first."""
    import pandas as pd

    names = [f"g{i}" for i in range(300)]
    ranked = {50: names[100:150], 60: names[95:155], 200: names[0:200]}
    ranked[60][3] = "g299"  # a gene of the core is not in the panel of 60
    table = SimpleNamespace(var=pd.DataFrame(index=names), var_names=pd.Index(names))

    def select_genes(table, size, *, train_sections):
        assert train_sections == ["A"]
        table.var["flagst_panel"] = np.isin(names, ranked[size])

    monkeypatch.setattr("flagst.pp.select_genes", select_genes)
    order = curse.nested_order(table, ["A"], [200, 60])
    assert len(order) == len(set(order)) == 200
    assert set(order[:50]) == set(ranked[50]) and set(order[:60]) <= set(ranked[50]) | set(ranked[60])
    assert order[:60] == curse.nested_order(table, ["A"], [60])


def test_the_table_and_the_change_of_the_core():
    records = [_record("FLAG", s, g, v) for s, v in ((10, 0.5), (50, 0.6), (800, 0.58)) for g in ("core", "all")]
    lines = curse.table(records).splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["FLAG", "10", "0.500", "0.600"], ["FLAG", "50", "0.600", "0.700"], ["FLAG", "800", "0.580", "0.680"],
    ]  # fmt: skip
    assert curse.change_line(records).endswith("FLAG PCC -0.020, GSC -0.020, SSC -0.020")  # 10 is not the core


def test_methods_are_settings_of_the_model_and_cores_are_scored_alone(tmp_path):
    for changes in curse.METHODS.values():
        resolve("default", target="log2", **{"gfm": "coexpression"} | changes)
    table = datasets.simulated_sections(n_sections=3, n_spots=50, n_genes=60)["table"]
    table.obsm["X_image"] = np.asarray(table.obsm["true_programs"], dtype=np.float32)
    table.uns.pop("spatial")
    table.write_h5ad(tmp_path / "panels.h5ad")
    settings = curse.METHODS["no mean"] | {"max_steps": 2}
    job = {
        "method": "FLAG", "variant": "no mean", "size": 55, "seed": 0, "target": "log2", "structures": [0.5],
        "train": ["S1", "S2"], "test": "S3", "file": str(tmp_path / "panels.h5ad"), "settings": settings,
    }  # fmt: skip
    with pytest.warns(UserWarning, match="2 section"):
        records = curse.run(job)
    assert [(r["method"], r["size"], r["genes"]) for r in records] == [("no mean", 55, "core"), ("no mean", 55, "all")]
    assert all(np.isfinite([r[score] for score in curse.SCORES]).all() for r in records)
    assert records[0]["gsc"] != records[1]["gsc"]
