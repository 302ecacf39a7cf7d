"""Alignment in training: every kind of vector, its controls, and what it may not change."""

from types import SimpleNamespace

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from flagst._keys import TENSOR
from flagst.model.alignment_targets import build_alignment
from flagst.settings import resolve

GENE_TOKENS = {"d_context": 16, "denoiser_kwargs": {"width": 16, "n_blocks": 2, "n_heads": 2, "align_block": 1}}
D = 5


@pytest.fixture
def table(make):
    """A table with vectors per gene, per spot and gene, and per spot."""
    adata, rng = make.table(), np.random.default_rng(0)
    adata.varm["X_gene"] = rng.normal(size=(adata.n_vars, D))
    vectors = rng.normal(size=(*adata.shape, D)).astype(np.float16)
    vectors[:, 3] = 0
    adata.obsm["X_gene_context"] = da.from_array(vectors, chunks=(16, -1, -1))
    adata.obsm["X_cell"] = rng.normal(size=(adata.n_obs, D)).astype(np.float32)
    return adata


KINDS = [
    ({"gfm": "X_gene"}, {"genes", "spots"}),
    ({"gfm": "coexpression"}, {"genes", "spots"}),
    ({"gfm": "X_gene_context"}, {"genes", "spots"}),
    ({"gfm": "X_cell"}, {"spots"}),
]


@pytest.mark.parametrize("denoiser", ["latent", "gene"])
@pytest.mark.parametrize(("choices", "controls"), KINDS, ids=lambda value: "-".join(sorted(map(str, value))))
def test_every_kind_trains_logs_its_controls_and_saves(make, table, query, tmp_path, choices, controls, denoiser):
    network = GENE_TOKENS if denoiser == "gene" else make.SMALL
    model = make.model(table, denoiser=denoiser, network=network, **choices)
    model.train(**{**make.QUICK, "max_epochs": 2})
    logged = {name for name in model.history_ if name.startswith("align_loss")}
    expected = {f"align_loss_shuffled_{control}_validation" for control in controls}
    assert logged == expected | {"align_loss_train", "align_loss_validation"}
    assert all(np.isfinite(model.history_[name].dropna().to_numpy()).all() for name in logged)
    model.save(str(tmp_path / "model"), save_anndata=False)
    expected = model.predict(query.copy()).layers["flagst"]
    back = type(model).load(str(tmp_path / "model"))
    np.testing.assert_array_equal(back.predict(query.copy()).layers["flagst"], expected)


def test_without_held_out_windows_controls_are_of_the_training(make, table):
    model = make.model(table, gfm="X_gene", cross_fit=False)
    model.train(**make.QUICK)
    logged = {name for name in model.history_ if name.startswith("align_loss")}
    assert logged == {"align_loss_train", "align_loss_shuffled_genes_train", "align_loss_shuffled_spots_train"}


def test_controls_in_training_change_no_weight(make, table, query, monkeypatch):
    from flagst.module import FlagModule

    def trained():
        model = make.model(table, gfm="X_gene", cross_fit=False)
        model.train(**make.QUICK)
        return model.predict(query.copy(), structure=1).layers["flagst"]

    expected, attach = trained(), FlagModule.attach_alignment
    monkeypatch.setattr(
        FlagModule,
        "attach_alignment",
        lambda self, *args, **kwargs: attach(self, *args, **kwargs | {"controls": False}),
    )
    np.testing.assert_array_equal(trained(), expected)


def test_many_vectors_of_a_window_are_read_in_parts(monkeypatch):
    from flagst.model import alignment_targets

    held = np.random.default_rng(0).normal(size=(9, 5, 2))
    sizes = []

    class Lazy:
        shape, ndim = held.shape, 3

        def __getitem__(self, rows):
            sizes.append(len(rows))
            return held[rows]

    monkeypatch.setattr(alignment_targets, "VALUES_AT_A_TIME", 40)  # four spots
    rows, columns = np.array([7, 1, 1, 3, 8, 0]), np.array([4, 0])
    found = alignment_targets._read(Lazy(), rows, columns)
    assert sizes == [4, 2]
    np.testing.assert_array_equal(found, held[rows][:, columns])


def _windows(make, table, monkeypatch, **choices):
    """Rows and vectors of the windows that a training asks for."""
    from flagst.model.alignment_targets import Alignment

    seen, add = [], Alignment.add

    def recorded(self, window, *, training):
        out = add(self, window, training=training)
        genes = out.get(TENSOR.read_genes, slice(None))
        seen.append(
            (out[TENSOR.table_row].numpy(), out[TENSOR.embedding].numpy(), out[TENSOR.expression].numpy(), genes)
        )
        return out

    monkeypatch.setattr(Alignment, "add", recorded)
    model = make.model(table, **choices)
    model.train(**{**make.QUICK, "max_epochs": 1})
    return model, seen


@pytest.mark.parametrize("key", ["X_gene_context", "X_cell"])
def test_windows_get_the_vectors_of_their_own_spots(make, table, monkeypatch, key):
    _, seen = _windows(make, table, monkeypatch, gfm=key)
    held, counts = (
        np.asarray(table.obsm[key]),
        np.log1p(1e4 * table.X.toarray() / table.obs["total_counts"].values[:, None]),
    )
    expected = (counts - counts.mean(0)) / counts.std(0)
    assert len(seen) > 3
    for rows, vectors, expression, genes in seen:
        assert len(set(table.obs["section"].iloc[rows])) == 1
        np.testing.assert_array_equal(vectors, held[rows][:, genes])
        assert np.corrcoef(expression.ravel(), expected[rows].ravel())[0, 1] > 0.999


