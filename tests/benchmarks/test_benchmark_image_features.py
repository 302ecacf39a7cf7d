"""The slide whose features are timed."""

import image_features
import numpy as np


def test_tiles_repeat_the_tissue():
    tissue = np.arange(300 * 200 * 3).reshape(300, 200, 3) % 251
    size = image_features.TILE
    found = list(image_features.tiles(tissue.astype(np.uint8), 2 * size))
    assert len(found) == 4 and all(tile.shape == (size, size, 3) for tile in found)
    y, x = size + 7, 3  # in the tile below the first
    np.testing.assert_array_equal(found[2][7, 3], tissue[y % 300, x % 200])
    np.testing.assert_array_equal(found[1][5, 9], tissue[5, (size + 9) % 200])
