"""Small synthetic sections: a coloured tissue disc with dark spots on a bright slide."""

from types import SimpleNamespace

import numpy as np
import pytest


def make_image(height=500, width=700, seed=0, background=(240, 235, 238), centre=(420, 220), radius=190):
    rng = np.random.default_rng(seed)
    image = np.empty((height, width, 3))
    image[:] = background
    y, x = np.mgrid[:height, :width]
    disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    image[disc] = np.array(background) * (0.85, 0.6, 0.8) + rng.normal(0, 3, (disc.sum(), 3))
    for cx, cy in rng.uniform((0, 0), (width, height), (900, 2)):
        if (cx - centre[0]) ** 2 + (cy - centre[1]) ** 2 < (radius - 5) ** 2:
            near = np.s_[int(cy) - 3 : int(cy) + 4, int(cx) - 3 : int(cx) + 4]
            nucleus = (x[near] - cx) ** 2 + (y[near] - cy) ** 2 <= 9
            image[near][nucleus] = np.array(background) * (0.3, 0.25, 0.55)
    return np.clip(image, 0, 255).astype(np.uint8)


def make_coords(n_spots=30, seed=0):
    angle, distance = np.random.default_rng(seed).uniform((0, 0), (2 * np.pi, 1), (n_spots, 2)).T
    return np.column_stack(
        [420 + 150 * np.sqrt(distance) * np.cos(angle), 220 + 150 * np.sqrt(distance) * np.sin(angle)]
    )


def make_sections(names=("A", "B"), n_spots=30, n_genes=40, um_per_px=2.0, **kwargs):
    from flagst.io import Section

    rng = np.random.default_rng(1)
    return [
        Section(
            name=name,
            coords=make_coords(n_spots, seed=i),
            counts=rng.negative_binomial(2, 0.3, (n_spots, n_genes)),
            genes=[f"G{j}" for j in range(n_genes)],
            spot_diameter_px=30.0,
            um_per_px=um_per_px,
            image=make_image(seed=i, **kwargs),
        )
        for i, name in enumerate(names)
    ]


@pytest.fixture
def slide():
    """The functions above, for tests that need more than the default."""
    return SimpleNamespace(image=make_image, coords=make_coords, sections=make_sections)


@pytest.fixture
def sections():
    return make_sections()


@pytest.fixture
def sdata(sections):
    from flagst.io import build_sdata

    return build_sdata(sections)
