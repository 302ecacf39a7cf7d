"""Training data that cannot be right: the error says what was found, and nothing is changed."""

import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from damage import set_counts

from flagst import FLAG


def _empty_spot(adata):
    set_counts(2, slice(None), 0)(adata)
    adata.obs.loc[adata.obs_names[2], "total_counts"] = 0.0


def _nan_features(adata):
    adata.obsm["X_image"][7] = np.nan


def _lonely(adata):
    section = adata.obs["section"].astype(str)
    section.iloc[0] = "D"
    adata.obs["section"] = pd.Categorical(section)


def _repeat(axis):
    def change(adata):
        names = list(getattr(adata, axis))
        setattr(adata, axis, [names[0], *names[:-1]])

    return change


def _nan_section(adata):
    adata.obs["section"] = adata.obs["section"].cat.remove_categories("B")


def _low_totals(adata):
    adata.obs["total_counts"] = 1.0


def _record(key, value):
    def change(adata):
        adata.uns["flagst"]["params"][key]["B"] = value

    return change


AT_SETUP = {
    "unknown layout": (_record("layout", "visium"), ValueError, "layout of 'B' must be one of .*got 'visium'"),
    "no scale": (_record("um_per_px", np.nan), ValueError, r"um_per_px.*\['B'\] is nan; it must be a positive number"),
    "zero scale": (_record("um_per_px", 0), ValueError, r"um_per_px.*\['B'\] is 0.0; it must"),
    "negative scale": (_record("um_per_px", -1.0), ValueError, r"um_per_px.*\['B'\] is -1.0; it must"),
    "no coordinates": (
        lambda a: a.obsm.pop("spatial"),
        KeyError,
        "adata.obsm has no 'spatial'; found.*x then y",
    ),
    "no features": (
        lambda a: a.obsm.pop("X_image"),
        KeyError,
        "no 'X_image'; found.*Run flagst.pp.image_features",
    ),
    "NaN features": (
        _nan_features,
        ValueError,
        "X_image.*NaN or infinite values in 1 of 120 rows, first at row 7",
    ),
    "negative": (set_counts(0, 0, -1), ValueError, r"adata.X has negative values \(minimum -1\).*raw counts"),
    "empty spot": (_empty_spot, ValueError, "1 spots have no count at all.*filter_cells"),
    "empty gene": (
        set_counts(slice(None), 1, 0),
        ValueError,
        "1 genes have no count in any spot.*'g1'.*filter_genes",
    ),
    "repeated spots": (_repeat("obs_names"), ValueError, "Spot names.*not unique.*obs_names_make_unique"),
    "repeated genes": (_repeat("var_names"), ValueError, "Gene names.*not unique.*var_names_make_unique"),
    "one spot": (_lonely, ValueError, r"Sections \['D'\] have one spot.*Remove"),
    "no section": (lambda a: a.obs.pop("section"), KeyError, "no 'section'; found"),
    "spots without a section": (_nan_section, ValueError, "'section'.*missing for 40 spots"),
}
AT_TRAINING = {
    "low totals": (
        _low_totals,
        ValueError,
        "total_counts are smaller than the sum of the counts.*over all genes",
    ),
}


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.parametrize("case", AT_SETUP)
def test_setup_refuses(make, state, case):
    change, error, message = AT_SETUP[case]
    adata = make.table()
    change(adata)
    before = state.of(adata)
    with pytest.raises(error, match=message):
        FLAG.setup_anndata(adata)
    state.assert_unchanged(adata, before)


@pytest.mark.parametrize("case", AT_TRAINING)
def test_training_refuses(make, state, case):
    change, error, message = AT_TRAINING[case]
    adata = make.table()
    change(adata)
    model = make.model(adata)
    before = state.of(adata)
    with pytest.raises(error, match=message):
        model.train(**make.QUICK)
    assert not model.is_trained_
    state.assert_unchanged(adata, before)


def test_counts_that_are_not_whole_are_refused_before_training(make, state):
    adata = make.table()
    set_counts(0, 0, 1.5)(adata)
    FLAG.setup_anndata(adata)  # the target is not known yet
    before = state.of(adata)
    for target in (None, "log2"):
        with pytest.raises(ValueError, match=r"adata.X has non-integer values \(for example 1.5\).*raw counts"):
            FLAG(adata, target=target, n_latent=4, network=make.SMALL)
    FLAG(adata, target="identity", n_latent=4, network=make.SMALL)
    state.assert_unchanged(adata, before)
    set_counts(0, 0, 1)(adata)
    make.model(adata)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_setup_allocates_nothing_of_the_size_of_the_counts(kind):
    n_spots, n_genes = 24_000, 300
    counts = np.zeros((n_spots, n_genes), dtype=np.float32)
    counts[np.arange(n_spots), np.arange(n_spots) % n_genes] = 1
    obs = pd.DataFrame({"section": pd.Categorical(["A"] * n_spots), "total_counts": 1.0})
    adata = ad.AnnData(kind(counts), obs=obs.set_index("spot_" + obs.index.astype(str)))
    adata.obsm["spatial"] = np.stack(np.divmod(np.arange(n_spots), 200), axis=1)
    adata.obsm["X_image"] = np.ones((n_spots, 2), dtype=np.float32)
    tracemalloc.start()
    FLAG.setup_anndata(adata)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < counts.nbytes / 3


