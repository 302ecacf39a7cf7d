"""What a table says about its sections, whatever order its spots are in. Measured values: see tests/tl."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from flagst.data.measured import (
    measured_expression,
    measured_genes,
    recorded_params,
    section_layout,
    section_rows,
)


@pytest.fixture
def table():
    slide = pd.Categorical(["x", "x", "y"], categories=["y", "x", "z"])
    obs = pd.DataFrame({"section": ["B", "A", "B"], "slide": slide})
    obs.index = ["s0", "s1", "s2"]
    adata = ad.AnnData(np.arange(6, dtype=np.float32).reshape(3, 2), obs=obs)
    adata.uns["flagst"] = {"params": {"layout": {"A": "hex"}}}
    return adata


def test_sections_in_order_of_appearance(table):
    assert {k: list(v) for k, v in section_rows(table).items()} == {"B": [0, 2], "A": [1]}
    assert list(section_rows(table)) == ["B", "A"]
    # Categories without spots are no sections.
    assert {k: list(v) for k, v in section_rows(table, "slide").items()} == {"x": [0, 1], "y": [2]}


def test_recorded_section_key_comes_before_the_default(table):
    table.uns["flagst"]["params"]["section_key"] = "slide"
    assert list(section_rows(table)) == ["x", "y"]
    assert list(section_rows(table, "section")) == ["B", "A"]


def test_table_without_sections_is_one(table):
    del table.obs["section"]
    assert {k: list(v) for k, v in section_rows(table).items()} == {"all": [0, 1, 2]}


def test_layout_and_params(table):
    assert section_layout(table, "A") == "hex" and section_layout(table, "B") == "other"
    recorded_params(table)["target"] = "log2"  # a copy
    assert "target" not in table.uns["flagst"]["params"]
    assert recorded_params(ad.AnnData(np.zeros((1, 1)))) == {}


def test_genes_are_measured_unless_marked(table):
    assert measured_genes(table).tolist() == [True, True]
    table.var["flagst_measured"] = [True, False]
    assert measured_genes(table).tolist() == [True, False]
    assert measured_genes(table, truth="layer").tolist() == [True, True]


def test_identity_takes_x_as_it_is(table):
    table.X = table.X - 0.5
    np.testing.assert_array_equal(measured_expression(table, target="identity"), table.X)
    with pytest.raises(ValueError, match="negative"):
        measured_expression(table, target="log2")
