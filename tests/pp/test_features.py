"""image_features: features of the right spots, their record, when they are reused, and errors."""

import logging

import anndata as ad
import numpy as np
import pytest

import flagst
from flagst.encoders import Handcrafted
from flagst.pp import image_features


class Mean:
    """Mean colour of a patch: a feature that can be checked by hand."""

    name, version, patch_px, patch_um, n_features, feature_names = (
        "mean",
        "1",
        20,
        (40.0,),
        3,
        ["r", "g", "b"],
    )

    def params(self):
        return {"weights": [1.0, 2.0]}

    def encode(self, patches):
        return patches.mean((1, 2)).astype(np.float32)


def features(data, **kwargs):
    image_features(data, progress=False, **kwargs)
    table = data if isinstance(data, ad.AnnData) else data.tables["table"]
    return table.obsm[kwargs.get("key_added", "X_image")]


def test_default_features_and_their_record(sdata):
    values = features(sdata)
    record = sdata.tables["table"].uns["flagst"]["features"]["X_image"]
    assert values.shape == (60, 3 * 118) and values.dtype == np.float32 and np.isfinite(values).all()
    assert record["encoder"] == "handcrafted" and record["version"] == Handcrafted.version
    assert record["patch_um"] == [150.0, 300.0, 600.0] and record["source"] == "image"
    assert len(record["feature_names"]) == values.shape[1] == len(set(record["feature_names"]))
    assert set(record["um_per_px"]) == set(record["positions"]) == set(record["stain"]) == {"A", "B"}


def test_a_spot_gets_the_pixels_around_it(sdata, sections):
    values = features(sdata, encoder=Mean(), stain_normalise=None)
    for i, section in enumerate(sections):
        for (x, y), value in zip(section.coords, values[30 * i : 30 * (i + 1)], strict=True):
            left, top = round(x - 10), round(y - 10)
            np.testing.assert_allclose(value, section.image[top : top + 20, left : left + 20].mean((0, 1)), atol=0.01)


def test_table_order_and_other_sections_do_not_matter(sdata, slide):
    expected = features(sdata, encoder=Mean())
    table = sdata.tables["table"]
    order = np.random.default_rng(0).permutation(table.n_obs)
    shuffled = flagst.io.build_sdata(slide.sections())
    shuffled.tables["table"] = table[order].copy()
    del shuffled.tables["table"].obsm["X_image"]
    np.testing.assert_array_equal(features(shuffled, encoder=Mean()), expected[order])
    alone = flagst.io.build_sdata(slide.sections()[1:])
    np.testing.assert_array_equal(features(alone, encoder=Mean()), expected[30:])


def test_threads_do_not_change_the_result(sdata):
    one = features(sdata, n_jobs=1).copy()
    np.testing.assert_array_equal(features(sdata, n_jobs=3, overwrite=True), one)


def test_image_and_shape_transformations_are_followed(sections):
    from spatialdata.transformations import Scale, Sequence, Translation, set_transformation

    from flagst.io import build_sdata

    expected = features(build_sdata(sections), encoder=Mean())
    moved = build_sdata(sections)
    for name in "AB":
        to_system = Sequence([Scale([2.0, 0.5], axes=("x", "y")), Translation([100.0, -30.0], axes=("x", "y"))])
        for element in (f"{name}_image", f"{name}_spots"):
            set_transformation(moved[element], to_system, name)
    np.testing.assert_allclose(features(moved, encoder=Mean()), expected, atol=1e-3)


def test_single_scale_images_work(sections):
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity

    from flagst.io import build_sdata

    sdata = build_sdata(sections)
    expected = features(sdata, encoder=Mean()).copy()
    for section in sections:
        sdata.images[f"{section.name}_image"] = Image2DModel.parse(
            np.moveaxis(section.image, 2, 0), dims=("c", "y", "x"), transformations={section.name: Identity()}
        )
    np.testing.assert_allclose(features(sdata, encoder=Mean(), overwrite=True), expected, atol=0.01)


def test_plain_anndata_uses_the_small_image(sdata):
    expected = features(sdata, encoder=Mean(), stain_normalise=None)
    adata = sdata.tables["table"].copy()
    del adata.obsm["X_image"]
    values = features(adata, encoder=Mean(), stain_normalise=None)
    assert adata.uns["flagst"]["features"]["X_image"]["source"] == "hires"
    np.testing.assert_allclose(values, expected, atol=2)  # the image is small: hires is the image itself
    for name in "AB":
        library = adata.uns["spatial"][name]
        library["images"]["hires"] = library["images"]["hires"].astype(np.float32) / 255
    np.testing.assert_allclose(features(adata, encoder=Mean(), stain_normalise=None, overwrite=True), values, atol=0.01)


