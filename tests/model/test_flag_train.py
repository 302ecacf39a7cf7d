"""Training: what it writes, what it leaves alone, and that its choices all work."""

import logging
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch import Callback

from flagst import FLAG
from flagst.model.training import EMA_DECAY

GENE_TOKENS = {
    "d_context": 16,
    "denoiser_kwargs": {"width": 16, "n_blocks": 2, "n_heads": 2, "align_block": 1},
}


def _layers(model, query):
    model.predict(query)
    assert np.isfinite(query.layers["flagst"]).all() and query.layers["flagst"].min() >= 0
    return query.layers["flagst"]


def test_history_is_float_frames(trained):
    history = trained.history_
    assert {"train_loss", "validation_loss", "denoising_loss_train", "align_loss_train"} <= set(history)
    assert not any("elbo" in name for name in history)
    for frame in history.values():
        assert isinstance(frame, pd.DataFrame) and (frame.dtypes == np.float64).all()
        assert np.isfinite(frame.to_numpy()).all()
    assert len(history["train_loss"]) == 5


def test_alignment_controls_are_logged_and_the_head_is_dropped(trained):
    assert {"align_loss_shuffled_genes_validation", "align_loss_shuffled_spots_validation"} <= set(trained.history_)
    assert trained.module.alignment is None


def test_training_twice_starts_afresh(make, query):
    model = make.model(make.table())
    layers = []
    for _ in range(2):
        model.train(**make.QUICK)
        layers.append(_layers(model, query.copy()))
        assert len(model.history_["train_loss"]) == 5
    np.testing.assert_array_equal(*layers)


def test_seeds_make_models(make, trained, query):
    same, other = make.model(make.table()), make.model(make.table(), seed=1)
    for model in (same, other):
        model.train(**make.QUICK)
    expected = _layers(trained, query.copy())
    np.testing.assert_array_equal(_layers(same, query.copy()), expected)
    assert not np.allclose(_layers(other, query.copy()), expected)


@pytest.mark.parametrize("cross_fit", [True, False])
def test_the_weights_are_a_moving_average_over_the_steps(make, cross_fit):
    """One step in as many as there are networks counts, the first as a whole."""
    seen = []

    class Record(Callback):
        def on_train_batch_end(self, trainer, plan, *args):
            seen.append([weight.detach().clone() for weight in plan.module.networks.parameters()])

    model = make.model(make.table(), cross_fit=cross_fit)
    model.train(**make.QUICK, callbacks=[Record()])
    every = len(model.module.networks)
    assert len(seen) == 30 and every == (3 if cross_fit else 1)
    average = seen[0]
    for weights in seen[every::every]:
        average = [EMA_DECAY * a + (1 - EMA_DECAY) * w for a, w in zip(average, weights, strict=True)]
    for found, expected, last in zip(model.module.networks.parameters(), average, seen[-1], strict=True):
        torch.testing.assert_close(found, expected)
        assert found.numel() == 1 or not torch.equal(found, last)


