"""Sections that look otherwise: what is done to them, and that scores are those of what the model predicts."""

from types import SimpleNamespace

import fading
import numpy as np
import pytest

from flagst import FLAG, baselines, datasets, metrics, pp
from flagst.data.from_anndata import sections_from_anndata
from flagst.regression.mean import RegressionMean

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


def test_pixels_are_changed_as_told_at_every_level():
    image = np.random.default_rng(0).uniform(20, 235, (3, 64, 64)).astype(np.float32)
    assert (fading.weaker_stain(np.full((3, 2, 2), 100, np.float32))[0] > 100).all()
    assert fading.blurred(image).std() < 0.3 * image.std()
    np.testing.assert_allclose((fading.grainy(image) - image).std(), 15, rtol=0.05)
    np.testing.assert_allclose(fading.mixed_colours(np.ones((3, 2, 2), np.float32)), 1, rtol=1e-6)
    sdata = datasets.simulated_sections(**KIND)
    tree = sdata.images["S1_image"]
    before = {level: tree[level]["image"].values for level in tree.children}
    fading.change_images(sdata, ["S1"], lambda pixels: pixels / 2)
    assert len(before) > 1
    for level, values in before.items():
        after = tree[level]["image"]
        assert after.shape == values.shape and after.dtype == np.uint8
        np.testing.assert_allclose(after.values.astype(float), values / 2, atol=2)


def test_power_one_is_the_model_and_infinity_ridge_regression():
    rng = np.random.default_rng(0)
    design, folds = rng.normal(size=(120, 4)), np.arange(120) % 3
    target = np.sin(2 * design[:, :1]) + 0.1 * rng.normal(size=(120, 5))
    mean, _ = RegressionMean.fit(design, target, folds)
    far = design[:30] + np.linspace(0, 3, 30)[:, None]
    trust, means = fading.faded(mean, far)
    found = dict(zip(fading.FADES, means, strict=True))
    assert mean.weight > 0 and trust.min() < 0.9 and trust.max() == 1
    np.testing.assert_allclose(found["FLAG"], mean.predict(far), atol=1e-12)
    np.testing.assert_array_equal(found["ridge"], mean.ridge.predict(far))
    distance = {name: np.abs(values - found["ridge"]).mean() for name, values in found.items()}
    assert distance["unfaded"] > distance["FLAG"] > distance["faster"] > 0


def test_the_mean_is_in_the_unit_of_the_target(table):
    train, query = fading.part_of(table, ["S1", "S2"]), fading.part_of(table, ["S3"])
    genes = [str(gene) for gene in table.var_names[:20]]
    section = fading.test_section(query, genes, "log2")
    found = fading.predicted(sections_from_anndata(train, genes=genes, target="log2"), section)
    baselines.Ridge.setup_anndata(train, section_key="section", genes=genes)
    ridge = baselines.Ridge(train, target="log2")
    ridge.train()
    values = ridge.predict(query, structure=0)[:, genes].layers["flagst"]
    np.testing.assert_allclose(found["mean"][:, list(fading.FADES).index("ridge")], values, atol=1e-4)
    scores = fading.scored(found, section)
    expected = metrics.pcc(values, section.target), metrics.mse(values, section.target)
    np.testing.assert_allclose(scores["mean"][-1], expected, atol=1e-4)
    assert scores["familiar"] == found["familiar"].mean() and scores["trust"] == found["trust"].mean()


def test_spots_are_predicted_without_training_spots_of_their_kind(table, monkeypatch):
    train, query = fading.part_of(table, ["S1", "S2"]), fading.part_of(table, ["S3"])
    genes = [str(gene) for gene in table.var_names[:20]]
    of_train, of_query = fading.kinds_of(train, query)
    assert len(of_train) == 98 and len(of_query) == 49 and set(of_query) <= set(range(fading.N_KINDS))
    seen = []

    def predicted(sections, section):
        seen.append({str(name) for part in sections for name in part.spot_names})
        fit = np.full((len(section), 1, 1), float(len(seen) - 1))
        return {"familiar": fit[:, 0, 0], "trust": fit[:, 0, 0], "mean": fit}

    monkeypatch.setattr(fading, "predicted", predicted)
    found = fading.without_kind(train, query, genes, "log2")
    kinds = np.unique(of_query)
    np.testing.assert_array_equal(kinds[found["trust"].astype(int)], of_query)
    for kind, names in zip(kinds, seen, strict=True):
        assert names == set(train.obs_names[of_train != kind])


@pytest.mark.slow
def test_draws_with_and_without_the_diffusion_share_their_mean(table):
    train, query = fading.part_of(table, ["S1", "S2"]), fading.part_of(table, ["S3"])
    genes = [str(gene) for gene in table.var_names[:20]]
    FLAG.setup_anndata(train, section_key="section", genes=genes)
    found, section = [], fading.test_section(query, genes, "log2")
    for settings in fading.SAMPLERS.values():
        model = FLAG(train, target="log2", max_steps=2, seed=0, **settings)
        model.train(accelerator="cpu")
        found.append(fading.draw_scores(model, query, section))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert (found[0][1:] != found[1][1:]).all()


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
