"""Scores against the number of network evaluations."""

import network_evaluations
import numpy as np
import pytest


def _record(structure, evaluations, seed, test, gsc):
    return {
        "structure": structure, "evaluations": evaluations, "seed": seed, "test": test, "pcc": 0.5, "gsc": gsc,
        "ssc": 0.6, "seconds": 0.25,
    }  # fmt: skip


def test_the_table_has_means_spreads_and_differences_from_the_most():
    records = [_record(1.0, 4, s, t, 0.7 + 0.02 * s + 0.1 * (t == "B")) for s in (0, 1) for t in "AB"]
    records += [_record(1.0, 200, s, t, 0.8 + 0.1 * (t == "B")) for s in (0, 1) for t in "AB"]
    few, most = network_evaluations.table(records).splitlines()[1:]
    # seeds have 0.75 and 0.77, each the mean of two sections
    assert few.split()[:2] == ["1", "4"] and "0.760 ± 0.014" in few and "-0.0900" in few and few.endswith("0.25")
    assert most.split()[:2] == ["1", "200"] and "0.850 ± 0.000" in most and "+0.0000" in most


def test_one_training_serves_all_numbers(tmp_path):
    import anndata as ad

    rng = np.random.default_rng(0)
    grid = 100.0 * np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2)
    image = rng.normal(size=(108, 4)).astype(np.float32)
    adata = ad.AnnData(rng.poisson(np.exp(1 + image @ rng.normal(size=(4, 6)) / 2)).astype(np.float32) + 1)
    adata.obs["section"] = np.repeat(["A", "B", "C"], 36)
    adata.obsm["spatial"], adata.obsm["X_image"] = np.tile(grid, (3, 1)), image
    adata.write_h5ad(tmp_path / "C.h5ad")
    job = {
        "method": "FLAG", "preset": "default", "settings": {"max_steps": 2}, "target": "log2", "seeds": [1],
        "structures": [0.5, 1.0], "evaluations": [2, 5],
        "splits": [{"train": ["A", "B"], "test": "C", "file": str(tmp_path / "C.h5ad")}],
    }  # fmt: skip
    with pytest.warns(UserWarning, match="2 section"):
        records = network_evaluations.run(job)
    assert [(r["evaluations"], r["structure"], r["seed"]) for r in records] == [
        (2, 0.5, 1), (2, 1.0, 1), (5, 0.5, 1), (5, 1.0, 1),
    ]  # fmt: skip
    assert all(r["seconds"] > 0 for r in records)
    assert records[1]["gsc"] != records[3]["gsc"]
