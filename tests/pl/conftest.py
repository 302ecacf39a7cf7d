"""A synthetic predicted table: two sections, images with a tissue disc and a mark under the first spot."""

import anndata as ad
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from flagst.data.targets import to_target

matplotlib.use("Agg")

SCALE = 0.1  # image pixels per full-resolution pixel
PITCH, DIAMETER = 290.0, 145.0


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def tissue_image(coords, rng):
    """A pink disc on white with nuclei-like specks, (600, 800, 3) uint8, and a red square under spot 0."""
    height, width = 600, 800
    image = np.full((height, width, 3), 245, np.uint8)
    y, x = np.mgrid[:height, :width]
    middle = coords.mean(0) * SCALE
    disc = np.hypot(x - middle[0], y - middle[1]) < 290
    image[disc] = (224, 178, 205)
    image[disc & (rng.random(disc.shape) < 0.05)] = (110, 70, 150)
    column, row = (coords[0] * SCALE).astype(int)
    image[row - 4 : row + 4, column - 4 : column + 4] = (255, 0, 0)
    return image


def make_section(name, n_genes, rng):
    """One square array of 12 x 10 spots: coords (n_spots, 2) pixels, counts (n_spots, n_genes)."""
    x, y = np.meshgrid(np.arange(12), np.arange(10))
    coords = np.column_stack([x.ravel(), y.ravel()]) * PITCH + [2500.0, 1500.0]
    phase = coords / 1200.0
    loadings = np.random.default_rng(1).normal(size=(3, n_genes))
    programs = np.column_stack([np.sin(phase[:, 0]), np.cos(phase[:, 1]), np.sin(phase.sum(1))])
    counts = rng.poisson(np.exp(1.0 + 0.8 * programs @ loadings)).astype(np.float32)
    return coords, counts


def make_predicted(n_genes=30, sections=("S1", "S2")):
    rng = np.random.default_rng(0)
    parts = {name: make_section(name, n_genes, rng) for name in sections}
    coords, counts = (np.vstack([p[i] for p in parts.values()]) for i in (0, 1))
    n_each = len(coords) // len(sections)
    names = pd.Categorical(np.repeat(sections, n_each))
    obs = pd.DataFrame({"section": names, "total_counts": counts.sum(1) + 1})
    obs.index = [f"{s}_{i}" for i, s in enumerate(obs["section"])]
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    adata = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var, obsm={"spatial": coords})
    target = to_target(counts, None, "log2")
    adata.layers["flagst"] = 0.7 * target + rng.normal(scale=0.5, size=target.shape).astype(np.float32) + 0.3
    factors = {"tissue_hires_scalef": SCALE, "spot_diameter_fullres": DIAMETER}
    adata.uns["spatial"] = {
        name: {"images": {"hires": tissue_image(p[0], rng)}, "scalefactors": dict(factors)} for name, p in parts.items()
    }
    params = {"target": "log2", "section_key": "section"}
    params["layout"] = dict.fromkeys(sections, "square")
    params["um_per_px"] = dict.fromkeys(sections, 200 / PITCH)
    adata.uns["flagst"] = {"params": params}
    return adata


@pytest.fixture
def predicted():
    return make_predicted()
