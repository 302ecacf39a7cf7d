"""fit_encoder: which patches are used, how the encoder is recorded, and errors."""

import numpy as np
import pytest

import flagst
from flagst.encoders import CallableEncoder, SelfSupervisedEncoder
from flagst.pp import fit_encoder, image_features


def fit(data, **kwargs):
    return fit_encoder(data, **({"n_steps": 2, "device": "cpu", "progress": False} | kwargs))


@pytest.fixture
def seen(monkeypatch):
    """Patches that encoders were fitted on."""
    found, original = [], SelfSupervisedEncoder.fit.__func__

    def watched(cls, patches, **kwargs):
        found.append(patches)
        return original(cls, patches, **kwargs)

    monkeypatch.setattr(SelfSupervisedEncoder, "fit", classmethod(watched))
    return found


@pytest.mark.parametrize("stain_normalise", ["section", None])
def test_it_is_fitted_on_the_patches_that_are_encoded(sdata, seen, stain_normalise):
    fit(sdata, stain_normalise=stain_normalise, patch_um=(100, 150))
    raw = CallableEncoder(
        lambda patches: patches.flatten(1), name="raw", patch_px=112, patch_um=(100, 150), mean=(0, 0, 0), std=(1, 1, 1)
    )
    image_features(sdata, encoder=raw, stain_normalise=stain_normalise, progress=False)
    table = sdata.tables["table"]
    encoded = np.round(255 * table.obsm["X_image"]).reshape(60, 2, 3, 112, 112).transpose(0, 1, 3, 4, 2)
    rows = [np.flatnonzero(table.obs["section"] == name) for name in ("A", "B")]
    expected = np.concatenate([encoded[mine, scale] for mine in rows for scale in range(2)])
    np.testing.assert_array_equal(seen[0], expected)


def test_sections_that_are_left_out_have_no_part(sdata, seen, slide):
    fit(sdata, sections=["A"])
    other = flagst.io.build_sdata([slide.sections()[0], slide.sections(radius=160)[1]])
    fit(other, sections="A")
    assert len(seen[0]) == 90
    np.testing.assert_array_equal(seen[0], seen[1])


def test_of_many_patches_some_are_drawn(sdata, seen):
    for seed in (0, 0, 1):
        fit(sdata, max_patches=70, seed=seed)
    fit(sdata)
    everything = {patch.tobytes() for patch in seen[3]}
    assert len(seen[0]) == 70 and len(seen[3]) == 180
    assert {patch.tobytes() for patch in seen[0]} <= everything
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()


def test_a_model_knows_the_features_of_its_encoder(slide, tmp_path):
    """Features of another fit are refused at prediction; those of the saved file are taken."""
    sdata = flagst.io.build_sdata(slide.sections(n_spots=60))
    encoder = fit(sdata, sections=["A"])
    encoder.save(tmp_path / "encoder.safetensors")
    image_features(sdata, encoder=encoder, progress=False)
    table = sdata.tables["table"]
    assert table.obsm["X_image"].shape == (120, 3 * 374)
    train, query = (table[table.obs["section"] == name].copy() for name in ("A", "B"))
    flagst.pp.select_genes(train, 10)
    flagst.baselines.Ridge.setup_anndata(train)
    model = flagst.baselines.Ridge(train)
    model.train()
    read = flagst.encoders.recorded_encoder(model.features_["X_image"], path=tmp_path / "encoder.safetensors")
    expected = model.predict(query.copy()).layers["flagst"]
    image_features(sdata, encoder=read, progress=False, overwrite=True)
    again = table[table.obs["section"] == "B"].copy()
    np.testing.assert_allclose(model.predict(again).layers["flagst"], expected, rtol=1e-4, atol=1e-5)
    image_features(sdata, encoder=fit(sdata, sections=["A"], seed=1), progress=False)
    with pytest.raises(ValueError, match="sha256"):
        model.predict(table[table.obs["section"] == "B"].copy())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sections": ["A", "C"]}, r"sections that are there, \['A', 'B'\]; got \['A', 'C'\]"),
        ({"sections": []}, "got \\[\\]"),
        ({"max_patches": 10}, "64 patches or more; got 10"),
        ({"max_patches": -5}, "max_patches must be 1 or more; got -5"),
        ({"stain_normalise": "slide"}, "stain_normalise"),
        ({"patch_um": -1}, "patch_um must be"),
    ],
)
def test_settings_out_of_range(sdata, kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit(sdata, **kwargs)
