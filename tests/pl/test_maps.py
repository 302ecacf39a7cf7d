"""pl.spatial: shared scales, true spot size, orientation, titles that agree with the metrics."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection

from flagst.data.targets import to_target
from flagst.metrics import per_gene_pcc
from flagst.pl import spatial

DIAMETER, SCALE = 145.0, 0.1


def spots(ax):
    return next(c for c in ax.collections if isinstance(c, EllipseCollection))


def rendered(figure):
    """The figure as an array (height, width, 3), as it is written to a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=figure.dpi)
    width, height = figure.canvas.get_width_height()
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].astype(int)


def test_measured_beside_predicted_on_one_scale(predicted):
    axes = spatial(predicted, ["GENE0", "GENE3"], section="S1")
    assert axes.shape == (2, 2)
    rows = (predicted.obs["section"] == "S1").to_numpy()
    measured = to_target(predicted.X, None, "log2")[rows]
    for row, k in enumerate((0, 3)):
        left, right = (spots(ax) for ax in axes[row])
        np.testing.assert_allclose(left.get_array(), measured[:, k])
        np.testing.assert_allclose(right.get_array(), predicted.layers["flagst"][rows, k])
        both = np.concatenate([left.get_array(), right.get_array()])
        assert left.get_clim() == right.get_clim() == pytest.approx((both.min(), both.max()))
        pcc = per_gene_pcc(predicted.layers["flagst"][rows], measured)[k]
        assert axes[row, 0].get_title() == f"GENE{k}, measured"
        assert axes[row, 1].get_title() == f"GENE{k}, predicted (PCC {pcc:.2f})"
    bars = [ax for ax in axes[0, 0].figure.axes if ax.get_label() == "<colorbar>"]
    assert [bar.get_ylabel() for bar in bars] == ["log2(count + 1)"] * 2


def test_all_sections_share_the_scale_of_a_gene(predicted):
    axes = spatial(predicted, "GENE1")
    assert axes.shape == (2, 2)
    assert [axes[row, 0].get_ylabel() for row in (0, 1)] == ["S1", "S2"]
    limits = {spots(ax).get_clim() for ax in axes.ravel()}
    assert len(limits) == 1
    assert {spots(ax).get_clim() for ax in spatial(predicted, "GENE1", vmin=0, vmax=2).ravel()} == {(0, 2)}


def test_spots_have_their_place_and_true_size(predicted):
    ax = spatial(predicted, "GENE0", section="S2")[0, 0]
    rows = (predicted.obs["section"] == "S2").to_numpy()
    circles = spots(ax)
    np.testing.assert_allclose(circles.get_offsets(), predicted.obsm["spatial"][rows])
    np.testing.assert_allclose(circles.get_widths(), DIAMETER)
    np.testing.assert_allclose(circles.get_heights(), DIAMETER)


def test_rendered_spots_have_the_area_of_their_diameter(predicted):
    del predicted.uns["spatial"]["S1"]["images"]
    figure = spatial(predicted, "GENE0", section="S1", return_fig=True)
    pixels, ax = rendered(figure), figure.axes[0]
    corners = predicted.obsm["spatial"][0] + [[-DIAMETER, DIAMETER], [DIAMETER, -DIAMETER]]
    (left, bottom), (right, top) = ax.transData.transform(corners)
    height = pixels.shape[0]
    window = pixels[int(height - top) : int(height - bottom), int(left) : int(right)]
    on_screen = DIAMETER * np.diff(ax.transData.transform([[0, 0], [1, 0]]), axis=0)[0, 0]
    covered = (255 * 3 - window.sum(axis=-1)).sum() / (255 * 3 - window.sum(axis=-1)).max()
    assert covered == pytest.approx(np.pi / 4 * on_screen**2, rel=0.1)


def test_image_lies_under_the_spots_the_right_way_up(predicted):
    ax = spatial(predicted, "GENE0", section="S1")[0, 0]
    image = predicted.uns["spatial"]["S1"]["images"]["hires"]
    np.testing.assert_array_equal(ax.images[0].get_array(), image)
    assert ax.images[0].get_extent() == pytest.approx([0, 8000, 6000, 0])
    assert ax.images[0].get_zorder() < spots(ax).get_zorder()
    assert ax.yaxis_inverted() and not ax.xaxis_inverted()


@pytest.mark.parametrize("crop", [True, False])
def test_rendered_red_mark_is_at_the_first_spot(predicted, crop):
    figure = spatial(predicted, "GENE0", section="S1", alpha=0.0, crop=crop, return_fig=True)
    pixels = rendered(figure)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)
    ax = figure.axes[0]
    rows, columns = np.nonzero(red[:, : int(ax.bbox.x1)])  # the left panel
    x, y = ax.transData.transform(predicted.obsm["spatial"][0])
    assert columns.mean() == pytest.approx(x, abs=3)
    assert pixels.shape[0] - rows.mean() == pytest.approx(y, abs=3)


def test_crop_shows_all_spots_and_whole_image_without(predicted):
    ax = spatial(predicted, "GENE0", section="S1")[0, 0]
    coords = predicted.obsm["spatial"][:120]
    assert ax.get_xlim()[0] < coords[:, 0].min() - DIAMETER / 2 and ax.get_xlim()[1] < 8000
    assert ax.get_ylim()[0] > coords[:, 1].max() + DIAMETER / 2 > ax.get_ylim()[1]
    whole = spatial(predicted, "GENE0", section="S1", crop=False)[0, 0]
    assert whole.get_xlim() == (0, 8000) and whole.get_ylim() == (6000, 0)


