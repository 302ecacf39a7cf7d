"""What carries over to other patients: known answers, and draws that differ by how they get their order alone."""

import numpy as np
import other_patients
import pytest

from flagst import datasets, metrics
from flagst._keys import OBS, OBSM
from flagst.regression import draw_order
from flagst.sampling.fit import section_order

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
    counts = {name: other_patients.part_of(table, [name]) for name in NAMES.values()}
    panel = list(table.var_names[:30])
    for name, features in other_patients.stand_ins(counts, TRAIN, panel).items():
        counts[name].obsm[OBSM.image] = features
    return counts


def sections(counts, panel):
    return {name: other_patients.test_section(table, panel, "log2") for name, table in counts.items()}


def test_a_section_carries_over_to_itself(counts, table):
    panel = list(table.var_names[:30])
    found = sections(counts, panel)
    own = other_patients.carried_over([found["C1"]], {name: found[name] for name in ("C1", "D1")})
    np.testing.assert_allclose(own["C1"][:2], 1)
    assert 0 < own["C1"][3] < own["C1"][2] < 1 and abs(own["D1"][0]) < 1


def test_the_line_is_that_of_the_training_sections(counts, table):
    panel = list(table.var_names[:30])
    found = sections(counts, panel)
    training = [found[name] for name in TRAIN]
    order = np.mean([section_order(s) for s in training], axis=0)
    abundance = np.concatenate([s.target for s in training]).mean(axis=0)
    rises = np.corrcoef(order, abundance)[0, 1] > 0
    assert rises
    expected = np.corrcoef(abundance, section_order(found["D1"]))[0, 1]
    np.testing.assert_allclose(other_patients.carried_over(training, {"D1": found["D1"]})["D1"][3], expected)


def test_stand_ins_tell_of_the_panel_and_are_noisy(counts, table):
    panel = list(table.var_names[:30])
    features, section = counts["D1"].obsm[OBSM.image], sections(counts, panel)["D1"]
    depth = np.log(np.asarray(counts["D1"].X.sum(axis=1)).ravel())
    assert features.shape == (64, 1 + 30)
    assert 0.3 < np.corrcoef(features[:, -1], depth)[0, 1] < 0.98
    clean = features[:, :5] - features[:, :5].mean(axis=0)
    coef = np.linalg.lstsq(clean, section.target - section.target.mean(axis=0), rcond=None)[0]
    assert metrics.pcc(clean @ coef, section.target) > 0.2


def test_the_tables_are_printed_and_the_share_is_put_back(table, monkeypatch, capsys):
    monkeypatch.setattr(other_patients, "counts_of", lambda *_: table.copy())
    monkeypatch.setattr(other_patients, "N_OTHER", 20)
    monkeypatch.setattr(other_patients, "N_AXES", 6)
    quick = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    train = other_patients.FLAG.train
    monkeypatch.setattr(other_patients.FLAG, "train", lambda model, **_: train(model, **quick))
    monkeypatch.setattr(draw_order, "order_by_abundance", lambda order, abundance: abundance / np.ptp(abundance))
    share, fronts = draw_order.BY_ABUNDANCE, {}

    def kept(*args, fronts_of=other_patients.fronts_of):
        for name, front in fronts_of(*args):
            fronts[name] = front
            yield name, front

    monkeypatch.setattr(other_patients, "fronts_of", kept)
    other_patients.main(["--train", *TRAIN, "--aside", "E", "--targets", "log2", "--n-genes", "30"])
    assert draw_order.BY_ABUNDANCE == share
    printed = capsys.readouterr().out
    assert "mean without E" in printed and "Mean alone: ridge PCC" in printed
    assert len(fronts) == len(other_patients.ORDERS) + len(other_patients.NOISE)
    flags = [front for name, front in fronts.items() if name.startswith("FLAG")]
    # one mean, and as many ways to add to it
    assert all(np.array_equal(front[0], flags[0][0]) for front in flags)
    assert len({tuple(front[-1].round(6)) for front in flags}) == len(flags)
