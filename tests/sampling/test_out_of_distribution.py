"""Out-of-distribution tissue: found among simulated slides and features, and written by predict."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import flagst
from flagst import FLAG
from flagst.data.from_anndata import sections_from_anndata
from flagst.sampling.out_of_distribution import OutOfDistribution


def auroc(ood, usual, unusual):
    scores = [ood.score(image) for image in (usual, unusual)]
    return roc_auc_score(np.repeat([0, 1], [len(s) for s in scores]), np.concatenate(scores))


@pytest.fixture(scope="module")
def slides():
    """Sections of simulated slides; in the last one, colours of the left half of the image are swapped."""
    sdata = flagst.datasets.simulated_sections(n_sections=5, n_spots=60, n_genes=8)
    flagst.pp.image_features(sdata, progress=False)
    before = sections_from_anndata(sdata["table"])
    image = sdata.images["S5_image"]["scale0"]["image"]
    image[:, :, : image.shape[2] // 2] = image[::-1, :, : image.shape[2] // 2].to_numpy()
    flagst.pp.image_features(sdata, progress=False, overwrite=True)
    odd = np.asarray(sdata["table"][before[-1].spot_names].obsm["spatial"])[:, 0] < image.shape[2] / 2
    return before, sections_from_anndata(sdata["table"])[-1], odd


@pytest.mark.slow
def test_an_odd_region_of_an_ordinary_slide_is_found(slides):
    sections, changed, odd = slides
    ood = OutOfDistribution.fit(sections[:3])
    assert 15 < odd.sum() < 45
    assert auroc(ood, changed.image[~odd], changed.image[odd]) > 0.9
    assert np.median(ood.score(changed.image[odd])) > 1


@pytest.mark.slow
def test_most_of_a_new_slide_of_the_same_kind_is_in_distribution(slides):
    sections, _, _ = slides
    ood = OutOfDistribution.fit(sections[:3])
    assert (ood.score(sections[3].image) < 1).mean() > 0.75


@pytest.fixture(scope="module")
def known():
    """Three sections of features on a plane with a little noise: those alone are in distribution."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(4, 50))

    def section(name, n_spots=120):
        image = rng.normal(size=(n_spots, 4)) @ plane + 0.1 * rng.normal(size=(n_spots, 50)) + 3.0
        return replace(TEMPLATE, name=name, image=image.astype(np.float32), coords=rng.normal(size=(n_spots, 2)))

    return [section(name) for name in "ABCD"], plane


TEMPLATE = flagst.data.sections.Section("", *[np.empty((0, 2))] * 5)


def test_both_kinds_of_distance_count(known, monkeypatch):
    """Extreme values of ordinary features, and ordinary values of combinations that do not occur."""
    monkeypatch.setattr("flagst.sampling.out_of_distribution.N_COMPONENTS", 4)
    (*training, new), plane = known
    ood = OutOfDistribution.fit(training)
    rng = np.random.default_rng(1)
    extreme = (4 * np.sign(rng.normal(size=(60, 4)))) @ plane + 3.0
    combined = rng.permuted(new.image, axis=1)
    assert auroc(ood, new.image, extreme) > 0.97 and auroc(ood, new.image, combined) > 0.97


def test_a_shifted_slide_is_out_of_distribution_as_a_whole(known):
    (*training, new), _ = known
    ood = OutOfDistribution.fit(training)
    assert (ood.score(new.image) > 1).mean() == pytest.approx(0.05, abs=0.06)
    assert (ood.score(new.image + 1.0) > 1).all()


def test_features_that_always_went_together_are_missed_when_they_do_not(known):
    """Ten features in nine dimensions, and one that was always zero: no training spot is off that plane."""
    (*training, new), _ = known

    def features(section):
        return np.column_stack([section.image[:, :9], section.image[:, 0], np.zeros(len(section))])

    ood = OutOfDistribution.fit([replace(section, image=features(section)) for section in training])
    usual = features(new)
    assert (ood.score(usual) < 1).mean() > 0.85
    apart, extra = usual.copy(), usual.copy()
    apart[:, 9] += 0.5 * apart[:, 9].std()
    extra[:, 10] = 5
    assert (ood.score(apart) > 1).all() and (ood.score(extra) > 1).all()


def test_few_spots_do_not_make_all_others_out_of_distribution(known):
    """Twelve spots span eleven dimensions of fifty: whatever else there is may be usual."""
    (*training, new), _ = known
    small = [replace(section, image=section.image[:12], coords=section.coords[:12]) for section in training[:2]]
    assert np.median(OutOfDistribution.fit(small).score(new.image)) < 2


def test_the_unit_is_the_95th_percentile_of_left_out_spots(known):
    """By hand: full principal components of 3 features, nothing left off the plane."""
    training = [replace(s, image=s.image[:, :3]) for s in known[0][:3]]
    distances = []
    for left_out in training:
        kept = np.concatenate([s.image for s in training if s is not left_out]).astype(float)
        centred = left_out.image - kept.mean(axis=0)
        inverse = np.linalg.inv(np.cov(kept.T, ddof=0))
        distances += list(np.sqrt(np.einsum("ij,jk,ik->i", centred, inverse, centred) / 3))
    assert OutOfDistribution.fit(training).usual == pytest.approx(np.quantile(distances, 0.95), rel=1e-5)


def test_units_of_features_do_not_matter(known):
    (*training, new), _ = known
    scale = np.exp(np.random.default_rng(0).normal(size=50))
    rescaled = [replace(s, image=s.image * scale) for s in training]
    expected = OutOfDistribution.fit(training).score(new.image)
    np.testing.assert_allclose(OutOfDistribution.fit(rescaled).score(new.image * scale), expected, rtol=1e-3)


def test_one_section_and_constant_features(known):
    section = known[0][0]
    image = section.image.copy()
    image[:, 0] = 2.0
    scores = OutOfDistribution.fit([replace(section, image=image)]).score(image)
    assert np.isfinite(scores).all() and (scores < 1).mean() > 0.9
    flat = replace(section, image=np.ones_like(image))
    assert np.isfinite(OutOfDistribution.fit([flat]).score(flat.image)).all()


def test_predict_writes_the_score(trained, query, tmp_path):
    odd = (query.obs["section"] == "Y").to_numpy()
    query.obsm["X_image"][odd] += 5.0
    trained.predict(query)
    scores = query.obs["flagst_ood"]
    assert scores.dtype == np.float64 and scores[odd].min() > 1 and scores[~odd].median() < 1
    np.testing.assert_allclose(scores, trained.ood_.score(query.obsm["X_image"]))
    trained.save(str(tmp_path / "model"))
    again = FLAG.load(str(tmp_path / "model")).predict(query.copy())
    np.testing.assert_array_equal(again.obs["flagst_ood"], scores)
