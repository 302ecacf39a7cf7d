"""Rows of the alignment benchmark: every variant runs, hidden genes are hidden, shuffled vectors know less."""

import alignment
import numpy as np
import pytest

from flagst import datasets, gfm, pp


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    table = datasets.simulated_sections(n_sections=4, n_spots=80, n_genes=40, seed=0)["table"]
    reference = datasets.simulated_sections(n_sections=3, n_spots=150, n_genes=40, seed=0)["table"]
    table.obsm["X_image"] = np.asarray(table.obsm["true_programs"], dtype=np.float32)
    for source in ("other patients", "other sections"):
        pp.gene_embeddings(table, gfm.CoExpression(reference), key_added=f"X_gene_{source}")
    table.uns.pop("spatial")
    path = tmp_path_factory.mktemp("alignment") / "table.h5ad"
    table.write_h5ad(path)
    test = str(table.obs["section"].iloc[0])
    return {"file": str(path), "test": test, "target": "lognorm", "seed": 0, "n_hidden": 10, "max_steps": 6}


VARIANTS = ("no alignment", "other patients", "other patients, tied", "other patients, shuffled")


@pytest.mark.slow
def test_variants_run_and_shuffled_vectors_know_less(job):
    found = {variant: alignment.run(job | {"variant": variant}) for variant in VARIANTS}
    for variant, scores in found.items():
        hidden = alignment.VARIANTS[variant][0] is not None
        assert set(scores) >= set(alignment.COLUMNS[:5])
        assert hidden == ("hidden pcc 0" in scores) and np.isfinite(list(scores.values())).all()
    assert found["other patients"]["hidden pcc 0"] > found["other patients, shuffled"]["hidden pcc 0"] + 0.1
    assert found["other patients, tied"]["hidden pcc 0"] == found["other patients"]["hidden pcc 0"]
    assert found["no alignment"]["gsc 1"] != found["other patients"]["gsc 1"]


def test_the_table_has_means_over_sections_and_spread_over_seeds():
    scores = [[{"pcc 0.5": 0.1}, {"pcc 0.5": 0.3}], [{"pcc 0.5": 0.4}, {"pcc 0.5": 0.4}]]
    line = alignment.table_of({"no alignment": scores}).splitlines()[-1]
    assert "0.300 ± 0.141" in line and "nan" not in line
