"""Encoders fitted on training sections: what they return, and what another stain changes."""

from types import SimpleNamespace

import fitted_encoders
import numpy as np
import pytest
import torch

from flagst import datasets, pp
from flagst.encoders import SelfSupervisedEncoder


@pytest.fixture(scope="module")
def sections():
    """Simulated sections, their features with the stain as it is, and the same of images that are stained otherwise."""
    kind = {"n_sections": 3, "n_spots": 36, "n_genes": 30, "seed": 0}
    sdata, other = datasets.simulated_sections(**kind), datasets.simulated_sections(**kind)
    as_is = fitted_encoders.both_features(sdata)
    fitted_encoders.stain_otherwise(other)
    table = other.tables["table"]
    table.obsm[fitted_encoders.FITTED] = fitted_encoders.both_features(other)
    restained = {str(name): table[table.obs["section"] == name].copy() for name in table.obs["section"].unique()}
    return SimpleNamespace(sdata=sdata, as_is=as_is, restained=restained)


def test_another_stain_moves_features_unless_it_is_normalised(sections):
    table, test = sections.sdata.tables["table"], "S1"
    held = (table.obs["section"] == test).to_numpy()
    pairs = {
        "normalised": (table.obsm["X_image"][held], sections.restained[test].obsm["X_image"]),
        "as it is": (sections.as_is[held], sections.restained[test].obsm[fitted_encoders.FITTED]),
    }
    moved = {name: np.median(np.abs(a - b) / (a.std(axis=0) + 1e-6)) for name, (a, b) in pairs.items()}
    assert moved["normalised"] < 0.2 < 0.5 < moved["as it is"], moved


@pytest.mark.slow
def test_every_row_is_scored_with_a_network_of_the_training_sections(sections, monkeypatch, tmp_path):
    monkeypatch.setattr(fitted_encoders, "N_SAMPLED", 500)
    monkeypatch.setattr(fitted_encoders, "N_WORDS", 8)
    monkeypatch.setattr(fitted_encoders, "STRIDE", 8)
    seen, original = [], SelfSupervisedEncoder.fit.__func__

    def watched(cls, patches, **kwargs):
        seen.append({patch.tobytes() for patch in patches})
        return original(cls, patches, **kwargs)

    monkeypatch.setattr(SelfSupervisedEncoder, "fit", classmethod(watched))
    patches = fitted_encoders.patches_of(sections.sdata)
    table = sections.sdata.tables["table"]
    assert patches.shape == (table.n_obs, 3, 3, 112, 112) and 0 <= patches.min() < patches.max() <= 1
    assert fitted_encoders.PATCHES not in table.obsm
    settings = SimpleNamespace(n_genes=20, n_steps=2, seed=0, save=tmp_path)
    found = fitted_encoders.run(table, sections.as_is, sections.restained, patches, "S1", settings)
    assert len(found) == 16 and np.isfinite(list(found.values())).all()
    for target in fitted_encoders.TARGETS:
        alone, normalised = (found[target, f"{name}handcrafted"] for name in ("", "stained otherwise, "))
        assert normalised == pytest.approx(alone, rel=0.2)  # PCC and MSE
    # the patches that the package itself would fit on, and the network of this run
    pp.fit_encoder(sections.sdata, sections=["S2", "S3"], n_steps=1, progress=False)
    assert seen[0] == seen[1] and len(seen[0]) == 2 * 36 * 3
    assert SelfSupervisedEncoder(tmp_path / "S1.safetensors").n_features == 118 + 256


@pytest.mark.parametrize(
    ("arguments", "tests"),
    [(["--train", "S1", "S3", "--test", "S2"], ["S2"]), (["--rotate", "S2", "S1"], ["S2", "S1"])],
)
def test_single_split_and_rotation(arguments, tests, monkeypatch, capsys):
    read, ran = [], []

    def her2st(sections, data_dir):
        read.append(sections)
        return SimpleNamespace(tables={"table": SimpleNamespace(obsm={})})

    def run(table, as_is, restained, patches, test, options):
        assert list(restained) == tests
        ran.append(test)
        return {(target, "row"): (0.25, 1.0) for target in fitted_encoders.TARGETS}

    monkeypatch.setattr(fitted_encoders.datasets, "her2st", her2st)
    monkeypatch.setattr(fitted_encoders, "run", run)
    for name in ("patches_of", "both_features", "stain_otherwise"):
        monkeypatch.setattr(fitted_encoders, name, lambda sdata: None)
    fitted_encoders.main(arguments)
    assert read == [[name for name in arguments if not name.startswith("--")], *tests] and ran == tests
    assert " ".join(["0.250"] * len(tests)) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        fitted_encoders.main(["--train", "S1", "--test", "S1"])


def test_words_are_activations_of_each_patch_alone(monkeypatch):
    monkeypatch.setattr(fitted_encoders, "N_SAMPLED", 500)
    monkeypatch.setattr(fitted_encoders, "N_WORDS", 8)
    patches = torch.rand(6, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    words = fitted_encoders.Words(patches, seed=0)
    found = words(patches)
    assert found.shape == (6, 8) and (found >= 0).all() and found.std(0).min() > 0
    torch.testing.assert_close(words(patches[3:4]), found[3:4])
    torch.testing.assert_close(words(0.5 * patches[:1] + 0.3), found[:1], atol=0.2, rtol=0.2)
