"""Colours unmix into the stains they were mixed from."""

import numpy as np
import pytest

from flagst.encoders._planes import _EOSIN, _HAEMATOXYLIN, stain_planes


def dyed(haematoxylin, eosin):
    """(1, 4, 4, 3) patch with these amounts of stain."""
    unit = [v / np.linalg.norm(v) for v in (_HAEMATOXYLIN, _EOSIN)]
    density = haematoxylin * unit[0] + eosin * unit[1]
    colour = np.round(256 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(colour, (1, 4, 4, 3))


@pytest.mark.parametrize("amounts", [(0.8, 0.0), (0.0, 0.5), (0.6, 0.4), (1.5, 0.2)])
def test_amounts_of_stain_are_recovered(amounts):
    haematoxylin, eosin, residual, density = stain_planes(dyed(*amounts))
    assert np.allclose([haematoxylin[0, 0, 0], eosin[0, 0, 0]], amounts, atol=0.03)
    assert abs(residual[0, 0, 0]) < 0.03 and density[0, 0, 0] > 0


def test_white_is_empty_and_black_is_finite():
    for plane in stain_planes(np.full((1, 4, 4, 3), 255, np.uint8)):
        np.testing.assert_allclose(plane, 0, atol=1e-6)
    for plane in stain_planes(np.zeros((1, 4, 4, 3), np.uint8)):
        assert np.isfinite(plane).all() and plane.dtype == np.float32