def test_a_model_whose_training_was_interrupted_is_not_trained(make, query, monkeypatch):
    """Not even when it was before: its parts may be those of two trainings."""
    from flagst.model import flag

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    model = make.model(make.table())
    model.train(**make.QUICK | {"max_epochs": 1})
    model.predict(query)
    monkeypatch.setattr(flag, "train_denoiser", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.train(**make.QUICK)
    assert model.is_trained_ is False
    with pytest.raises(RuntimeError, match="not trained. Run model.train"):
        model.predict(query)


def test_data_that_are_refused_leave_the_model_as_it_was(make, query):
    model = make.model(make.table())
    model.train(**make.QUICK | {"max_epochs": 1})
    expected = _layers(model, query.copy())
    model.adata.X = model.adata.X * 0.3
    with pytest.raises(ValueError, match="non-integer"):
        model.train(**make.QUICK)
    np.testing.assert_array_equal(_layers(model, query.copy()), expected)


def test_global_random_states_are_untouched(make, query):
    import random

    adata = make.table()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    model = make.model(adata)
    model.train(**make.QUICK)
    model.predict(query)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_the_result_does_not_depend_on_the_global_seed(make, trained, query):
    torch.manual_seed(99)
    model = make.model(make.table())
    torch.manual_seed(100)
    model.train(**make.QUICK)
    np.testing.assert_array_equal(_layers(model, query.copy()), _layers(trained, query.copy()))


def test_the_table_is_left_as_it_was(make, state):
    adata = make.table()
    before = state.of(adata)
    model = make.model(adata)
    model.train(**make.QUICK)
    model.predict()
    state.assert_unchanged(adata, before, keys=("X", "obsm"))
    pd.testing.assert_frame_equal(adata.obs[before["obs"].columns], before["obs"])


def test_no_files_and_no_chatter(make, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    adata = make.table()
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        make.model(adata).train(**make.QUICK)
    out, err = capfd.readouterr()
    assert out == err == ""
    assert not [r for r in caplog.records if not r.name.startswith("flagst")]
    assert list(tmp_path.iterdir()) == []


def test_logging_levels_and_filters_are_restored(make):
    names = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")
    before = [logging.getLogger(name).level for name in names], list(warnings.filters)
    make.model(make.table()).train(**make.QUICK)
    assert ([logging.getLogger(name).level for name in names], list(warnings.filters)) == before


@pytest.mark.parametrize("names", [("A",), ("A", "B")])
def test_one_or_two_sections_work_with_a_warning(make, query, names):
    model = make.model(make.table(names=names, n_spots=64))
    with pytest.warns(UserWarning, match=f"With {len(names)} section.*spatial blocks.*optimistic"):
        model.train(**make.QUICK)
    _layers(model, query)


def test_three_sections_do_not_warn(make):
    model = make.model(make.table(), diffusion=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()


def test_early_stopping_is_that_of_the_trainer(make, query):
    """It looks at the loss on held-out tissue; here no improvement is large enough."""
    model = make.model(make.table())
    model.train(
        **make.QUICK | {"max_epochs": 50},
        early_stopping=True,
        early_stopping_patience=2,
        early_stopping_min_delta=1e9,
    )
    assert len(model.history_["train_loss"]) == 3
    assert len(model.history_["denoising_loss_validation"]) == 3
    _layers(model, query)


@pytest.mark.parametrize(
    "choice",
    [
        {"edges": False},
        {"joint": False},
        {"diffusion": False},
        {"gfm": None},
        {"target": "log2"},
        {"regression": "ridge"},
        {"cross_fit": False},
        {"denoiser": "gene", "network": GENE_TOKENS},
    ],
    ids=lambda choice: ",".join(f"{k}={v}" for k, v in choice.items() if k != "network"),
)
def test_choices_work(make, query, choice):
    model = make.model(make.table(), **choice)
    model.train(**make.QUICK)
    layer = _layers(model, query)
    assert not np.array_equal(layer, query.layers["flagst_mean"])
    assert query.uns["flagst"]["params"]["target"] == choice.get("target", "lognorm")


def test_identity_target_takes_expression_as_it_is(make, query):
    adata = make.table()
    adata.X = np.log1p(adata.X.toarray())
    model = make.model(adata, target="identity")
    model.train(**make.QUICK)
    layer = _layers(model, query)
    assert abs(layer.mean() - adata.X.mean()) < 0.5 * adata.X.mean()


def test_without_edges_positions_do_not_matter(make, query):
    model = make.model(make.table(), edges=False)
    model.train(**make.QUICK)
    moved = query.copy()
    moved.obsm["spatial"] = np.random.default_rng(0).permuted(moved.obsm["spatial"], axis=0)
    np.testing.assert_allclose(_layers(model, moved), _layers(model, query), atol=1e-5)


def test_without_diffusion_samples_have_noise_of_the_residual(make, query):
    model = make.model(make.table(), diffusion=False)
    model.train()
    assert model.history_ == {} and model.is_trained_
    sd = model.sample(query, 60).std(axis=0).mean(axis=0)
    assert (sd > 0.05).all()
    assert model.intervals_ is not None and model.fitted_.latent.shared_sd.max() < 0.4  # states are white already


def test_published_recipe_in_miniature(make, query):
    model = make.model(make.table(), preset="paper", network=GENE_TOKENS, n_steps=5, n_average=2)
    settings = model.settings_
    assert (settings.target, settings.process, settings.solver) == ("log2", "ve", "heun")
    assert settings.regression is None and settings.denoiser == "gene" and settings.edges
    model.train(**make.QUICK)
    layer = _layers(model, query)
    np.testing.assert_array_equal(layer, query.layers["flagst_mean"])  # no mean of its own
    np.testing.assert_allclose(layer, model.sample(query, 2).mean(axis=0), atol=1e-5)


def test_published_recipe_has_201_evaluations_and_its_size():
    from flagst.settings import resolve

    settings = resolve("paper", target=None, gfm="coexpression")
    assert 2 * settings.n_steps - 1 == 201 and settings.n_average == 8
    kwargs = settings.network["denoiser_kwargs"]
    assert (kwargs["width"], kwargs["n_blocks"], kwargs["n_heads"], kwargs["align_block"]) == (384, 12, 6, 8)


def test_default_has_at_most_20_evaluations(trained, query, monkeypatch):
    assert trained.settings_.solver == "dpm++2m" and trained.settings_.n_steps <= 20
    calls = {"denoise": 0}
    networks = trained.module.networks
    kind, encoders = type(networks[0]), []
    encode, denoise = kind.encode_image, kind.forward

    def counted_encode(self, *args):
        encoders.append(self)
        return encode(self, *args)

    def counted_denoise(self, *args):
        calls["denoise"] += 1
        return denoise(self, *args)

    monkeypatch.setattr(kind, "encode_image", counted_encode)
    monkeypatch.setattr(kind, "forward", counted_denoise)
    trained.predict(query)
    assert [encoders.count(network) for network in networks] == [2, 2, 2]  # once per network and section
    assert calls["denoise"] == trained.settings_.n_steps * 2


def test_a_key_of_varm_is_aligned_to(make, query):
    adata = make.table()
    vectors = np.random.default_rng(0).normal(size=(adata.n_vars, 5))
    vectors[2] = np.nan  # the gene model does not know it
    adata.varm["X_gene"] = vectors
    model = make.model(adata, gfm="X_gene")
    model.train(**make.QUICK)
    assert np.isfinite(model.history_["align_loss_train"].to_numpy()).all()
    _layers(model, query)


def test_embeddings_that_are_not_there_are_named_at_once(make):
    adata = make.table()
    found = r"adata.varm and adata.obsm has no 'X_gene'; found \['X_image', 'spatial'\].*gfm='coexpression'"
    with pytest.raises(KeyError, match=found):
        make.model(adata, gfm="X_gene")
    adata.varm["X_gene"] = np.full((adata.n_vars, 5), np.nan)
    with pytest.raises(ValueError, match="no vector for any gene of the panel"):
        make.model(adata, gfm="X_gene").train(**make.QUICK)


def test_large_sections_are_cut_into_windows(make, query, monkeypatch):
    from flagst.model import training_windows

    monkeypatch.setattr(training_windows, "MAX_WINDOW_SPOTS", 12)
    sizes = []
    cut = training_windows.window

    def recorded(tensors, rows, **kwargs):
        part = cut(tensors, rows, **kwargs)
        sizes.append((len(part["image"]), int(part["core"].sum())) if "core" in part else None)
        return part

    monkeypatch.setattr(training_windows, "window", recorded)
    model = make.model(make.table())
    model.train(**make.QUICK)
    assert len(sizes) == 3 * 3 * 4 and all(core <= 12 < whole for whole, core in sizes)
    assert sum(core for _, core in sizes) == 3 * 120  # each network trains on two sections and is tested on one
    _layers(model, query)


@pytest.mark.parametrize("n_genes", [1, 2])
def test_very_few_genes(make, n_genes):
    adata = make.table(n_genes=n_genes)
    model = make.model(adata)
    model.train(**make.QUICK)
    _layers(model, make.table(n_genes=n_genes, seed=4))


@pytest.mark.parametrize("section", ["A", "C"])
def test_a_gene_absent_from_one_section(make, section):
    adata = make.table()
    counts = adata.X.toarray()
    counts[np.ix_(adata.obs["section"] == section, [1, 2])] = 0
    adata.X = sp.csr_matrix(counts)
    model = make.model(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train(**make.QUICK)
    _layers(model, make.table(seed=4))


@pytest.mark.filterwarnings("ignore:Category 2 .* has fewer than 3 cells:UserWarning")
def test_sections_of_very_different_size(make):
    adata = make.table(n_spots=40)
    small = np.flatnonzero(adata.obs["section"] == "C")[2:]
    adata = adata[np.setdiff1d(np.arange(adata.n_obs), small)].copy()
    model = make.model(adata)
    model.train(**make.QUICK)
    _layers(model, adata)


def test_unknown_choices(make):
    adata = make.table()
    for kwargs, error, message in (
        ({"preset": "best"}, ValueError, r"preset must be one of \['default', 'paper'\]; got 'best'"),
        ({"target": "counts"}, ValueError, "target must be one of"),
        ({"denoiser": "unet"}, ValueError, "denoiser must be one of"),
        ({"solver": "ddim"}, ValueError, "solver must be one of"),
        ({"process": "vp"}, ValueError, "process must be one of"),
        ({"regression": "lasso"}, ValueError, "regression must be one of"),
        ({"n_latents": 3}, TypeError, "n_latents"),
        ({"n_latent": 0}, ValueError, "n_latent must be at least 1; got 0"),
        ({"n_steps": 0}, ValueError, "n_steps must be at least 1; got 0"),
        ({"regression": None, "diffusion": False}, ValueError, "nothing but the diffusion; got diffusion=False"),
        ({"n_average": 8}, ValueError, "n_average=8 averages samples where regression=None"),
    ):
        with pytest.raises(error, match=message):
            make.model(adata, **kwargs)


def test_registry_view(trained, capsys):
    trained.view_anndata_setup()
    assert "image_features" in capsys.readouterr().out


def test_models_need_data_and_training(make, query):
    with pytest.raises(ValueError, match="setup_anndata"):
        FLAG(make.table())
    model = make.model(make.table())
    for call in (model.predict, model.sample, model.get_latent_representation):
        with pytest.raises(RuntimeError, match="not trained. Run model.train"):
            call(query)


def test_sections_without_spots_do_not_count(make, tmp_path):
    """A subset of a larger table keeps the categories of sections that are gone."""
    whole, cut = make.table(names=("A", "B")), make.table(names=("A", "B"))
    cut.obs["section"] = cut.obs["section"].cat.set_categories(["B", "gone", "A"])
    models = [make.model(table) for table in (whole, cut)]
    assert [len(model.module.networks) for model in models] == [4, 4]
    models[1].save(str(tmp_path / "model"))
    for loaded in (FLAG.load(str(tmp_path / "model")), FLAG.load(str(tmp_path / "model"), cut)):
        assert len(loaded.module.networks) == 4
    assert list(cut.obs["section"].cat.categories) == ["B", "gone", "A"]