def test_the_same_settings_are_not_computed_again(sdata, caplog):
    table = sdata.tables["table"]
    features(sdata, encoder=Mean())
    table.obsm["X_image"][:] = 7
    with caplog.at_level(logging.INFO, logger="flagst"):
        assert (features(sdata, encoder=Mean()) == 7).all()
    assert "reused" in caplog.text
    assert (features(sdata, encoder=Mean(), overwrite=True) != 7).any()
    table.obsm["X_image"][:] = 7
    assert (features(sdata, encoder=Mean(), patch_um=60) != 7).any()
    table.obsm["X_image"][:] = 7
    assert (features(sdata, encoder=Mean(), patch_um=60, stain_normalise=None) != 7).any()
    table.obsm["X_image"][3] = np.nan
    assert np.isfinite(features(sdata, encoder=Mean(), patch_um=60, stain_normalise=None)).all()


def test_moved_spots_and_resized_images_are_computed_again(sdata):
    """The same settings say nothing about where the spots are."""
    adata = sdata.tables["table"].copy()
    before = features(adata, encoder=Mean()).copy()
    in_b = (adata.obs["section"] == "B").to_numpy()
    adata.obsm["spatial"][in_b] -= 40
    moved = features(adata, encoder=Mean()).copy()
    np.testing.assert_array_equal(moved, features(adata, encoder=Mean(), overwrite=True))
    np.testing.assert_array_equal(moved[~in_b], before[~in_b])
    assert (moved[in_b] != before[in_b]).any()

    library = adata.uns["spatial"]["A"]["images"]
    library["hires"] = library["hires"][:, :-20]
    adata.obsm["X_image"][:] = 7
    assert (features(adata, encoder=Mean()) != 7).any()
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1] * [0.9, 0.8]
    with pytest.raises(ValueError, match="swapped"):
        features(adata, encoder=Mean())


def test_several_feature_sets_stand_side_by_side(sdata):
    features(sdata, encoder=Mean())
    features(sdata, encoder=Mean(), patch_um=[30, 60], key_added="X_wide")
    table = sdata.tables["table"]
    assert table.obsm["X_wide"].shape == (60, 6)
    assert set(table.uns["flagst"]["features"]) == {"X_image", "X_wide"}
    assert table.uns["flagst"]["features"]["X_wide"]["feature_names"][3] == "r_60um"


@pytest.mark.parametrize("container", ["h5ad", "zarr", "sdata"])
def test_what_is_written_survives_and_is_still_recognised(sdata, tmp_path, container, caplog):
    import spatialdata as sd

    values = features(sdata, encoder=Mean())
    if container == "sdata":
        sdata.write(tmp_path / "s.zarr")
        back = sd.read_zarr(tmp_path / "s.zarr")
    else:
        adata = sdata.tables["table"]
        features(adata, encoder=Mean())
        path = tmp_path / f"a.{container}"
        getattr(adata, f"write_{container}")(path)
        back = getattr(ad, f"read_{container}")(path)
    with caplog.at_level(logging.INFO, logger="flagst"):
        again = features(back, encoder=Mean())
    assert "reused" in caplog.text
    assert again.shape == values.shape


def test_nothing_of_the_users_is_modified(sdata, sections):
    table = sdata.tables["table"]
    counts, obs, params = table.X.copy(), table.obs.copy(), dict(table.uns["flagst"]["params"])
    shapes = {name: shape.copy() for name, shape in sdata.shapes.items()}
    features(sdata, encoder=Mean())
    assert (table.X != counts).nnz == 0 and table.obs.equals(obs) and table.uns["flagst"]["params"] == params
    for name, shape in sdata.shapes.items():
        assert shape.equals(shapes[name])
    for section in sections:
        pixels = sdata.images[f"{section.name}_image"]["scale0"]["image"].values
        np.testing.assert_array_equal(np.moveaxis(pixels, 0, 2), section.image)


def test_sections_without_an_image_are_named(sdata):
    adata = sdata.tables["table"].copy()
    del sdata.images["B_image"]
    with pytest.raises(ValueError, match=r"1 of 2 sections have no image: \['B'\]"):
        features(sdata)
    del adata.uns["spatial"]["A"]["images"]
    with pytest.raises(ValueError, match=r"1 of 2 sections have no image: \['A'\]"):
        features(adata)
    del adata.uns["spatial"]
    with pytest.raises(ValueError, match=r"\['A', 'B'\]"):
        features(adata)