def test_scale_bar_has_its_length(predicted):
    ax = spatial(predicted, "GENE0", section="S1")[0, 0]
    bar = next(line for line in ax.lines if line.get_label() == "scale bar")
    um_per_px = predicted.uns["flagst"]["params"]["um_per_px"]["S1"]
    assert np.diff(bar.get_xdata())[0] * um_per_px == pytest.approx(500)
    assert [t.get_text().strip() for t in ax.texts] == ["500 µm"]


def test_prediction_only(predicted):
    predicted.X = None
    axes = spatial(predicted, "GENE0", section="S1")
    assert axes.shape == (1, 1)
    assert axes[0, 0].get_title() == "GENE0, predicted"


def test_dense_counts_are_as_good_as_sparse(predicted):
    expected = spots(spatial(predicted, "GENE2", section="S1")[0, 0]).get_array()
    predicted.X = predicted.X.toarray()
    np.testing.assert_array_equal(spots(spatial(predicted, "GENE2", section="S1")[0, 0]).get_array(), expected)


def test_a_gene_that_was_not_measured_has_no_measured_panel(predicted):
    predicted.var["flagst_measured"] = predicted.var_names != "GENE1"
    counts = predicted.X.toarray()
    counts[:, 1] = 0
    predicted.X = counts
    axes = spatial(predicted, ["GENE0", "GENE1"], section="S1")
    assert [bool(ax.collections) and ax.axison for ax in axes.ravel()] == [True, True, False, True]
    drawn = axes[1, 1]
    values = predicted.layers["flagst"][:120, 1]
    np.testing.assert_allclose(spots(drawn).get_array(), values)
    assert spots(drawn).get_clim() == pytest.approx((values.min(), values.max()))  # no zeros in the scale
    assert (drawn.get_title(), drawn.get_ylabel()) == ("GENE1, predicted", "S1")
    assert [line.get_label() for line in drawn.lines] == ["scale bar"] and not axes[1, 0].lines
    assert spatial(predicted, "GENE1").shape == (2, 1)  # nothing measured to show at all
    given = spatial(predicted, "GENE1", truth=np.ones(predicted.shape))
    assert given.shape == (2, 2) and given[0, 0].get_title() == "GENE1, measured"


@pytest.mark.parametrize("kind", ["layer", "array"])
def test_given_truth(predicted, kind):
    measured = to_target(predicted.X, None, "log2")
    expected = spots(spatial(predicted, "GENE2", section="S1")[0, 0]).get_array()
    predicted.X = None
    predicted.layers["measured"] = measured
    axes = spatial(predicted, "GENE2", section="S1", truth="measured" if kind == "layer" else measured)
    np.testing.assert_allclose(spots(axes[0, 0]).get_array(), expected)


def test_without_image_or_scale_factors(predicted):
    del predicted.uns["spatial"], predicted.uns["flagst"]["params"]["um_per_px"]
    ax = spatial(predicted, "GENE0", section="S1")[0, 0]
    assert not ax.images and not ax.texts and ax.yaxis_inverted()
    assert spots(ax).get_widths()[0] == pytest.approx(290 / 2)  # half the pitch


def test_one_section_with_an_image_of_another_name(predicted):
    one = predicted[predicted.obs["section"] == "S1"].copy()
    one.uns["spatial"] = {"library": one.uns["spatial"]["S1"]}
    assert spatial(one, "GENE0")[0, 0].images


def test_save_show_and_return(predicted, tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    axes = spatial(predicted, "GENE0", save=path)
    assert path.stat().st_size > 10_000 and axes.shape == (2, 2)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert spatial(predicted, "GENE0", show=True) is None and shown
    assert isinstance(spatial(predicted, "GENE0", return_fig=True), plt.Figure)


def test_errors(predicted):
    with pytest.raises(KeyError, match="not found: .'NOPE'.*'GENE0'"):
        spatial(predicted, ["GENE0", "NOPE"])
    with pytest.raises(KeyError, match="not found"):
        spatial(predicted, [])
    with pytest.raises(KeyError, match="no 'S9'; found .'S1', 'S2'"):
        spatial(predicted, "GENE0", section="S9")
    with pytest.raises(KeyError, match="no 'flagst_std'"):
        spatial(predicted, "GENE0", layer="flagst_std")
    del predicted.obsm["spatial"]
    with pytest.raises(KeyError, match="no 'spatial'"):
        spatial(predicted, "GENE0")


def test_nothing_is_changed(predicted):
    before = predicted.copy()
    spatial(predicted, ["GENE0", "GENE1"])
    assert set(predicted.uns) == set(before.uns) and list(predicted.var) == list(before.var)
    np.testing.assert_array_equal(
        predicted.uns["spatial"]["S1"]["images"]["hires"], before.uns["spatial"]["S1"]["images"]["hires"]
    )
    np.testing.assert_array_equal(predicted.X.toarray(), before.X.toarray())


def test_squidpy_draws_the_layer(predicted):
    import squidpy as sq

    predicted.X = None
    axes = sq.pl.spatial_scatter(predicted, layer="flagst", color="GENE0", library_key="section", return_ax=True)
    drawn = [ax.collections[0].get_array() for ax in np.ravel(axes)]
    for section, values in zip(("S1", "S2"), drawn, strict=True):
        rows = (predicted.obs["section"] == section).to_numpy()
        np.testing.assert_allclose(np.asarray(values), predicted.layers["flagst"][rows, 0], rtol=1e-6)
