"""What carries over to other patients: known answers, and samples that differ by their prior alone."""

import common
import numpy as np
import other_patients
import pytest

from flagst import datasets, metrics
from flagst._keys import OBS, OBSM

NAMES = {"S1": "C1", "S2": "C2", "S3": "C3", "S4": "D1", "S5": "E1"}
TRAIN = ["C1", "C2", "C3"]


@pytest.fixture(scope="module")
def table():
    """Simulated sections by the names of other patients."""
    table = datasets.simulated_sections(n_sections=5, n_spots=64, n_genes=60, seed=0).tables["table"].copy()
    table.obs[OBS.section] = table.obs[OBS.section].astype(str).map(NAMES).astype("category")
    params = table.uns["flagst"]["params"]
    for record in ("um_per_px", "layout"):
        params[record] = {NAMES[name]: value for name, value in params[record].items()}
    return table


@pytest.fixture(scope="module")
def counts(table):
    counts = {name: common.part_of(table, [name]) for name in NAMES.values()}
    panel = list(table.var_names[:30])
    for name, features in other_patients.stand_ins(counts, TRAIN, panel).items():
        counts[name].obsm[OBSM.image] = features
    return counts


def sections(counts, panel):
    return {
        name: (other_patients.measured_in(table, panel, "log2"), common.graph_of(table))
        for name, table in counts.items()
    }


def test_a_section_carries_over_to_itself(counts, table):
    found = sections(counts, list(table.var_names[:30]))
    own = other_patients.carried_over([found["C1"]], {name: found[name] for name in ("C1", "D1")})
    np.testing.assert_allclose(own["C1"][:2], 1)
    assert 0 < own["C1"][3] < own["C1"][2] < 1 and abs(own["D1"][0]) < 1


def test_the_line_is_that_of_the_training_sections(counts, table):
    found = sections(counts, list(table.var_names[:30]))
    training = [found[name] for name in TRAIN]
    moran = np.mean([metrics.morans_i(*section) for section in training], axis=0)
    abundance = np.concatenate([values for values, _ in training]).mean(axis=0)
    assert np.corrcoef(moran, abundance)[0, 1] > 0
    expected = np.corrcoef(abundance, metrics.morans_i(*found["D1"]))[0, 1]
    np.testing.assert_allclose(other_patients.carried_over(training, {"D1": found["D1"]})["D1"][3], expected)
    assert np.isnan(other_patients.line_of(moran, -abundance)).all()
    np.testing.assert_allclose(other_patients.line_of(0.1 + 0.2 * abundance, abundance), 0.1 + 0.2 * abundance)


def test_genes_that_do_not_vary_are_left_out():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 3))
    values[:, 1] = 2.0
    pairs = other_patients.correlations_of(values)
    assert np.isnan(pairs).tolist() == [True, False, True]
    assert other_patients.correlation(pairs, np.array([1.0, np.nan, 2.0])) is np.nan
    known = np.array([1.0, 2.0, np.nan, 4.0]), np.array([2.0, 4.0, 5.0, 8.0])
    assert other_patients.correlation(*known) == pytest.approx(1)


def test_stand_ins_tell_of_the_panel_and_are_noisy(counts, table):
    features, (measured, _) = counts["D1"].obsm[OBSM.image], sections(counts, list(table.var_names[:30]))["D1"]
    depth = np.log(np.asarray(counts["D1"].X.sum(axis=1)).ravel())
    assert features.shape == (64, 1 + 30)
    assert 0.3 < np.corrcoef(features[:, -1], depth)[0, 1] < 0.98
    clean = features[:, :5] - features[:, :5].mean(axis=0)
    coef = np.linalg.lstsq(clean, measured - measured.mean(axis=0), rcond=None)[0]
    assert metrics.pcc(clean @ coef, measured) > 0.2


def abundant_genes_are_smooth(table):
    """The table with the more counts of a gene the higher its Moran's I is, so that there is an abundance prior."""
    table = table.copy()
    first = common.part_of(table, ["C1"])
    moran = metrics.morans_i(np.log2(first.X.toarray() + 1), common.graph_of(first))
    table.X = table.X.multiply(1 + 4 * np.argsort(np.argsort(moran))).tocsr().astype(np.float32)
    table.obs["total_counts"] = np.asarray(table.X.sum(axis=1)).ravel()
    return table


def test_the_tables_are_printed(table, monkeypatch, capsys):
    monkeypatch.setattr(other_patients, "counts_of", lambda *_: abundant_genes_are_smooth(table))
    monkeypatch.setattr(other_patients, "N_OTHER", 20)
    monkeypatch.setattr(other_patients, "N_AXES", 6)
    quick = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    train, curves = other_patients.FLAG.train, {}
    monkeypatch.setattr(other_patients.FLAG, "train", lambda model, **_: train(model, **quick))

    def kept(*args, curves_of=other_patients.curves_of):
        curves.update(curves_of(*args))
        return curves

    monkeypatch.setattr(other_patients, "curves_of", kept)
    other_patients.main(["--train", *TRAIN, "--aside", "E", "--targets", "log2", "--n-genes", "30"])
    printed = capsys.readouterr().out
    assert "mean without E" in printed and "Mean alone: ridge PCC" in printed
    assert len(curves) == len(other_patients.PRIORS) + len(other_patients.NOISE)
    flags = [curve for name, curve in curves.items() if name.startswith("FLAG")]
    # one mean, and as many ways to add to it
    assert all(np.array_equal(curve[0], flags[0][0]) for curve in flags)
    assert len({tuple(curve[-1].round(6)) for curve in flags}) == len(flags)
