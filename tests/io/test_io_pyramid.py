"""Coarse levels that a file does not have."""

import numpy as np

from flagst.io.pyramid import SMALLEST_PX, pyramid_element, with_coarse_levels


def test_coarse_levels_of_a_flat_image_are_averages_and_lazy():
    import dask.array as da

    reads = []

    def read(block_info=None):
        (_, *where) = block_info[None]["array-location"]
        reads.append(where)
        y, x = np.mgrid[slice(*where[0]), slice(*where[1])]
        return np.stack([y // 40, x // 40, (x + y) % 2 * 200]).astype(np.uint8)

    shape = (3, SMALLEST_PX + 1, 2 * SMALLEST_PX + 3)
    chunks = ((3,), da.core.normalize_chunks(2048, shape[1:2])[0], da.core.normalize_chunks(2048, shape[2:])[0])
    flat = da.map_blocks(read, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    levels = with_coarse_levels([flat])
    assert [level.shape[1:] for level in levels] == [(4097, 8195), (2048, 4097), (1024, 2048)]
    element = pyramid_element([flat], "S")
    assert reads == [] and len(element.children) == 3
    part = levels[2][:, 100:110, 200:210].compute(scheduler="synchronous")
    assert len(reads) == 4 < flat.npartitions == 15
    y, x = np.mgrid[100:110, 200:210]
    np.testing.assert_array_equal(part, np.stack([4 * y // 40, 4 * x // 40, np.full_like(x, 100)]))
