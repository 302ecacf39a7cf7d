"""The sampler: a section in windows gives the numbers of one window."""

import numpy as np
import pytest
import torch
from slides import assert_close, layers_of, shaken
from tiny_models import N_SPOTS

from flagst import FLAG
from flagst.data.windows import partition
from flagst.diffusion import EDM
from flagst.model.training_windows import training_inputs
from flagst.regression import neighbour_moran
from flagst.sampling import moran_matching, sampler


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


def test_out_of_distribution_abundance_is_used_in_windows_too(model, slides, small_parts, monkeypatch):
    slides = slides.copy()
    slides.obsm["X_image"] = slides.obsm["X_image"] + 100
    plain = model.predict(slides.copy(), structure=1, window_spots=100)
    seen = []

    def expected(moran, abundance):
        seen.append(abundance)
        return abundance / np.ptp(abundance)

    monkeypatch.setattr(moran_matching, "moran_by_abundance", expected)
    whole, cut = (model.predict(slides.copy(), structure=1, window_spots=size) for size in (10**6, 100))
    assert_close(layers_of(cut), layers_of(whole))
    assert not np.allclose(cut.layers["flagst"], plain.layers["flagst"], atol=1e-2)
    assert seen
    for abundance in seen:
        np.testing.assert_array_equal(abundance, model.fitted_.stage.scaler.mean)


def test_which_spots_are_counted_does_not_depend_on_their_order(model, slides, small_parts, monkeypatch):
    """Moran's I and the standard deviation over samples are taken from a part of a large section."""
    for name in ("MORAN_SPOTS", "UNIT_SPOTS"):
        monkeypatch.setattr(sampler, name, 100)
    order = np.random.default_rng(0).permutation(slides.n_obs)
    asked = {"structure": 0.5, "n_samples": 20, "quantiles": (0.05, 0.95)}
    for window_spots in (10**6, 100):
        straight = model.predict(slides.copy(), window_spots=window_spots, **asked)
        shuffled = model.predict(slides[order].copy(), window_spots=window_spots, **asked)
        assert shuffled.uns["flagst"]["params"] == straight.uns["flagst"]["params"]
        assert_close(layers_of(shuffled), {name: values[order] for name, values in layers_of(straight).items()})


