"""Patches lie where they should, whatever holds the image, and are read block by block."""

import numpy as np
import pytest

from flagst.data.patches import Level, crop_block, image_levels, pick_level, plan_blocks, thumbnail


def position_image(height=300, width=400):
    """Red is the column // 2, green the row // 2, blue constant: a pixel tells where it is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x // 2, y // 2, np.full_like(x, 7)], axis=-1).astype(np.uint8)


def crop_all(levels, centres, *, side, out_px, **kwargs):
    centres = np.asarray(centres, dtype=float)
    out = np.zeros((len(centres), out_px, out_px, 3), dtype=np.uint8)
    seen = np.zeros(len(centres), dtype=int)
    for block in plan_blocks(levels, centres, side=side, out_px=out_px, **kwargs):
        for rows, patches in crop_block(block):
            out[rows] = patches
            seen[rows] += 1
    assert (seen == 1).all()
    return out


def multiscale(image, chunk=64, n_reduced=2):
    import dask.array as da
    from spatialdata.models import Image2DModel

    lazy = da.from_array(np.moveaxis(image, 2, 0), chunks=(3, chunk, chunk))
    return Image2DModel.parse(lazy, dims=("c", "y", "x"), scale_factors=[2] * n_reduced, chunks=chunk)


def test_a_patch_at_full_resolution_is_the_slice_x_column_y_row():
    image = position_image()
    patches = crop_all(image_levels(image), [[100, 50], [250, 200]], side=40, out_px=40)
    np.testing.assert_array_equal(patches[0], image[30:70, 80:120])
    np.testing.assert_array_equal(patches[1], image[180:220, 230:270])


def test_every_way_of_holding_an_image_gives_the_same_patches():
    from spatialdata.models import Image2DModel

    image = position_image()
    single = Image2DModel.parse(np.moveaxis(image, 2, 0), dims=("c", "y", "x"))
    centres = np.random.default_rng(0).uniform(40, 260, (30, 2))
    expected = crop_all(image_levels(image), centres, side=30, out_px=30)
    for held in (single, multiscale(image)):
        np.testing.assert_array_equal(crop_all(image_levels(held), centres, side=30, out_px=30), expected)


def test_blocks_and_tiles_do_not_change_the_patches():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    levels = image_levels(multiscale(image))
    centres = np.random.default_rng(1).uniform(0, 300, (50, 2))
    whole = crop_all(levels, centres, side=50, out_px=32)
    np.testing.assert_array_equal(crop_all(levels, centres, side=50, out_px=32, block_px=70), whole)
    order = np.random.default_rng(2).permutation(50)
    np.testing.assert_array_equal(crop_all(levels, centres[order], side=50, out_px=32), whole[order])
    (block,) = plan_blocks(levels, centres, side=50, out_px=32)
    for rows, patches in crop_block(block, most_px=40):
        np.testing.assert_array_equal(patches, whole[rows])


def test_borders_are_mirrored_and_never_empty():
    image = position_image()
    patches = crop_all(image_levels(image), [[5, 10], [395, 295], [-15, 150]], side=40, out_px=40)
    padded = np.pad(image, ((40, 40), (40, 40), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(patches[0], padded[30:70, 25:65])
    np.testing.assert_array_equal(patches[1], padded[315:355, 415:455])
    np.testing.assert_array_equal(patches[2], padded[170:210, 5:45])


def test_a_patch_larger_than_the_image_is_mirrored_more_than_once():
    image = position_image(20, 30)
    patch = crop_all(image_levels(image), [[15, 10]], side=100, out_px=100)[0]
    np.testing.assert_array_equal(patch, np.pad(image, ((40, 40), (35, 35), (0, 0)), mode="symmetric"))


def test_shrinking_averages_and_keeps_the_place():
    image = position_image()
    patch = crop_all(image_levels(image), [[200, 150]], side=120, out_px=40)[0].astype(float)
    expected = (140 + 3 * np.arange(40) + 1) / 2 - 0.25  # column // 2 of the middle of three columns, on average
    assert np.abs(patch[:, :, 0] - expected).max() <= 1
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    assert crop_all(image_levels(noise), [[200, 150]], side=200, out_px=20)[0].std() < noise.std() / 4


def test_enlarging_interpolates():
    image = position_image()
    patch = crop_all(image_levels(image), [[200, 150]], side=20, out_px=80)[0].astype(float)
    assert np.abs(np.diff(patch[:, :, 0], axis=1)).max() <= 1
    assert abs(patch[..., 0].mean() - 99.5) < 0.5 and abs(patch[..., 1].mean() - 74.5) < 0.5


def test_the_coarsest_sufficient_level_is_read():
    levels = [Level(np.full((3, 400 // f, 400 // f), f, np.uint8), f, f) for f in (1, 2, 4)]
    assert [pick_level(levels, step).factor_x for step in (0.5, 1, 1.95, 3, 100)] == [1, 1, 2, 2, 4]
    assert crop_all(levels, [[200, 200]], side=120, out_px=50).max() == 2


class CountingArray:
    """Counts how often pixels are read."""

    def __init__(self, image):
        self.image, self.n_reads = np.moveaxis(image, 2, 0), 0
        self.shape, self.dtype, self.ndim = self.image.shape, self.image.dtype, 3

    def __getitem__(self, item):
        self.n_reads += 1
        return self.image[item]


def test_a_level_that_lost_its_last_odd_pixel_is_not_stretched():
    image = position_image(301, 401)
    assert [level.factor_x for level in image_levels(multiscale(image))] == [1, 2, 4]


def test_spots_of_a_block_are_read_at_once():
    pixels = CountingArray(position_image())
    centres = np.random.default_rng(0).uniform(0, 300, (200, 2))
    crop_all([Level(pixels, 1.0, 1.0)], centres, side=20, out_px=20, block_px=200)
    assert pixels.n_reads == 4


def test_chunks_larger_than_a_block_are_read_once():
    levels = image_levels(multiscale(position_image(), chunk=256))
    blocks = plan_blocks(levels, np.random.default_rng(0).uniform(0, 250, (99, 2)), side=20, out_px=20, block_px=50)
    assert len(blocks) == 1


def test_spots_outside_are_an_error_with_a_hint():
    levels = image_levels(position_image(300, 400))
    with pytest.raises(ValueError, match="1 of 2 spots lie outside the image of 400 x 300 px.*swapped"):
        plan_blocks(levels, np.array([[100, 100], [50, 390]]), side=40, out_px=40)
    with pytest.raises(ValueError, match="lie outside") as error:
        plan_blocks(levels, np.array([[1000, 1000]]), side=40, out_px=40)
    assert "swapped" not in str(error.value)


def test_images_that_are_not_rgb_uint8_are_errors():
    with pytest.raises(ValueError, match="RGB"):
        image_levels(np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match="RGB"):
        image_levels(np.zeros((10, 10, 7), np.uint8))
    with pytest.raises(TypeError, match="float64"):
        image_levels(np.zeros((10, 10, 3)))


def test_a_fourth_channel_is_dropped():
    image = np.dstack([position_image(), np.full((300, 400), 255, np.uint8)])
    assert crop_all(image_levels(image), [[100, 100]], side=10, out_px=10).shape == (1, 10, 10, 3)


def test_thumbnail_is_small_and_covers_the_image():
    small = thumbnail(image_levels(multiscale(position_image())), longest=100)
    assert max(small.shape[:2]) <= 100 and small.shape[2] == 3
    assert small[..., 0].max() > 190 and small[..., 0].min() < 5


def test_real_patches_are_slices_of_the_file(her2st_dir):
    import flagst
    from flagst.io.images import read_reduced

    sdata = flagst.datasets.her2st("C2", her2st_dir)
    centres = sdata.tables["table"].obsm["spatial"][::20]
    levels = image_levels(sdata.images["C2_image"])
    assert len(levels) == 4
    patches = crop_all(levels, centres, side=112, out_px=56)
    (path,) = (her2st_dir / "data" / "ST-imgs" / "C" / "C2").glob("*.jpg")
    half = read_reduced(path, 2)
    for (x, y), patch in zip(centres / 2, patches, strict=True):
        left, top = round(x - 28), round(y - 28)
        np.testing.assert_array_equal(patch, half[top : top + 56, left : left + 56])