def test_too_few_spots(make, state):
    adata = make.table(n_spots=16)
    before = state.of(adata)
    with pytest.raises(ValueError, match="at least 50 spots; got 48"):
        FLAG.setup_anndata(adata)
    state.assert_unchanged(adata, before)


def test_unknown_genes_and_layers(make):
    adata = make.table()
    with pytest.raises(KeyError, match="1 genes are not in adata.var_names.*'nope'"):
        FLAG.setup_anndata(adata, genes=["g0", "nope"])
    with pytest.raises(KeyError, match="adata.layers has no 'counts'; found"):
        FLAG.setup_anndata(adata, layer="counts")


def test_genes_lost_after_setup_are_named(make):
    adata = make.table()
    model = make.model(adata)
    adata._inplace_subset_var([gene for gene in adata.var_names if gene != "g5"])
    with pytest.raises(KeyError, match="'g5'"):
        model.train(**make.QUICK)
    assert not model.is_trained_


def test_a_panel_is_respected(make, query):
    adata = make.table()
    adata.var["flagst_panel"] = adata.var_names.isin(["g1", "g4", "g6"])
    model = make.model(adata)
    assert model.genes_ == ["g1", "g4", "g6"]
    model.train(**make.QUICK)
    predicted = model.predict(query)
    assert predicted is not query and list(predicted.var_names) == model.genes_
    assert "flagst" not in query.layers


def test_a_panel_of_joined_tables_has_the_genes_that_were_chosen(make):
    adata = make.table()
    adata.var["flagst_panel"] = pd.array([True, None, False, True, None, True, False, True], dtype="object")
    FLAG.setup_anndata(adata)
    assert FLAG(adata, n_latent=4, network=make.SMALL).genes_ == ["g0", "g3", "g5", "g7"]


def test_features_may_be_sparse(make, trained):
    query = make.table(names=("X", "Y"), seed=7)
    expected = trained.predict(query.copy()).layers["flagst"]
    query.obsm["X_image"] = sp.csr_matrix(query.obsm["X_image"])
    np.testing.assert_array_equal(trained.predict(query).layers["flagst"], expected)


def test_sections_may_be_numbered(make):
    """Also in what is recorded of them."""
    adata, named = make.table(names=(1, 2, 3)), make.table(names=("1", "2", "3"))
    made = []
    for table in (adata, named):
        model = make.model(table)
        model.train(**make.QUICK)
        made.append((model.spacing_, list(model.spots_), model.predict(table).layers["flagst"]))
    assert made[0][0] == made[1][0] and made[0][0]["layout"] == "square" and made[0][1] == ["1", "2", "3"]
    np.testing.assert_array_equal(made[0][2], made[1][2])
    import flagst

    for section, n_drawn in ((1, 1), ([1, "3"], 2), (None, 3)):
        assert flagst.pl.spatial(adata, "g0", section=section, show=False).shape == (n_drawn, 2)
    with pytest.raises(KeyError, match="no '4'"):
        flagst.pl.structure(adata, section=4, show=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": ["g0", "g1", "g1"]}, r"genes= are not unique; repeated: \['g1'\]"),
        ({"names": ("P1/A", "P1/B", "P2/A")}, "have a '/', which h5ad and zarr cannot keep"),
    ],
)
def test_names_that_cannot_be_kept_apart(make, change, message):
    with pytest.raises(ValueError, match=message):
        FLAG.setup_anndata(make.table(change.get("names", ("A", "B", "C"))), genes=change.get("genes"))


def test_tables_are_asked_for_in_words():
    import flagst

    sdata = flagst.datasets.simulated_sections(n_sections=1, n_spots=30, n_genes=5)
    for call in (
        FLAG.setup_anndata,
        lambda s: flagst.pp.select_genes(s, 3),
        lambda s: flagst.pp.gene_embeddings(s, flagst.gfm.CoExpression(sdata["table"])),
        lambda s: flagst.pl.spatial(s, "gene_0"),
        flagst.pl.structure,
        flagst.tl.evaluate,
        flagst.tl.structure_ceiling,
        lambda s: flagst.tl.marker_overlap(s, groupby="group"),
        flagst.tl.domain_agreement,
    ):
        with pytest.raises(TypeError, match="takes an AnnData; got a SpatialData. Pass one of its tables"):
            call(sdata)
