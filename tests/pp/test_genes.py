"""select_genes: HMHVG against a direct computation, sections that are left out, records, and errors."""

import hashlib
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import flagst
from flagst.pp import select_genes


def make_adata(n_spots=60, n_genes=80, seed=0, sections=("A", "B", "C")):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.0, 3.0, n_genes) * rng.gamma(2.0, 0.5, (n_spots, 1)) * rng.gamma(1.5, 0.7, (n_spots, n_genes))
    names = [f"G{i}" for i in range(n_genes - 6)] + ["MT-CO1", "mt-Nd1", "RPL3", "Rps12", "MT2A", "RPSAP58"]
    obs = pd.DataFrame({"section": pd.Categorical(np.resize(sections, n_spots))})
    obs.index = obs.index.map(str)
    adata = ad.AnnData(rng.poisson(rate + 0.5).astype(np.float32), obs=obs)
    adata.var_names = names
    return adata


def panel(adata):
    return set(adata.var_names[adata.var["flagst_panel"]])


def plain_hmhvg(adata, sections, n_genes):
    """The recipe once more, with loops and sets."""
    import scanpy as sc

    parts = {s: adata[adata.obs["section"] == s] for s in sections}
    frames = {s: part.to_df().astype(float) for s, part in parts.items()}
    shared = sorted(set.intersection(*[set(f.columns[f.sum() > 0]) for f in frames.values()]))
    union = set()
    for frame in frames.values():
        # pandas 3 hands out read-only arrays
        a = ad.AnnData(frame[shared].to_numpy(dtype="float32", copy=True), var=pd.DataFrame(index=shared))
        sc.pp.normalize_total(a)
        sc.pp.log1p(a)
        if len(shared) > 4096:
            sc.pp.highly_variable_genes(a, n_top_genes=4096)
            a = a[:, a.var["highly_variable"]]
        union |= set(a.var_names)
    union = sorted(g for g in union if not re.match(r"^(MT-|RP[SL]\d)", g, re.IGNORECASE))
    stacked = pd.concat([f[union] for f in frames.values()])
    by_mean = stacked.mean().sort_values(ascending=False, kind="stable").index
    by_deviation = stacked.std(ddof=0).sort_values(ascending=False, kind="stable").index
    for k in range(n_genes, len(union) + 1):
        top = set(by_mean[:k]) & set(by_deviation[:k])
        if len(top) >= n_genes:
            return set(sorted(top)[:n_genes])


@pytest.mark.parametrize("n_genes", [1, 10, 25, 60])
def test_hmhvg_equals_a_plain_recomputation(n_genes):
    adata = make_adata()
    select_genes(adata, n_genes)
    assert panel(adata) == plain_hmhvg(adata, ["A", "B", "C"], n_genes) and len(panel(adata)) == n_genes


def test_hmhvg_on_real_sections(her2st_dir):
    adata = flagst.datasets.her2st(["C3", "C4", "C5"], her2st_dir).tables["table"]
    select_genes(adata, 200, train_sections=["C3", "C5"])
    chosen = panel(adata)
    assert len(chosen) == 200 and chosen == plain_hmhvg(adata, ["C3", "C5"], 200)
    assert {"ACTG1", "VIM"} <= chosen
    assert not any(re.match(r"^(MT-|RP[SL]\d)", gene) for gene in chosen)


def test_housekeeping_is_left_out_by_symbol_only():
    adata = make_adata()
    select_genes(adata, 70)
    chosen = panel(adata)
    assert not chosen & {"MT-CO1", "mt-Nd1", "RPL3", "Rps12"}
    adata.X[:, -2:] = adata.X[:, -2:] * 50
    select_genes(adata, 10)
    assert {"MT2A", "RPSAP58"} <= panel(adata)


def test_other_sections_are_not_looked_at():
    adata = make_adata()
    select_genes(adata, 20, train_sections=["A", "B"])
    expected = panel(adata)
    changed = adata.copy()
    changed.X[np.ix_(changed.obs["section"] == "C", np.arange(80) % 2 == 0)] = 1000
    select_genes(changed, 20, train_sections=["A", "B"])
    assert panel(changed) == expected
    assert changed.uns["flagst"]["genes"]["sections"] == ["A", "B"]
    select_genes(changed, 20)
    assert panel(changed) != expected


def test_genes_without_counts_in_a_section_are_not_eligible():
    adata = make_adata()
    select_genes(adata, 10)
    gene = sorted(panel(adata))[0]
    adata.X[(adata.obs["section"] == "B").to_numpy(), adata.var_names.get_loc(gene)] = 0
    select_genes(adata, 10)
    assert gene not in panel(adata)
    select_genes(adata, 10, train_sections=["A", "C"])
    assert gene in panel(adata)