def test_standard_deviation_and_quantiles_in_windows(model, slides, small_parts):
    """Quantiles are moved by the standard deviation over a whole section, which no window knows."""
    asked = {"n_samples": 20, "return_std": True, "quantiles": (0.05, 0.95)}
    whole = model.predict(slides[::2].copy(), window_spots=10**6, **asked)
    cut = model.predict(slides[::2].copy(), window_spots=100, **asked)
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
    monkeypatch.setattr(sampler, "WINDOW_SPOTS", 100)
    for found, expected in zip((model.sample(slides, 2), model.get_latent_representation(slides)), whole, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_windows_have_no_seam(model, slides):
    """Across the border between two windows, residuals of neighbours are as alike as anywhere."""
    section = slides[slides.obs["section"] == "X"].copy()
    [(_, cut)] = model._samplers(section, window_spots=60)
    cores = partition(cut.section.coords, 60)
    window = np.empty(len(section), int)
    for number, core in enumerate(cores):
        window[core] = number
    near = cut.section.nearest(4)
    crossing = (window[near] != window[:, None]).any(axis=1)
    assert len(cores) > 4 and 0.2 < crossing.mean() < 0.8
    [(_, whole)] = model._samplers(section, window_spots=10**6)
    assert whole.at_once and not cut.at_once
    for rows in (crossing, ~crossing):
        moran = [neighbour_moran(one.state("0/0"), near[rows], np.flatnonzero(rows)) for one in (cut, whole)]
        np.testing.assert_allclose(*moran, atol=1e-4)


def test_a_spot_outside_the_halo_changes_nothing_in_a_window(model, slides):
    """One evaluation of a core uses its halo only, and all of it."""
    section = slides[slides.obs["section"] == "X"].copy()
    [(_, cut)] = model._samplers(section, window_spots=60)
    contexts, windows = cut._inputs()
    rows, core = windows[0]["rows"], windows[0]["core"]
    outside = np.setdiff1d(np.arange(len(section)), rows)
    assert 60 >= int(core.sum()) and len(rows) > int(core.sum()) and len(outside) > 50
    mean = cut.mean_of(cut.everything)
    tensors = training_inputs(cut.section, model.fitted_, mean, model.settings_, model.module.d_image)

    def evaluated(x):
        level = torch.full((len(x), 1), 2.0)
        return model.module.networks[0](x, level, contexts[0], tensors["mix_index"], tensors["mix_weight"])[0]

    x = torch.as_tensor(cut.state("0/0"))
    for changed, same in ((outside, True), (rows[~core].numpy(), False)):
        other = x.clone()
        other[changed] += 3.0
        with torch.no_grad():
            apart = (evaluated(other) - evaluated(x))[rows[core]].abs().max()
        assert (float(apart) == 0) == same


def test_many_genes_beside_the_panel_make_parts_smaller(model, slides, monkeypatch):
    monkeypatch.setattr(sampler, "DECODED_VALUES", 40 * 100)
    [(_, one), _] = model._samplers(slides.copy(), n_genes=100, streamed=True)
    assert max(len(rows) for rows, _ in one.parts(1)) == 40
    assert max(len(rows) for rows, _ in one.parts(16)) == 10
    [(_, one), _] = model._samplers(slides.copy(), streamed=True)
    assert max(len(rows) for rows, _ in one.parts(1)) == min(len(one.section), 4000 // one.n_genes)


def test_a_section_of_very_many_numbers_is_not_one_window(model, slides, monkeypatch):
    monkeypatch.setattr(sampler, "MAX_SECTION_VALUES", 100 * N_SPOTS)
    for n_genes, at_once in ((8, True), (100, True), (101, False)):
        [(_, one), _] = model._samplers(slides, n_genes=n_genes)
        assert one.at_once == at_once


@pytest.mark.parametrize("edges", [True, False])
def test_a_small_section_in_one_window_in_several_and_streamed(make, edges, monkeypatch):
    monkeypatch.setattr(sampler, "DECODED_VALUES", 8 * 20)
    model = shaken(make.model(make.table(), edges=edges), make)
    query = make.table(names=("X",), n_spots=64, seed=7)
    found = {}
    for name, windows in (
        ("one", {"window_spots": 10**6}),
        ("several", {"window_spots": 10}),
        ("streamed", {"streamed": True}),
        ("streamed in several", {"streamed": True, "window_spots": 10}),
    ):
        [(rows, one)] = model._samplers(query, **windows)
        assert one.at_once == (name == "one") and len(one._inputs()[1]) == (8 if "several" in name else 1)
        assert len(list(one.parts(3))) == (1 if name == "one" else 4)
        found[name] = one.samples(3, 0)
        assert found[name].shape == (3, 64, 8) and found[name].dtype == np.float32
    for samples in found.values():
        np.testing.assert_allclose(samples, found["one"], atol=1e-4)
    assert np.abs(found["one"][0] - found["one"][1]).mean() > 0.05


def test_samples_of_some_rows_are_those_of_the_section(model, slides):
    section = slides[slides.obs["section"] == "X"].copy()
    [(_, one)] = model._samplers(section)
    [(_, cut)] = model._samplers(section, window_spots=100)
    whole = one.samples(2, 5)
    for rows in (np.array([400, 3, 77, 78, 12]), np.random.default_rng(0).permutation(N_SPOTS)):
        for made in (one, cut):
            found = np.concatenate([part.samples(2, 5) for _, part in made.parts(2, rows)], axis=1)
            np.testing.assert_allclose(found, whole[:, rows], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("balanced", [True, False])
def test_several_noises_beside_a_state_are_the_same_in_parts(model, slides, small_parts, balanced):
    section = slides[slides.obs["section"] == "X"].copy()
    [(_, one)], [(_, cut)] = (model._samplers(section, window_spots=size) for size in (10**6, 100))
    one.balanced = cut.balanced = balanced
    whole = np.stack(list(one.whole().resampled(2, 2, "x")))
    found = [np.stack(list(part.resampled(2, 2, "x"))) for _, part in cut.parts(4)]
    assert len(found) > 1 and list(cut.states) == ["x/0/0", "x/1/0"]
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, rtol=1e-5, atol=1e-3 if balanced else 1e-4)
    assert np.abs(whole[0] - whole[1]).mean() > 0.05


def test_known_states_are_not_solved_again(model, slides):
    section = slides[slides.obs["section"] == "X"].copy()
    [(_, first)] = model._samplers(section)
    expected = first.samples(2, 0)
    [(_, second)] = model._samplers(section, states=lambda number: first.states)
    second._solve = None  # would raise
    np.testing.assert_allclose(second.samples(2, 0), expected, rtol=1e-6, atol=1e-6)
    assert list(first.states) == ["0/0", "0/1"] and second.states is first.states


def test_constants_of_the_noise_process_reach_samples_and_saved_models(make, query, tmp_path):
    model = make.model(make.table(), process_kwargs={"sigma_max": 5.0})
    model.train(**make.QUICK | {"max_epochs": 1})
    assert model.module.process == EDM(sigma_max=5.0)
    expected = model.sample(query, 1)
    model.save(str(tmp_path / "model"))
    again = FLAG.load(str(tmp_path / "model"))
    assert again.module.process == EDM(sigma_max=5.0)
    np.testing.assert_array_equal(again.sample(query, 1), expected)
    again.module.process = EDM()
    assert np.abs(again.sample(query, 1) - expected).max() > 1e-3
