"""Patches to encode."""

import numpy as np
import pytest


@pytest.fixture
def patches():
    """(5, 224, 224, 3) uint8, different from each other."""
    return np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3)).astype(np.uint8)
