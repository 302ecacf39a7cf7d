"""tissue_spots: positions, distances, prediction at the spots, and errors."""

import numpy as np
import pytest

from flagst import io, pp
from flagst.data.graph import knn

UM_PER_PX = 2.0


@pytest.fixture
def slides(sdata):
    """The images alone: a disc of tissue at (420, 220), radius 190, on glass."""
    del sdata.tables["table"]
    for name in list(sdata.shapes):
        del sdata.shapes[name]
    return sdata


@pytest.mark.parametrize("layout", ["hex", "square"])
def test_spots_lie_on_tissue_one_pitch_apart(slides, layout):
    pp.tissue_spots(slides, 60.0, um_per_px=UM_PER_PX, layout=layout, spot_diameter_um=40.0)
    table = slides["table"]
    assert table.n_vars == 0 and set(table.obs["section"]) == {"A", "B"}
    for name in "AB":
        rows = (table.obs["section"] == name).to_numpy()
        coords = table.obsm["spatial"][rows]
        away = np.hypot(*(coords - [420, 220]).T)
        assert away.max() < 200 and (away < 170).mean() > 0.7
        # all of the disc is covered: its area over that of one spot
        area = 30**2 * (np.sqrt(3) / 2 if layout == "hex" else 1)
        assert rows.sum() == pytest.approx(np.pi * 190**2 / area, rel=0.1)
        nearest = knn(coords, 6)[1]
        np.testing.assert_allclose(nearest[:, 0], 30, rtol=1e-6)
        inner = away < 120
        np.testing.assert_allclose(nearest[inner, 5 if layout == "hex" else 3], 30, rtol=1e-6)
        circles = slides.shapes[f"{name}_spots"]
        assert (circles.radius == 10).all()
        np.testing.assert_allclose(np.column_stack([circles.geometry.x, circles.geometry.y]), coords)
    io.check(slides, require_images=True)
    params = table.uns["flagst"]["params"]
    assert params["um_per_px"] == {"A": 2.0, "B": 2.0} and params["layout"] == {"A": layout, "B": layout}


def test_features_can_be_made_and_the_result_survives_zarr(slides, tmp_path):
    import spatialdata

    pp.tissue_spots(slides, 100.0, um_per_px={"A": 2.0, "B": 2.5}, sections="B")
    table = slides["table"]
    assert set(table.obs["section"]) == {"B"} and "A_spots" not in slides.shapes
    pp.image_features(slides, progress=False)
    assert np.isfinite(table.obsm["X_image"]).all() and len(table.obsm["X_image"]) == table.n_obs
    slides.write(tmp_path / "slides.zarr")
    back = spatialdata.read_zarr(tmp_path / "slides.zarr")
    assert list(back["table"].obs_names) == list(table.obs_names)
    np.testing.assert_array_equal(back["table"].obsm["spatial"], table.obsm["spatial"])


def test_a_model_predicts_on_them():
    """From an image and a scale to expression, by a model trained on other sections."""
    import flagst

    sdata = flagst.datasets.simulated_sections(n_sections=3, n_spots=60, n_genes=12, seed=0)
    flagst.pp.image_features(sdata, progress=False)
    flagst.FLAG.setup_anndata(sdata["table"])
    model = flagst.FLAG(sdata["table"], diffusion=False, gfm=None)
    model.train(accelerator="cpu", enable_progress_bar=False)
    slide = flagst.datasets.simulated_sections(n_sections=1, n_spots=60, n_genes=12, seed=5)
    scale = slide["table"].uns["flagst"]["params"]["um_per_px"]
    del slide.tables["table"], slide.shapes["S1_spots"]
    pp.tissue_spots(slide, 100.0, um_per_px=scale)
    pp.image_features(slide, progress=False)
    out = model.predict(model.prepare_query(slide), structure=0.5)
    assert out.shape == (slide["table"].n_obs, 12) and np.isfinite(out.layers["flagst"]).all()


def test_specks_and_holes(slides):
    """A dark speck on glass gets no spot; a gland's lumen inside tissue does."""
    image = np.full((500, 700, 3), 240, np.uint8)
    image[100:400, 100:400] = (180, 130, 170)
    image[240:250, 240:250] = 240  # lumen
    image[50:56, 600:606] = 60  # dirt
    from spatialdata.models import Image2DModel

    slides.images["C_image"] = Image2DModel.parse(image.transpose(2, 0, 1), dims=("c", "y", "x"))
    pp.tissue_spots(slides, 20.0, um_per_px=1.0, sections=["C"])
    coords = slides["table"].obsm["spatial"]
    assert coords.min() > 90 and coords.max() < 410
    assert np.hypot(*(coords - 245).T).min() < 15


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"pitch_um": 0}, ValueError, "pitch_um must be a positive"),
        ({"spot_diameter_um": np.nan}, ValueError, "spot_diameter_um must be"),
        ({"layout": "round"}, ValueError, "layout must be one of"),
        ({"least_tissue": 0}, ValueError, "least_tissue"),
        ({"um_per_px": 0}, ValueError, "um_per_px of 'A'"),
        ({"um_per_px": {"A": 1.0}}, KeyError, "no 'B'"),
        ({"um_per_px": None}, KeyError, "no 'A'.*Give one number"),
        ({"um_per_px": 100.0}, ValueError, "below two"),
        ({"sections": ["Z"]}, KeyError, "Z_image.*Name images S_image"),
    ],
)
def test_what_cannot_be_right_is_refused_and_nothing_is_changed(slides, change, error, reason):
    arguments = {"pitch_um": 60.0, "um_per_px": UM_PER_PX} | change
    with pytest.raises(error, match=reason):
        pp.tissue_spots(slides, **arguments)
    assert not slides.tables and not slides.shapes


def test_glass_alone_and_what_is_there_already(slides):
    from spatialdata.models import Image2DModel

    slides.images["C_image"] = Image2DModel.parse(np.full((3, 300, 300), 240, np.uint8), dims=("c", "y", "x"))
    with pytest.raises(ValueError, match="No tissue was found on 'C'"):
        pp.tissue_spots(slides, 60.0, um_per_px=UM_PER_PX)
    assert not slides.tables and not slides.shapes
    pp.tissue_spots(slides, 60.0, um_per_px=UM_PER_PX, sections="A")
    with pytest.raises(ValueError, match="has 'table' already"):
        pp.tissue_spots(slides, 60.0, um_per_px=UM_PER_PX, sections="B")
    with pytest.raises(ValueError, match="has 'A_spots' already"):
        pp.tissue_spots(slides, 60.0, um_per_px=UM_PER_PX, sections="A", table_key="other")
