"""Sections that look otherwise: what is done to them, and that scores are those of what the model predicts."""

from types import SimpleNamespace

import fading
import numpy as np
import pytest

from flagst import FLAG, baselines, datasets, metrics, pp

KIND = {"n_sections": 3, "n_spots": 49, "n_genes": 30, "seed": 0}


@pytest.fixture(scope="module")
def sdata():
    sections = datasets.simulated_sections(**KIND)
    pp.image_features(sections, progress=False)
    return sections


@pytest.fixture(scope="module")
def table(sdata):
    return sdata.tables["table"]


def test_changed_images_have_other_features(sdata, monkeypatch):
    monkeypatch.setattr(fading.datasets, "her2st", lambda *_, **__: datasets.simulated_sections(**KIND))
    options = SimpleNamespace(rotate=["S1", "S2", "S3"], data_dir=None)
    start = {s: fading.part_of(sdata.tables["table"], [s]).obsm["X_image"] for s in options.rotate}
    same = fading.changed_features(options, None, {})
    for section, values in start.items():
        np.testing.assert_array_equal(same[section], values)
    for name in ("grain", "patches 0.7 times as wide"):
        changed = fading.changed_features(options, *fading.CHANGES[name])
        for section, values in start.items():
            assert changed[section].shape == values.shape
            assert not np.allclose(changed[section], values), name


def test_pixels_keep_their_range_and_lose_what_they_should():
    image = np.random.default_rng(0).uniform(20, 235, (3, 64, 64)).astype(np.float32)
    assert (fading.weaker_stain(np.full((3, 2, 2), 100.0))[0] > 100).all()
    assert fading.blurred(image).std() < 0.3 * image.std()
    assert fading.grainy(image).std() > image.std()
    np.testing.assert_allclose(fading.mixed_colours(np.ones((3, 2, 2))), 1)


def test_power_one_is_the_model_and_infinity_ridge_regression(table):
    train, query = fading.part_of(table, ["S1", "S2"]), fading.part_of(table, ["S3"])
    genes = [str(gene) for gene in table.var_names[:20]]
    section = fading.test_section(query, genes, "log2")
    familiar, scores = fading.mean_scores(fading.training_sections(train, genes, "log2"), section)
    assert 0 <= familiar <= 1 and scores.shape == (len(fading.FADES), 2)
    FLAG.setup_anndata(train, section_key="section", genes=genes)
    model = FLAG(train, target="log2", max_steps=1, seed=0)
    model.train(accelerator="cpu")
    baselines.Ridge.setup_anndata(train, section_key="section", genes=genes)
    ridge = baselines.Ridge(train, target="log2")
    ridge.train()
    for name, fitted in (("FLAG", model), ("ridge", ridge)):
        values = fitted.predict(query, structure=0)[:, genes].layers["flagst"]
        expected = metrics.pcc(values, section.target), metrics.mse(values, section.target)
        np.testing.assert_allclose(scores[list(fading.FADES).index(name)], expected, atol=1e-3)


def test_draws_with_and_without_the_denoiser_share_their_mean_and_leave_the_model_as_it_was(table):
    train, query = fading.part_of(table, ["S1", "S2"]), fading.part_of(table, ["S3"])
    genes = [str(gene) for gene in table.var_names[:20]]
    FLAG.setup_anndata(train, section_key="section", genes=genes)
    model = FLAG(train, target="log2", max_steps=2, seed=0)
    model.train(accelerator="cpu")
    before = model.settings_, model.fitted_
    found = fading.draw_scores(model, query, fading.test_section(query, genes, "log2"))
    assert (model.settings_, model.fitted_) == before
    denoiser, noise = (found[name] for name in fading.SAMPLERS)
    np.testing.assert_array_equal(denoiser[0], noise[0])
    assert (denoiser[1:] != noise[1:]).all()


def test_every_kind_of_tissue_is_left_out_once(table):
    parts = fading.without_kinds(fading.part_of(table, ["S1", "S2"]))
    left = [set(table.obs_names[table.obs["section"] != "S3"]) - set(part.obs_names) for part in parts]
    assert len(parts) == fading.N_KINDS and all(left)
    assert sum(map(len, left)) == len(set().union(*left)) == 98


def test_a_run_makes_both_tables(table):
    options = SimpleNamespace(n_genes=20, other="S3", draws=False)
    changed = {"grain": {"S2": 1.1 * fading.part_of(table, ["S2"]).obsm["X_image"]}}
    run = fading.run(table, changed, {"train": ["S1"], "test": "S2"}, "lognorm", options)
    lines = fading.table_lines([run, run], "lognorm")
    assert [line[0] for line in lines] == ["target lognorm", "as it is", "grain", "S3", fading.LEFT_OUT]
    assert len(set(map(len, lines))) == 1 and lines[1] != lines[2]
    front = np.column_stack([np.linspace(0.6, 0.3, 6), np.linspace(0, 1, 6), np.linspace(1, 0, 6)])
    run["grain"]["draws"] = {name: front for name in fading.SAMPLERS}
    [_, line] = fading.draw_lines([{"grain": run["grain"]}], "log2")
    assert line == ("grain", "0.528", "0.240", "0.240", "0.760", "0.760")
