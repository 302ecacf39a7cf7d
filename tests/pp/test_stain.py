"""Stain normalisation: a white background and one stain strength."""

import numpy as np
import pytest

from flagst.pp._stain import REFERENCE_DENSITY, Overview, Stain


def test_background_becomes_white_and_black_stays_dark():
    stain = Stain((240.0, 230.0, 235.0), 1.0)
    patches = np.array([[[[240, 230, 235], [0, 0, 0], [255, 255, 255], [120, 115, 117]]]], np.uint8)
    out = stain.apply(patches)[0, 0].astype(int)
    assert (out[0] == 255).all() and (out[1] <= 1).all() and (out[2] == 255).all()
    assert np.ptp(out[3]) <= 2  # the same shade of every colour is grey
    assert patches[0, 0, 0, 0] == 240


def test_no_stain_difference_means_no_change():
    patches = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(Stain((255.0, 255.0, 255.0), 1.0).apply(patches), patches)


@pytest.mark.parametrize("background", [(240, 235, 238), (225, 200, 220)])
def test_background_is_found(slide, background):
    overview = Overview.of(slide.image(background=background), 1.0)
    np.testing.assert_allclose(overview.background, background, atol=3)


def test_strength_is_relative_to_the_reference(slide):
    image, coords = slide.image(), slide.coords()
    stain = Overview.of(image, 1.0).stain(coords, side=60)
    normalised = stain.apply(image[None])[0]
    assert Overview.of(normalised, 1.0).stain(coords, side=60).strength == pytest.approx(1, abs=0.05)
    assert 0 < stain.strength < 3 and REFERENCE_DENSITY > 0


def test_only_tissue_around_the_spots_counts(slide):
    image, coords = slide.image(), slide.coords()
    marked = image.copy()
    marked[420:480, 20:120] = 5  # ink far away
    assert Overview.of(marked, 1.0).stain(coords, side=60) == Overview.of(image, 1.0).stain(coords, side=60)


def test_no_tissue_means_strength_one():
    blank = np.full((100, 100, 3), 240, np.uint8)
    assert Overview.of(blank, 1.0).stain(np.array([[50.0, 50.0]]), side=40).strength == 1


def test_share_on_tissue_knows_x_from_y(slide):
    overview = Overview.of(slide.image()[::2, ::2], 0.5)
    coords = slide.coords()
    assert overview.share_on_tissue(coords) == 1
    assert overview.share_on_tissue(coords[:, ::-1]) < 0.6
    assert overview.share_on_tissue(coords + 10_000) == 0