def test_missing_pieces_are_named(sdata):
    adata = sdata.tables["table"].copy()
    with pytest.raises(KeyError, match="slide"):
        features(adata, section_key="slide")
    with pytest.raises(KeyError, match="cells"):
        features(sdata, table_key="cells")
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial"):
        features(adata)
    table = sdata.tables["table"]
    scale = table.uns["flagst"]["params"].pop("um_per_px")
    with pytest.raises(KeyError, match="um_per_px.*micrometres per full-resolution pixel"):
        features(sdata)
    table.uns["flagst"]["params"]["um_per_px"] = {"A": scale["A"]}
    with pytest.raises(KeyError, match="has no .*B.*found"):
        features(sdata)
    table.uns["flagst"]["params"]["um_per_px"] = {"A": scale["A"], "B": -1.0}
    with pytest.raises(ValueError, match="positive"):
        features(sdata)
    table.uns["flagst"]["params"]["um_per_px"] = scale
    del sdata.shapes["B_spots"]
    with pytest.raises(KeyError, match="B_spots"):
        features(sdata)


def test_spots_without_a_shape_are_named(sdata):
    sdata.shapes["A_spots"] = sdata.shapes["A_spots"].iloc[1:]
    with pytest.raises(ValueError, match="1 spots of section 'A' are not in sdata.shapes.*A_0"):
        features(sdata)


def test_coordinates_outside_or_swapped(sdata):
    adata = sdata.tables["table"].copy()
    adata.obsm["spatial"] = adata.obsm["spatial"] * 10
    with pytest.raises(ValueError, match="Section 'A': .* lie outside the image"):
        features(adata)
    adata = sdata.tables["table"].copy()
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1] * [0.9, 0.8]
    with pytest.raises(ValueError, match="Section 'A': .*tissue.*swapped"):
        features(adata)
    adata.obsm["spatial"][0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        features(adata)


def test_spots_just_outside_the_image(sdata):
    """A patch around them would still reach into it."""
    adata = sdata.tables["table"].copy()
    adata.obsm["spatial"][:4] = [[0, 200], [699.9, 200], [400, 0], [400, 499.9]]
    assert np.isfinite(features(adata)).all()
    for outside in ([-10, 200], [710, 200], [400, -10], [400, 510]):
        adata.obsm["spatial"][3] = outside
        with pytest.raises(ValueError, match="Section 'A': 1 of 30 spots lie outside the image"):
            features(adata)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"patch_um": 0}, ValueError, "patch_um"),
        ({"patch_um": []}, ValueError, "patch_um"),
        ({"n_jobs": 0}, ValueError, "n_jobs"),
        ({"stain_normalise": "macenko"}, ValueError, "stain_normalise"),
        ({"encoder": "resnet"}, ValueError, "handcrafted"),
    ],
)
def test_settings_out_of_range(sdata, kwargs, error, match):
    with pytest.raises(error, match=match):
        features(sdata, **kwargs)


def test_other_objects_are_a_type_error():
    with pytest.raises(TypeError, match="ndarray"):
        image_features(np.zeros(3))


def test_an_encoder_that_fails_stops_everything(sdata):
    class Broken(Mean):
        def encode(self, patches):
            return np.full((len(patches), 3), np.nan, np.float32)

    with pytest.raises(ValueError, match="NaN"):
        features(sdata, encoder=Broken())
    assert "X_image" not in sdata.tables["table"].obsm


def test_coarse_images_are_mentioned(sdata, caplog):
    adata = sdata.tables["table"].copy()
    with caplog.at_level(logging.WARNING, logger="flagst"):
        features(adata, encoder=Mean(), patch_um=10)
    assert "blurred" in caplog.text


def test_stain_normalisation_removes_a_scanner(sections, slide):
    from flagst.io import build_sdata

    pinkish = build_sdata(sections[:1])
    sections[0].image = slide.image(seed=0, background=(228, 205, 222))
    other = build_sdata(sections[:1])
    gap = {}
    for how in ("section", None):
        a, b = (
            features(pinkish, stain_normalise=how, overwrite=True),
            features(other, stain_normalise=how, overwrite=True),
        )
        gap[how] = np.median(np.abs(a - b) / (a.std(0) + 1e-3))
    assert gap["section"] < gap[None] / 2


def test_real_section(her2st_dir):
    sdata = flagst.datasets.her2st("C2", her2st_dir)
    values = features(sdata)
    assert values.shape == (187, 354) and np.isfinite(values).all()
    table = sdata.tables["table"]
    names = table.uns["flagst"]["features"]["X_image"]["feature_names"]
    nuclei = values[:, names.index("nuclei_area_150um")]
    depth = np.log1p(table.obs["total_counts"])
    assert np.corrcoef(nuclei, depth)[0, 1] > 0.2  # more nuclei, more RNA
