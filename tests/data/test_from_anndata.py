"""AnnData to sections: what comes out, and what is refused with a message that says what to do."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from damage import set_counts

from flagst.data import stored
from flagst.data.from_anndata import check_registered, panel_genes, sections_from_anndata

KEYS = {"section_key": "section", "spatial_key": "spatial", "image_key": "X_image", "layer": None}


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, (60, 6)).astype(np.float32)
    counts[:, 0] += 1
    section = np.where(np.arange(60) % 2, "B", "A")
    obs = pd.DataFrame({"section": pd.Categorical(section), "total_counts": counts.sum(axis=1) + 10})
    obs.index = [f"{s}_{i}" for i, s in enumerate(section)]
    table = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(6)]))
    table.obsm["spatial"] = rng.uniform(0, 1000, (60, 2))
    table.obsm["X_image"] = rng.normal(size=(60, 4))
    table.uns["flagst"] = {"params": {"um_per_px": {"A": 0.5, "B": 2.0}}}
    return table


def test_sections_in_order_with_their_rows(adata):
    sections = sections_from_anndata(adata, genes=["g3", "g0"], target="log2")
    assert [s.name for s in sections] == ["A", "B"]
    first = sections[0]
    assert list(first.spot_names) == [n for n in adata.obs_names if n.startswith("A")]
    expected = np.log2(adata[first.spot_names, ["g3", "g0"]].X.toarray() + 1)
    np.testing.assert_allclose(first.target, expected, rtol=1e-6)
    np.testing.assert_allclose(first.depth, adata.obs.loc[first.spot_names, "total_counts"])
    assert first.image.dtype == np.float32 and len(first) == 30
    assert first.neighbours.max() < 30  # sections never share an edge


def test_coordinates_are_micrometres_where_the_scale_is_known(adata):
    first, second = sections_from_anndata(adata)
    np.testing.assert_allclose(first.coords, 0.5 * adata[first.spot_names].obsm["spatial"])
    np.testing.assert_allclose(second.coords, 2.0 * adata[second.spot_names].obsm["spatial"])
    del adata.uns["flagst"]
    np.testing.assert_allclose(sections_from_anndata(adata)[0].coords, adata[first.spot_names].obsm["spatial"])


def test_lognorm_uses_the_counts_over_all_genes(adata):
    section = sections_from_anndata(adata, genes=["g1"], target="lognorm")[0]
    rows = adata[section.spot_names]
    expected = np.log1p(1e4 * rows[:, "g1"].X.toarray() / rows.obs["total_counts"].to_numpy()[:, None])
    np.testing.assert_allclose(section.target, expected, rtol=1e-5)


def test_missing_total_counts_are_summed_with_a_warning(adata, caplog):
    sums = np.asarray(adata.X.sum(axis=1)).ravel()
    del adata.obs["total_counts"]
    with caplog.at_level(logging.WARNING, logger="flagst"):
        sections = sections_from_anndata(adata, genes=["g1"], target="lognorm")
    assert "no 'total_counts'" in caplog.text
    np.testing.assert_allclose(np.concatenate([s.depth for s in sections]).sum(), sums.sum())


def test_a_layer_is_read_instead_of_x(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.full(adata.shape, 0.5)
    sections = sections_from_anndata(adata, genes=["g0"], target="log2", layer="counts")
    assert sections[0].target.shape == (30, 1)


def test_expression_is_not_needed(adata):
    query = ad.AnnData(obs=adata.obs, obsm=dict(adata.obsm))
    sections = sections_from_anndata(query)
    assert all(s.target is None and s.depth is None for s in sections)


def _names(axis):
    def change(adata):
        names = list(getattr(adata, axis))
        names[1] = names[0]
        setattr(adata, axis, names)

    return change


def _obsm(key, value):
    def change(adata):
        adata.obsm[key] = value(np.array(adata.obsm[key]))

    return change


def _nan(values):
    values[7, 1] = np.nan
    return values


def _alone(adata):
    section = adata.obs["section"].astype(str)
    section.iloc[5] = "lonely"
    adata.obs["section"] = pd.Categorical(section)


def _empty_spot(adata):
    set_counts(2, slice(None), 0)(adata)
    adata.obs.loc[adata.obs_names[2], "total_counts"] = 0


def _drop_x(adata):
    adata.X = None


BAD = {
    "no coordinates": (
        lambda a: a.obsm.pop("spatial"),
        KeyError,
        r"no 'spatial'; found \['X_image'\].*x then y",
    ),
    "no features": (
        lambda a: a.obsm.pop("X_image"),
        KeyError,
        r"found \['spatial'\]. Run flagst.pp.image_features",
    ),
    "NaN features": (
        _obsm("X_image", _nan),
        ValueError,
        "X_image.*NaN.* in 1 of 60 rows, first at row 7.*Extract",
    ),
    "NaN position": (_obsm("spatial", _nan), ValueError, "spatial.*NaN.*first at row 7"),
    "3-d positions": (
        _obsm("spatial", lambda v: v[:, [0, 1, 1]]),
        ValueError,
        r"\(n_spots, 2\); got shape \(60, 3\)",
    ),
    "no section": (lambda a: a.obs.pop("section"), KeyError, "'section'; found"),
    "negative": (set_counts(0, 0, -3), ValueError, r"negative values \(minimum -3\).*raw counts"),
    "non-integer": (set_counts(0, 0, 0.5), ValueError, r"non-integer values \(for example 0.5\).*raw counts"),
    "NaN count": (set_counts(0, 0, np.nan), ValueError, "NaN or infinite"),
    "empty spot": (_empty_spot, ValueError, "1 spots have no count.*A_2.*filter_cells"),
    "empty gene": (set_counts(slice(None), 4, 0), ValueError, "1 genes have no count.*g4.*filter_genes"),
    "repeated spots": (_names("obs_names"), ValueError, "Spot names.*not unique.*A_0.*obs_names_make_unique"),
    "repeated genes": (_names("var_names"), ValueError, "Gene names.*not unique.*g0.*var_names_make_unique"),
    "one spot": (_alone, ValueError, r"\['lonely'\] have one spot.*Remove"),
    "no expression": (_drop_x, ValueError, "adata.X is empty"),
}


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused(adata, case):
    change, error, message = BAD[case]
    change(adata)
    with pytest.raises(error, match=message):
        sections_from_anndata(adata, target="log2")


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.parametrize("case", [case for case in BAD if case != "non-integer"])
def test_registration_refuses_them_too(adata, case):
    # whether counts must be whole is only known with the target
    change, error, message = BAD[case]
    change(adata)
    with pytest.raises(error, match=message):
        check_registered(adata, genes=list(adata.var_names), **KEYS)


def test_registration_says_whether_counts_are_whole(adata, monkeypatch):
    monkeypatch.setattr(stored, "ROWS_AT_A_TIME", 25)
    for kind in (sp.csr_matrix, sp.csc_matrix, np.asarray):
        adata.X = kind(adata.X.toarray() if sp.issparse(adata.X) else adata.X)
        assert check_registered(adata, genes=["g0"], **KEYS) is None
    counts = adata.X.copy()
    counts[30, 2], counts[50, 1] = 1.5, 2.5
    adata.X = counts
    assert check_registered(adata, genes=["g0"], **KEYS) == 1.5


def test_registration_before_features(adata):
    del adata.obsm["X_image"]
    check_registered(adata, genes=["g0"], **KEYS | {"image_key": None})


def test_fewer_than_fifty_spots(adata):
    with pytest.raises(ValueError, match="at least 50 spots; got 49"):
        check_registered(adata[:49], genes=["g0"], **KEYS)
    with pytest.raises(ValueError, match="no spots"):
        sections_from_anndata(adata[:0])


def test_fractions_are_fine_as_they_are(adata):
    set_counts(0, 0, 0.5)(adata)
    assert sections_from_anndata(adata, target="identity")[0].target[0, 0] == 0.5
    set_counts(0, 0, -0.5)(adata)
    with pytest.raises(ValueError, match="negative"):
        sections_from_anndata(adata, target="identity")


def test_panel_is_given_or_marked_or_everything(adata):
    assert panel_genes(adata, None) == list(adata.var_names)
    adata.var["flagst_panel"] = [False, True, False, True, False, False]
    assert panel_genes(adata, None) == ["g1", "g3"]
    assert panel_genes(adata, ["g5", "g0"]) == ["g5", "g0"]
    assert panel_genes(adata, "g5") == ["g5"]
    with pytest.raises(KeyError, match=r"1 genes are not in adata.var_names.*'x'.*found.*g0"):
        panel_genes(adata, ["g0", "x"])
    adata.var["flagst_panel"] = False
    with pytest.raises(ValueError, match="no genes. Run flagst.pp.select_genes"):
        panel_genes(adata, None)
