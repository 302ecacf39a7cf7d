"""Simulated sections: the truth is recorded, the data are realistic, the image shows the domains."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata

import flagst
from flagst.datasets import redraw_counts, simulated_sections
from flagst.io.validate import on_tissue

VISIBLE = 4


@pytest.fixture(scope="module")
def sdata():
    return simulated_sections(n_sections=2, n_spots=400)


@pytest.fixture(scope="module")
def small():
    return simulated_sections(n_sections=1, n_spots=40, n_genes=12, seed=3)


def lognorm(counts) -> np.ndarray:
    counts = counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def log2(counts) -> np.ndarray:
    return np.log2(counts.toarray() + 1)


def gene_structure(first: np.ndarray, second: np.ndarray) -> float:
    """GSC, written out here so that the simulation is not judged by the package's own metric."""
    upper = np.triu_indices(first.shape[1], 1)
    return np.corrcoef(np.corrcoef(first.T)[upper], np.corrcoef(second.T)[upper])[0, 1]


def mean_moran(values: np.ndarray, coords: np.ndarray) -> float:
    distance = np.linalg.norm(coords[:, None] - coords[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :6]
    centred = values - values.mean(axis=0)
    return float(((centred * centred[near].mean(axis=1)).sum(axis=0) / (centred**2).sum(axis=0)).mean())


def sections_of(sdata):
    adata = sdata["table"]
    return [adata[adata.obs["section"] == name] for name in adata.obs["section"].cat.categories]


def test_it_has_the_shape_of_real_data(sdata):
    flagst.io.check(sdata)
    adata = sdata["table"]
    assert adata.shape == (800, 60)
    assert list(adata.obs["section"].unique()) == ["S1", "S2"]
    assert adata.uns["flagst"]["params"]["layout"] == {"S1": "hex", "S2": "hex"}
    for section in sections_of(sdata):
        coords = section.obsm["spatial"]
        distance = np.linalg.norm(coords[:, None] - coords[None], axis=2)
        assert np.sort(distance, axis=1)[:, 1] == pytest.approx(100, abs=1e-6)  # pitch, at 1 um per pixel


@pytest.mark.parametrize("scale", [lognorm, log2])
def test_two_draws_of_one_truth_agree_but_not_perfectly(sdata, scale):
    for hidden in (False, True):
        scores = []
        for section in sections_of(sdata):
            again = redraw_counts(section, 1, hidden=hidden)
            scores.append(gene_structure(scale(section.X), scale(again)))
        assert 0.80 <= np.mean(scores) <= 0.95


def test_redraws_have_the_measured_spatial_autocorrelation(sdata):
    for section in sections_of(sdata):
        measured = mean_moran(lognorm(section.X), section.obsm["spatial"])
        assert 0.15 <= measured <= 0.45
        for hidden in (False, True):
            again = mean_moran(lognorm(redraw_counts(section, 2, hidden=hidden)), section.obsm["spatial"])
            assert again == pytest.approx(measured, abs=0.03)


def test_what_the_image_shows_does_not_explain_everything(sdata):
    for section in sections_of(sdata):
        measured = lognorm(section.X)
        design = np.column_stack([np.ones(section.n_obs), section.obsm["true_programs"][:, :VISIBLE]])
        residual = measured - design @ np.linalg.lstsq(design, measured, rcond=None)[0]
        explained = 1 - residual.var(axis=0) / measured.var(axis=0)
        assert 0.1 < explained.mean() < 0.5
        assert mean_moran(residual, section.obsm["spatial"]) > 0.05
        again = lognorm(redraw_counts(section, 1))
        again = again - design @ np.linalg.lstsq(design, again, rcond=None)[0]
        assert gene_structure(residual, again) > 0.6  # what is left has gene-gene structure to learn


def test_hidden_programs_are_uncorrelated_with_visible_ones_and_depth(sdata):
    for section in sections_of(sdata):
        log_depth = np.log(section.obs["true_depth"].to_numpy())
        correlation = np.corrcoef(np.column_stack([section.obsm["true_programs"], log_depth]).T)
        hidden = correlation[VISIBLE:-1]
        assert np.abs(hidden[:, :VISIBLE]).max() < 1e-3
        assert np.abs(hidden[:, -1]).max() < 1e-3


def test_truth_describes_the_counts(sdata):
    adata = sdata["table"]
    truth = adata.uns["flagst_truth"]
    log_rate = truth["baseline"] + adata.obsm["true_programs"] @ adata.varm["program_loadings"].T
    share = np.exp(log_rate) / np.exp(log_rate).sum(axis=1, keepdims=True)
    rate = share * adata.obs["true_depth"].to_numpy()[:, None]
    np.testing.assert_allclose(adata.layers["true_rate"], rate, rtol=1e-3)
    deviation = np.sqrt(rate + rate**2 / truth["dispersion"])
    z = (adata.X.toarray() - rate) / deviation
    assert abs(z.mean()) < 0.03
    assert z.std() == pytest.approx(1, abs=0.05)
    assert truth["log_rate_correlation"].shape == (60, 60)
    assert list(truth["program_visible"]) == [True] * 4 + [False] * 3


def test_library_size_varies_and_is_smooth_in_part(sdata):
    for section in sections_of(sdata):
        depth = np.log(section.obs["total_counts"].to_numpy())
        assert 0.2 < depth.std() < 0.6
        assert 0.1 < mean_moran(depth[:, None], section.obsm["spatial"]) < 0.9


def test_image_looks_like_tissue_and_differs_by_domain(sdata):
    for section in sections_of(sdata):
        name = section.obs["section"].iloc[0]
        hires = section.uns["spatial"][name]["images"]["hires"]
        factor = section.uns["spatial"][name]["scalefactors"]["tissue_hires_scalef"]
        assert on_tissue(hires, section.obsm["spatial"] * factor).mean() > 0.9
        image = sdata[f"{name}_image"]["scale0"]["image"].transpose("y", "x", "c").to_numpy()
        corners = np.concatenate([image[:30, :30], image[-30:, -30:]]).reshape(-1, 3)
        assert corners.mean() > 240  # empty slide
        colour = {}
        for domain in ("tumour", "stroma", "immune"):
            spots = section.obsm["spatial"][section.obs["domain"] == domain].astype(int)
            patches = [image[y - 30 : y + 30, x - 30 : x + 30].mean(axis=(0, 1)) for x, y in spots]
            colour[domain] = np.mean(patches, axis=0)
        redness = {d: c[0] - c[2] for d, c in colour.items()}
        assert redness["stroma"] > redness["tumour"] > redness["immune"]  # pink, mixed, blue
        assert colour["tumour"].mean() < colour["stroma"].mean()


def test_same_seed_same_data_and_sections_do_not_depend_on_genes_or_number(small):
    again = simulated_sections(n_sections=1, n_spots=40, n_genes=12, seed=3)["table"]
    assert (again.X != small["table"].X).nnz == 0
    more = simulated_sections(n_sections=2, n_spots=40, n_genes=20, seed=3)["table"]
    np.testing.assert_array_equal(more.obsm["spatial"][:40], small["table"].obsm["spatial"])
    np.testing.assert_array_equal(more.obsm["true_programs"][:40], small["table"].obsm["true_programs"])
    np.testing.assert_array_equal(
        more.uns["spatial"]["S1"]["images"]["hires"], small["table"].uns["spatial"]["S1"]["images"]["hires"]
    )
    other = simulated_sections(n_sections=1, n_spots=40, n_genes=12, seed=4)["table"]
    assert (other.X != small["table"].X).nnz > 0


def test_redraws_follow_their_seed_and_subsets(small):
    adata = small["table"]
    one, same, other = (redraw_counts(small, seed) for seed in (1, 1, 2))
    assert (one != same).nnz == 0
    assert (one != other).nnz > 0 and (one != adata.X).nnz > 0
    part = redraw_counts(adata[5:30, ["SIM003", "SIM001"]], 1, hidden=True)
    assert part.shape == (25, 2)
    del (bare := adata.copy()).uns["flagst_truth"]
    with pytest.raises(KeyError, match="no 'flagst_truth'; found"):
        redraw_counts(bare, 0)


def test_round_trips(small, tmp_path):
    small["table"].write_h5ad(tmp_path / "table.h5ad")
    small.write(tmp_path / "data.zarr")
    back = spatialdata.read_zarr(tmp_path / "data.zarr")
    flagst.io.check(back)
    for table in (ad.read_h5ad(tmp_path / "table.h5ad"), back["table"]):
        pd.testing.assert_frame_equal(table.to_df(), small["table"].to_df())
        assert (redraw_counts(table, 1) != redraw_counts(small, 1)).nnz == 0
        assert list(table.uns["flagst_truth"]["program_names"])[:2] == ["tumour", "gland"]


def test_sizes_that_are_too_small_are_named():
    with pytest.raises(ValueError, match="n_spots=5, n_genes=60 is too small"):
        simulated_sections(n_spots=5)
