"""Encoders fitted on training sections: which images are seen, and what another stain changes."""

from types import SimpleNamespace

import common
import fitted_encoders
import numpy as np
import pytest

from flagst import datasets, pp

KIND = {"n_sections": 3, "n_spots": 36, "n_genes": 30, "seed": 0}


def test_another_stain_moves_features_unless_it_is_normalised():
    def features(change, **how):
        sdata = datasets.simulated_sections(**KIND | {"n_sections": 1})
        if change:
            fitted_encoders.stain_otherwise(sdata)
        pp.image_features(sdata, progress=False, **how)
        return np.asarray(sdata.tables["table"].obsm["X_image"])

    moved = {}
    for name, how in (("normalised", {}), ("unmodified", fitted_encoders.UNMODIFIED)):
        first, second = features(False, **how), features(True, **how)
        moved[name] = np.median(np.abs(first - second) / (first.std(axis=0) + 1e-6))
    assert moved["normalised"] < 0.2 < 0.5 < moved["unmodified"], moved


def test_rows_have_the_features_they_are_named_after(monkeypatch, tmp_path):
    """Images of the test section are not used to fit the network; its part of the features is cut out by scale."""
    asked, seen, scored = [], [], []
    simulated = datasets.simulated_sections(**KIND)["table"]

    def her2st(sections, data_dir=None):
        asked.append(sections)
        return SimpleNamespace(sections=sections)

    class Encoder:
        patch_um, n_features = (1.0, 2.0), 5

        def save(self, path):
            path.touch()

    def load(sections, options, *, change=None, encoder=None, **features):
        table = common.part_of(simulated, sections)
        values = np.arange(10.0) if encoder else np.arange(6.0) + 100 * bool(features) + 1000 * bool(change)
        table.obsm["X_image"] = np.tile(values, (table.n_obs, 1)).astype(np.float32)
        return table

    def ridge_scores(train, test, target, genes):
        scored.append((train.obsm["X_image"][0].tolist(), test.obsm["X_image"][0].tolist()))
        assert set(train.obs["section"]) == {"S1", "S3"} and set(test.obs["section"]) == {"S2"}
        assert list(test.var_names) == genes and len(genes) == 20
        return 0.25, 1.0

    monkeypatch.setattr(datasets, "her2st", her2st)
    monkeypatch.setattr(pp, "fit_encoder", lambda sdata, **_: seen.append(sdata.sections) or Encoder())
    monkeypatch.setattr(common, "load", load)
    monkeypatch.setattr(fitted_encoders, "ridge_scores", ridge_scores)
    fitted_encoders.main(f"--train S1 S3 --test S2 --n-genes 20 --save {tmp_path}".split())
    assert asked == seen == [["S1", "S3"]] and (tmp_path / "S2.safetensors").exists()
    plain, network, both = list(np.arange(6.0)), [3.0, 4.0, 8.0, 9.0], list(np.arange(10.0))
    changed = [value + 100 for value in plain]
    expected = [(plain, plain), (changed, changed), (network, network), (both, both)]
    expected += [(plain, [v + 1000 for v in plain]), (changed, [v + 1100 for v in plain])]
    assert scored[::2] == scored[1::2] == expected


@pytest.mark.parametrize(
    ("arguments", "tests", "sections"),
    [
        (["--train", "S1", "S3", "--test", "S2"], ["S2"], ["S1", "S3", "S2"]),
        (["--rotate", "S2", "S1"], ["S2", "S1"], ["S2", "S1"]),
    ],
)
def test_single_split_and_rotation(arguments, tests, sections, monkeypatch, capsys):
    ran = []

    def run(names, split, options):
        ran.append(split["test"])
        assert names == sections and split["test"] not in split["train"]
        return {(target, "row"): (0.25, 1.0) for target in common.TARGETS}

    monkeypatch.setattr(fitted_encoders, "run", run)
    fitted_encoders.main(arguments)
    assert ran == tests and " ".join(["0.250"] * len(tests)) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        fitted_encoders.main(["--train", "S1", "--test", "S1"])


def test_scores_are_those_of_the_baseline():
    table = datasets.simulated_sections(n_sections=3, n_spots=60, n_genes=15)["table"]
    table.obsm["X_image"] = np.asarray(table.obsm["true_programs"], dtype=np.float32)
    genes = [str(gene) for gene in table.var_names[:10]]
    train, test = common.part_of(table, ["S1", "S2"]), common.part_of(table, ["S3"])[:, genes].copy()
    pcc, mse = fitted_encoders.ridge_scores(train, test, "log2", genes)
    assert 0.2 < pcc < 1 and 0 < mse < 5
