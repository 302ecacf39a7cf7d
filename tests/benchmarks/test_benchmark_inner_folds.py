"""Inner folds: which sections a choice may see, the jobs, and the table."""

import common
import inner_folds
import numpy as np
import pytest
from common import aligned

from flagst import datasets, metrics

ROTATE = ["C2", "C3", "C4", "C5"]


def test_defaults_are_the_rotation_and_every_choice():
    options = inner_folds.parse([])
    assert options.rotate == list(common.ROTATION) == ROTATE
    assert options.choices == list(inner_folds.CHOICES) and options.folds is None
    assert (options.target, options.n_genes, options.seeds) == ("log2", 200, [0])


def test_sections_count_once():
    assert inner_folds.parse(["--rotate", "A", "B", "A", "C"]).rotate == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rotate", "A", "B"], "at least 3 sections"),
        (["--rotate", "A", "B", "B"], "at least 3 sections"),
        (["--rotate", "A", "B", "C", "--mean"], "at least 4 sections"),
        (["--choices", "nothing"], "invalid choice: 'nothing'"),
        (["--target", "identity"], "invalid choice: 'identity'"),
    ],
)
def test_contradictions_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        inner_folds.parse(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("rotate", [["A", "B", "C"], ROTATE, [f"S{i}" for i in range(7)]])
@pytest.mark.parametrize("n_folds", [None, 1, 2])
def test_the_section_put_aside_is_in_no_split(rotate, n_folds):
    for number, aside in enumerate(rotate):
        splits = inner_folds.inner_splits(rotate, aside, n_folds)
        assert len(splits) == (n_folds or len(rotate) - 1)
        for split in splits:
            assert aside not in split["train"] and aside != split["test"]
            assert {*split["train"], split["test"], aside} == set(rotate)
            assert len(split["train"]) == len(rotate) - 2
        assert splits[0]["test"] == rotate[(number + 1) % len(rotate)]
        assert len({split["test"] for split in splits}) == len(splits)


def test_choices_are_settings_of_the_model():
    from flagst.settings import Settings, resolve

    assert inner_folds.CHOICES["defaults"] == {}
    for name, changes in inner_folds.CHOICES.items():
        settings = resolve("default", target="log2", **{"gfm": "coexpression"} | changes)
        assert (settings == Settings(target="log2")) == (name == "defaults"), name


def test_every_choice_fold_and_seed_has_a_job_and_every_baseline_one():
    options = inner_folds.parse(["--choices", "defaults", "32 latents", "--seeds", "0", "3", "--folds", "2"])
    splits = inner_folds.inner_splits(options.rotate, "C3", options.folds)
    jobs = inner_folds.jobs_of(options, splits, {"C4": "4.h5ad", "C5": "5.h5ad"})
    flag = [job for job in jobs if job["method"] == "FLAG"]
    assert [(j["name"], j["splits"][0]["test"], j["seeds"]) for j in flag] == [
        (name, test, [seed]) for name in ("defaults", "32 latents") for test in ("C4", "C5") for seed in (0, 3)
    ]
    assert [job["settings"] for job in flag] == 4 * [{}] + 4 * [{"n_latent": 32}]
    others = jobs[len(flag) :]
    assert [(job["name"], job["method"]) for job in others] == [(name, name) for name in inner_folds.BASELINES]
    assert all(job["seeds"] == [0, 3] and len(job["splits"]) == 2 for job in others)
    for job in jobs:
        assert job["script"] == "common" and job["target"] == "log2"
        assert job["structures"] == list(common.STRUCTURES)
        for split in job["splits"]:
            assert split["file"] == f"{split['test'][1]}.h5ad" and "C3" not in (*split["train"], split["test"])


def records(name, scores, *, tests=("A", "B"), seconds=2.0):
    """``scores``: structure to (PCC, GSC, SSC, Moran's I of the prediction)."""
    return [
        {
            "method": name, "structure": structure, "target": "log2", "seed": 0, "test": test, "n_genes": 9,
            "pcc": pcc, "pcc50": 0.5, "mse": 1.0, "gsc": gsc, "ssc": ssc, "moran_pred": moran, "moran_true": 0.2,
            "seconds": seconds, "peak_mb": 1.0,
        }
        for structure, (pcc, gsc, ssc, moran) in scores.items() for test in tests
    ]  # fmt: skip


def test_table_has_a_line_per_choice_and_baseline():
    dial = {0.0: (0.6, 0.1, 0.2, 0.5), 0.5: (0.5, 0.5, 0.4, 0.4), 1.0: (0.4, 0.9, 0.8, 0.17)}
    low = {0.0: (0.52, 0.1, 0.2, 0.5), 1.0: (0.4, 0.7, 0.6, 0.25)}
    found = inner_folds.table(
        records("defaults", dial) + records("8 latents", low, seconds=31.0) + records("Ridge", {None: dial[0.0]}),
        0.53,
    )
    # at PCC 0.53, seven tenths of the way from 0.6 to 0.5
    expected = [
        ("choice", "PCC(0)", "GSC", "SSC", "GSC(1)", "SSC(1)", "gap(1)", "seconds"),
        ("defaults", "0.600", "0.380", "0.340", "0.900", "0.800", "0.030", "2"),
        ("8 latents", "0.520", "out of range", "out of range", "0.700", "0.600", "0.050", "31"),
        ("Ridge", "0.600", "", "", "", "", "", "2"),
    ]
    assert found == aligned(expected)


def test_the_table_of_everything_is_the_mean_over_sections_put_aside():
    first = records("defaults", {0.0: (0.6, 0, 0, 0), 1.0: (0.4, 0.8, 0.6, 0.2)}, tests=("C2/C3",))
    second = records("defaults", {0.0: (0.5, 0, 0, 0), 1.0: (0.3, 0.6, 0.4, 0.2)}, tests=("C3/C4",))
    line = inner_folds.table(first + second, 0.45).splitlines()[1].split()
    assert line == ["defaults", "0.550", "0.350", "0.250", "0.700", "0.500", "0.000", "2"]


def test_the_run_never_touches_the_section_put_aside(monkeypatch, capsys):
    """The whole program with the work taken out: what is prepared, what is run, what is printed."""
    prepared = []

    def prepare(options, folder, *, sections):
        assert sections == ["A", "B", "C"]
        prepared.append(options.splits)
        return {"files": {split["test"]: "x.h5ad" for split in options.splits}}

    def collect(jobs, folder, *, n_processes):
        dial = {0.0: (0.6, 0.1, 0.2, 0.5), 1.0: (0.4, 0.9, 0.8, 0.2)}
        names = dict.fromkeys(job["name"] for job in jobs)
        return [row for name in names for row in records(name, dial, tests=("X",))]

    monkeypatch.setattr(common, "prepare", prepare)
    monkeypatch.setattr(common, "collect", collect)
    inner_folds.main(["--rotate", "A", "B", "C", "--choices", "defaults", "--folds", "1"])
    assert prepared == [
        [{"train": ["C"], "test": "B"}], [{"train": ["A"], "test": "C"}], [{"train": ["B"], "test": "A"}]
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "A put aside: C to B" in printed and "C put aside: B to A" in printed
    assert printed.count("CorrelatedGaussian") == 4 and "Curves averaged over all, target log2" in printed


def test_scores_of_the_mean_never_see_the_section_put_aside():
    table = datasets.simulated_sections(n_sections=4, n_spots=60, n_genes=20)["table"]
    table.obsm["X_image"] = np.asarray(table.obsm["true_programs"], dtype=np.float32)
    found = inner_folds.mean_scores(table, "S2", "log2", 12, {"regression": "ridge"})
    other = table.copy()
    aside = (other.obs["section"] == "S2").to_numpy()
    other.obsm["X_image"][aside] = 0
    other.X = other.X.multiply(np.where(aside, 7, 1)[:, None]).tocsr()
    np.testing.assert_array_equal(inner_folds.mean_scores(other, "S2", "log2", 12, {"regression": "ridge"}), found)
    sections = common.arrays(train := common.part_of(table, ["S1", "S3", "S4"]), common.panel_of(train, 12), "log2")
    stage, mean = common.fit_mean(sections, regression="ridge")
    measured = [stage.scaler.standardise(s.target) for s in sections]
    pcc = [metrics.pcc(*pair) for pair in zip(common.by_section(mean, sections), measured, strict=True)]
    assert found[0] == pytest.approx(np.mean(pcc)) and found[0] > 0.2


def test_a_line_per_choice_of_the_mean(monkeypatch):
    loaded = []
    monkeypatch.setattr(common, "load", lambda sections, options, **features: loaded.append(features))
    monkeypatch.setattr(inner_folds, "mean_scores", lambda table, aside, *_: np.array([0.1 * int(aside[1]), 1, 2, 3]))
    text = inner_folds.mean_tables(inner_folds.parse(["--mean"]))
    assert len(loaded) == len(inner_folds.MEANS) and {"stain_normalise": None} in loaded
    tables = text.split("\n\n")
    assert [t.splitlines()[0].split()[:2] for t in tables] == [["target", "log2"], ["target", "lognorm"]]
    for part in tables:
        line = part.splitlines()[2]
        assert line.startswith("unmodified stain") and "0.350  1.000  2.000  3.000  C2 0.200  C3 0.300" in line