@pytest.mark.parametrize("kind", ["csr", "csc", "layer"])
def test_how_counts_are_stored_does_not_matter(kind):
    adata = make_adata()
    select_genes(adata, 15)
    other = make_adata()
    if kind == "layer":
        other.layers["counts"] = other.X.copy()
        other.X = other.X * 0.1
        select_genes(other, 15, layer="counts")
    else:
        other.X = sp.csr_matrix(other.X) if kind == "csr" else sp.csc_matrix(other.X)
        select_genes(other, 15)
    assert panel(other) == panel(adata)
    np.testing.assert_allclose(other.obs["total_counts"], adata.obs["total_counts"])


def test_gene_order_does_not_matter():
    adata = make_adata()
    select_genes(adata, 15)
    other = adata[:, ::-1].copy()
    select_genes(other, 15)
    assert panel(other) == panel(adata)
    assert other.uns["flagst"]["genes"]["sha256"] == adata.uns["flagst"]["genes"]["sha256"]


def test_the_record_and_its_hash():
    adata = make_adata()
    adata.uns["flagst"] = {"params": {"target": "log2"}}
    select_genes(adata, 15)
    record = adata.uns["flagst"]["genes"]
    assert record["flavor"] == "hmhvg" and record["n_genes"] == 15 and record["sections"] == ["A", "B", "C"]
    assert record["names"] == list(adata.var_names[adata.var["flagst_panel"]])
    assert record["sha256"] == hashlib.sha256("\n".join(sorted(panel(adata))).encode()).hexdigest()
    assert adata.uns["flagst"]["params"] == {"target": "log2"}


def test_subset_keeps_total_counts_over_all_genes(tmp_path):
    adata = make_adata()
    totals = adata.X.sum(1)
    select_genes(adata, 15, subset=True)
    assert adata.n_vars == 15 and adata.var["flagst_panel"].all()
    np.testing.assert_allclose(adata.obs["total_counts"], totals)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert list(back.uns["flagst"]["genes"]["names"]) == list(adata.var_names)


def test_total_counts_that_are_there_stay():
    adata = make_adata()
    adata.obs["total_counts"] = 12345.0
    select_genes(adata, 15)
    assert (adata.obs["total_counts"] == 12345).all()


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger", "seurat_v3"])
def test_scanpy_flavors(flavor):
    import scanpy as sc

    if flavor == "seurat_v3":
        pytest.importorskip("skmisc")
    adata = make_adata(n_spots=150, n_genes=300)
    counts = adata.X.copy()
    select_genes(adata, 40, flavor=flavor, train_sections=["A", "B"])
    part = adata[adata.obs["section"].isin(["A", "B"])].copy()
    part.obs["section"] = part.obs["section"].cat.remove_unused_categories()
    if flavor != "seurat_v3":
        sc.pp.normalize_total(part)
        sc.pp.log1p(part)
    sc.pp.highly_variable_genes(part, n_top_genes=40, flavor=flavor, batch_key="section")
    assert panel(adata) == set(part.var_names[part.var["highly_variable"]])
    assert adata.uns["flagst"]["genes"]["flavor"] == flavor
    np.testing.assert_array_equal(adata.X, counts)


def test_a_single_section_works():
    adata = make_adata(sections=("A",))
    select_genes(adata, 10)
    select_genes(adata, 10, flavor="seurat", train_sections="A")
    assert len(panel(adata)) == 10


def test_too_few_genes():
    with pytest.raises(ValueError, match="n_genes is 200, but only 76 genes"):
        select_genes(make_adata(), 200)
    with pytest.raises(ValueError, match="n_genes is 200, but only 80 genes"):
        select_genes(make_adata(), 200, flavor="seurat")


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"flavor": "magic"}, ValueError, "hmhvg"),
        ({"n_genes": 0}, ValueError, "n_genes"),
        ({"section_key": "slide"}, KeyError, "slide"),
        ({"layer": "counts"}, KeyError, "counts"),
        ({"train_sections": ["A", "Z"]}, ValueError, r"\['Z'\].*\['A', 'B', 'C'\]"),
        ({"train_sections": []}, ValueError, "train_sections"),
    ],
)
def test_bad_arguments(kwargs, error, match):
    with pytest.raises(error, match=match):
        select_genes(make_adata(), **({"n_genes": 10} | kwargs))


def test_counts_that_are_none():
    adata = make_adata()
    for bad in (-1.0, 0.5, np.nan):
        adata.X[0, 0] = bad
        with pytest.raises(ValueError, match="adata.X has"):
            select_genes(adata, 10)
    adata.X = None
    with pytest.raises(ValueError, match="adata.X is None"):
        select_genes(adata, 10)
    adata = make_adata()
    adata.var_names = ["G"] * adata.n_vars
    with pytest.raises(ValueError, match="not unique"):
        select_genes(adata, 10)


def test_ensembl_names_are_mentioned(caplog):
    adata = make_adata()
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    select_genes(adata, 10)
    assert "Ensembl" in caplog.text
