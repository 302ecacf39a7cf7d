"""What is known of the training sections before the diffusion: the spatial order of their genes."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from flagst import metrics
from flagst.data.graph import knn, moran_graph
from flagst.data.sections import Section
from flagst.sampling.fit import mean_order, section_order


def _section(name, n_spots=60, layout="square", seed=0):
    rng = np.random.default_rng([seed, n_spots])
    coords = rng.uniform(0, 1000, (n_spots, 2))
    target = np.sin(coords[:, :1] / 200) * np.arange(4) + rng.normal(size=(n_spots, 4))
    names = np.array([f"{name}{i}" for i in range(n_spots)])
    image = np.zeros((n_spots, 2), np.float32)
    return Section(name, names, coords, image, *knn(coords, 18), target.astype(np.float32), layout=layout)


def test_order_is_morans_i_of_the_target():
    section = _section("A")
    expected = metrics.morans_i(section.target, moran_graph(section.coords, "square"))
    np.testing.assert_allclose(section_order(section), expected, atol=1e-6)


def test_order_of_some_rows_knows_nothing_of_the_others():
    section, rows = _section("A"), np.arange(20, 60)
    expected = metrics.morans_i(section.target[rows], moran_graph(section.coords[rows], "square"))
    np.testing.assert_allclose(section_order(section, rows), expected, atol=1e-6)


def test_layouts_are_kept_apart_and_genes_that_do_not_vary_left_out():
    sections = [_section("A"), _section("B", seed=1), _section("C", layout="hex"), _section("D", n_spots=9)]
    flat = sections[0].target.copy()
    flat[:, 2], sections[2].target[:, 3] = 5.0, 1.0
    sections[0] = replace(sections[0], target=flat)
    orders = [section_order(s) for s in sections]
    assert orders[3] is None  # too small
    found = mean_order(sections, orders)
    assert set(found) == {"square", "hex"}
    alone = [metrics.morans_i(s.target, moran_graph(s.coords, s.layout)) for s in sections[:3]]
    np.testing.assert_allclose(found["square"][[0, 1, 3]], (alone[0] + alone[1])[[0, 1, 3]] / 2, atol=1e-6)
    assert found["square"][2] == pytest.approx(alone[1][2], abs=1e-6)
    assert np.isnan(found["hex"][3]) and np.isfinite(found["hex"][:3]).all()


def test_no_section_no_order():
    assert mean_order([_section("D", n_spots=9)], [None]) == {}


@pytest.mark.parametrize("names", ["A", "AB", "ABC"])
def test_held_out_tissue_has_the_order_of_other_tissue(make, names, monkeypatch):
    """Every part is led by an order in which its own measurement has no part."""
    from flagst.model import flag

    seen = []

    class Recorded(flag.HeldOutTissue):
        def __init__(self, parts, clean):
            super().__init__(parts, clean)
            seen.extend((p.section, rows, p.order) for p, rows in parts)

    monkeypatch.setattr(flag, "HeldOutTissue", Recorded)
    table = make.table(names=tuple(names), n_spots=56)
    model = make.model(table)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "With . section", UserWarning)
        model.train(**make.QUICK | {"max_epochs": 1})
    assert len(seen) == {1: 4, 2: 8, 3: 3}[len(names)]
    sections = model._sections(table, measured=True)
    for section, rows, order in seen:
        known = [section_order(s) for s in sections if s.name != section.name]
        rest = np.setdiff1d(np.arange(len(section)), rows)
        known += [section_order(section, rest)] if len(rest) else []
        np.testing.assert_allclose(order, np.mean(known, axis=0))
