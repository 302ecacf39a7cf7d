"""Sections in windows: the numbers of the whole."""

import numpy as np
import pytest
import torch
from slides import assert_close, layers_of, shaken

from flagst.model import predicting, slide
from flagst.regression import draw_order, neighbour_moran


@pytest.fixture(scope="module")
def model(make):
    return shaken(make.model(make.table()), make)


@pytest.mark.parametrize("structure", [0, 0.5, 1])
def test_windows_give_what_the_whole_gives(model, slides, small_parts, structure):
    whole = model.predict(slides.copy(), structure=structure, window_spots=10**6)
    cut = model.predict(slides.copy(), structure=structure, window_spots=100)
    assert_close(layers_of(cut), layers_of(whole))
    assert cut.uns["flagst"]["params"] == whole.uns["flagst"]["params"]
    np.testing.assert_array_equal(cut.obs["flagst_ood"], whole.obs["flagst_ood"])


def test_on_unlike_tissue_abundance_has_a_part_in_windows_too(model, slides, small_parts, monkeypatch):
    slides = slides.copy()
    slides.obsm["X_image"] = slides.obsm["X_image"] + 100
    plain = model.predict(slides.copy(), structure=1, window_spots=100)
    seen = []

    def expected(order, abundance):
        seen.append(abundance)
        return abundance / np.ptp(abundance)

    monkeypatch.setattr(draw_order, "order_by_abundance", expected)
    whole, cut = (model.predict(slides.copy(), structure=1, window_spots=size) for size in (10**6, 100))
    assert_close(layers_of(cut), layers_of(whole))
    assert not np.allclose(cut.layers["flagst"], plain.layers["flagst"], atol=1e-2)
    for abundance in seen:
        np.testing.assert_array_equal(abundance, model.fitted_.stage.scaler.mean)


def test_which_spots_are_looked_at_does_not_depend_on_their_order(model, slides, small_parts, monkeypatch):
    """Spatial order, spread and structure are taken from a part of a large section."""
    for room, name in ((predicting, "ORDER_SPOTS"), (slide, "ORDER_SPOTS"), (slide, "SAMPLED_SPOTS")):
        monkeypatch.setattr(room, name, 100)
    order = np.random.default_rng(0).permutation(slides.n_obs)
    asked = {"structure": 0.5, "n_samples": 20, "quantiles": (0.05, 0.95)}
    for window_spots in (10**6, 100):
        straight = model.predict(slides.copy(), window_spots=window_spots, **asked)
        shuffled = model.predict(slides[order].copy(), window_spots=window_spots, **asked)
        assert shuffled.uns["flagst"]["params"] == straight.uns["flagst"]["params"]
        assert_close(layers_of(shuffled), {name: values[order] for name, values in layers_of(straight).items()})


def test_spread_and_quantiles_in_windows(model, slides, small_parts):
    """Quantiles are moved by the spread over a whole section, which no window knows."""
    drawn = {"n_samples": 20, "return_std": True, "quantiles": (0.05, 0.95)}
    whole = model.predict(slides[::2].copy(), window_spots=10**6, **drawn)
    cut = model.predict(slides[::2].copy(), window_spots=100, **drawn)
    assert_close(layers_of(cut), layers_of(whole))
    assert {"flagst_std", "flagst_q05", "flagst_q95"} <= set(layers_of(cut))


@pytest.mark.parametrize(
    "changes",
    [
        {"edges": False},
        {"joint": False},
        {"diffusion": False},
        {"match_moran": False},
        {"regression": "ridge"},
        {"denoiser": "gene", "network": {"denoiser_kwargs": {"width": 16, "n_blocks": 2, "align_block": 1}}},
        {"regression": None, "process": "ve", "solver": "heun", "n_steps": 4, "n_average": 2},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_kind_of_model_in_windows(make, slides, small_parts, changes):
    model = shaken(make.model(make.table(), **changes), make)
    whole, cut = (model.predict(slides.copy(), window_spots=size) for size in (10**6, 100))
    assert_close(layers_of(cut), layers_of(whole))


def test_samples_and_context_in_windows(model, slides, small_parts, monkeypatch):
    whole = model.sample(slides, 2), model.get_latent_representation(slides)
    monkeypatch.setattr(slide, "WINDOW_SPOTS", 100)
    for found, expected in zip((model.sample(slides, 2), model.get_latent_representation(slides)), whole, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_windows_have_no_seam(model, slides):
    """Across the border between two windows, residuals of neighbours are as alike as anywhere."""
    section = slides[slides.obs["section"] == "X"].copy()
    [(_, predictor)] = model._predictors(section, windows=True, window_spots=60)
    cores = slide.partition(predictor.section.coords, 60)
    window = np.empty(len(section), int)
    for number, core in enumerate(cores):
        window[core] = number
    near = predictor.section.nearest(4)
    crossing = (window[near] != window[:, None]).any(axis=1)
    assert len(cores) > 4 and 0.2 < crossing.mean() < 0.8
    state, [(_, whole)] = predictor.state("0/0"), model._predictors(section, windows=False)
    expected = whole.diffused(1, 0)[0]
    for rows in (crossing, ~crossing):
        order = [neighbour_moran(z, near[rows], np.flatnonzero(rows)) for z in (state, expected)]
        np.testing.assert_allclose(*order, atol=1e-4)


def test_a_spot_outside_the_halo_changes_nothing_in_a_window(model, slides):
    """One evaluation of a core looks at its halo only, and at all of it."""
    section = slides[slides.obs["section"] == "X"].copy()
    [(_, predictor)] = model._predictors(section, windows=True, window_spots=60)
    contexts, windows = predictor._inputs()
    rows, core = windows[0]["rows"], windows[0]["core"]
    outside = np.setdiff1d(np.arange(len(section)), rows)
    assert 60 >= int(core.sum()) and len(rows) > int(core.sum()) and len(outside) > 50
    tensors = model._predictor(predictor.section).inputs

    def evaluated(x):
        level = torch.full((len(x), 1), 2.0)
        return model.module.networks[0](x, level, contexts[0], tensors["mix_index"], tensors["mix_weight"])[0]

    x = torch.as_tensor(predictor.state("0/0"))
    for changed, same in ((outside, True), (rows[~core].numpy(), False)):
        other = x.clone()
        other[changed] += 3.0
        with torch.no_grad():
            apart = (evaluated(other) - evaluated(x))[rows[core]].abs().max()
        assert (float(apart) == 0) == same


def test_many_genes_beside_the_panel_make_parts_smaller(model, slides, monkeypatch):
    monkeypatch.setattr(slide, "DECODED_VALUES", 40 * 100)
    [(_, one), _] = model._predictors(slides.copy(), windows=True)
    assert max(len(rows) for rows, _ in one.parts(1, n_genes=100)) == 40
    assert max(len(rows) for rows, _ in one.parts(16, n_genes=100)) == 10
    assert max(len(rows) for rows, _ in one.parts(1)) == min(len(one.section), 4000 // one.n_genes)