def test_only_a_few_spots_are_read_at_a_time(make, table, monkeypatch):
    from flagst.model import alignment_targets

    monkeypatch.setattr(alignment_targets, "VALUES_AT_A_TIME", 10 * table.n_vars * D)
    sizes, held = [], np.asarray(table.obsm["X_gene_context"])

    class Lazy:
        ndim, shape = 3, held.shape

        def __getitem__(self, rows):
            sizes.append(len(rows))
            return held[rows]

    settings = resolve("default", target=None, gfm="X_gene_context")
    genes = [str(gene) for gene in table.var_names]
    rows = np.arange(table.n_obs)[::2]
    lazy = SimpleNamespace(
        varm={}, obsm={"X_gene_context": Lazy()}, uns={}, var_names=table.var_names, n_vars=table.n_vars
    )
    alignment = build_alignment(lazy, settings, sections=[], genes=genes, rows=rows)
    assert max(sizes) == 10 and sum(sizes) == len(rows)
    head = alignment.make_head(16)
    assert head.mask.tolist() == [i != 3 for i in range(table.n_vars)]
    torch.testing.assert_close(head.centre, torch.as_tensor(held[rows].astype(np.float64).mean(0)).float())


def test_vectors_of_other_genes_than_the_panel_are_refused(make, table):
    table.obsm["X_gene_context"] = np.ones((table.n_obs, 3, D), np.float16)
    with pytest.raises(
        ValueError, match="vectors of 3 genes, and adata.uns does not say which; the table has 8.*mode='contextual'"
    ):
        make.model(table, gfm="X_gene_context").train(**make.QUICK)


def test_vectors_are_found_by_the_names_of_their_genes(make, table, monkeypatch):
    genes = [*table.var_names[::-1], "other"]
    held = np.random.default_rng(1).normal(size=(table.n_obs, len(genes), D)).astype(np.float16)
    table.obsm["X_gene_context"] = da.from_array(held)
    table.uns["flagst"]["gene_embeddings"] = {"X_gene_context": {"genes": genes}}
    _, seen = _windows(make, table, monkeypatch, gfm="X_gene_context")
    for rows, vectors, _, chosen in seen:
        np.testing.assert_array_equal(vectors, held[rows][:, -2::-1][:, chosen])


def test_vectors_whose_genes_are_not_named_are_those_of_the_table(make, table, monkeypatch):
    from flagst import FLAG

    panel = [str(gene) for gene in table.var_names[::-1]]
    FLAG.setup_anndata(table, genes=panel)
    settings = resolve("default", target=None, gfm="X_gene_context")
    alignment = build_alignment(table, settings, sections=[], genes=panel, rows=np.arange(table.n_obs))
    assert alignment.columns.tolist() == list(range(table.n_vars))[::-1]


def test_vectors_of_other_genes_are_refused(make, table):
    genes = ["other", *table.var_names[1:]]
    table.uns["flagst"]["gene_embeddings"] = {"X_gene_context": {"genes": genes}}
    with pytest.raises(ValueError, match=r"not those of the panel \(1 are missing, as \['g0'\]\)"):
        make.model(table, gfm="X_gene_context").train(**make.QUICK)


def test_vectors_that_are_not_finite_or_no_array_are_refused(make, table):
    table.obsm["X_cell"][5, 2] = np.nan
    with pytest.raises(ValueError, match=r"adata.obsm\['X_cell'\] has NaN or infinite values"):
        make.model(table, gfm="X_cell").train(**make.QUICK)
    table.obsm["X_cell"] = sp.csr_matrix(np.ones((table.n_obs, D)))
    with pytest.raises(TypeError, match="must be an array with two or three axes.*got csr_matrix"):
        make.model(table, gfm="X_cell").train(**make.QUICK)


def test_vectors_per_spot_may_be_a_frame(make, table):
    frame = pd.DataFrame(np.asarray(table.obsm["X_cell"]), index=table.obs_names).add_prefix("d")
    rows, settings = np.arange(table.n_obs), resolve("default", target=None, gfm="X_cell")
    centres = []
    for held in (table.obsm["X_cell"], frame):
        table.obsm["X_cell"] = held
        alignment = build_alignment(table, settings, sections=[], genes=list(table.var_names), rows=rows)
        centres.append(alignment.make_head(16).centre)
    torch.testing.assert_close(*centres)


def test_vectors_that_are_all_missing_are_refused(make, table):
    table.obsm["X_cell"] = np.zeros((table.n_obs, D), np.float32)
    with pytest.raises(ValueError, match="no vector for any training spot"):
        make.model(table, gfm="X_cell").train(**make.QUICK)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"align_weight": -1}, "align_weight must not be negative"),
        ({"gfm": "X_other"}, "X_other"),
        ({"network": {"denoiser_kwargs": {"n_blocks": 2, "align_block": 3}}}, "align_block must be a block"),
    ],
)
def test_impossible_choices_are_refused_before_training(make, table, choice, message):
    with pytest.raises((KeyError, ValueError), match=message):
        make.model(table, **choice)


def test_vectors_change_samples_and_not_the_mean(make, table, query):
    for gfm in ("X_gene", "X_gene_context", "X_cell"):
        mean, samples = [], []
        for weight in (0.0, 0.5):  # the random numbers are the same, only the gradient is not
            model = make.model(table, gfm=gfm, align_weight=weight)
            model.train(**make.QUICK)
            out = model.predict(query.copy(), structure=1.0)
            mean.append(out.layers["flagst_mean"])
            samples.append(out.layers["flagst"])
        np.testing.assert_array_equal(*mean)
        assert not np.array_equal(*samples)
