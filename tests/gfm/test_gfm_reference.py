"""Co-expression of a reference: depth-free correlations, pooled over sections, one at a time."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from flagst.gfm import CoExpression
from flagst.gfm.coexpression import spectral_vectors

GENES = [f"G{i}" for i in range(12)]


def table(seed=0, n=400, genes=GENES, section="a", depth_spread=1.0):
    """Genes 0 to 5 follow one program, 6 to 11 another; depth varies by its own law."""
    rng = np.random.default_rng(seed)
    programs = rng.normal(size=(n, 2))
    rate = np.exp(0.8 * np.repeat(programs, 6, axis=1) + depth_spread * rng.normal(size=(n, 1)) + 4)
    counts = rng.poisson(rate)[:, [GENES.index(g) for g in genes]]
    return anndata.AnnData(
        sp.csr_matrix(counts.astype(float)),
        obs=pd.DataFrame({"section": section}, index=[f"{section}{i}" for i in range(n)]),
        var=pd.DataFrame(index=genes),
    )


def product(reference, genes=GENES, **settings):
    settings = {"n_components": 12, **settings}
    vectors, known = CoExpression(reference, **settings).encode(reference, genes)
    assert known.all()
    return vectors @ vectors.T


def test_inner_products_are_correlations_without_the_depth():
    reference = table()
    counts = reference.X.toarray()
    total = counts.sum(axis=1)
    assert (total < 200).any()  # those say too little to count
    counts, total = counts[total >= 200], total[total >= 200]
    values = np.log1p(counts / total[:, None] * 1e4)
    design = np.column_stack([np.ones(len(total)), np.log(total)])
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    np.testing.assert_allclose(product(reference), np.corrcoef(left.T), atol=2e-3)


def test_depth_does_not_bring_genes_together():
    shallow, deep = product(table(depth_spread=0.0)), product(table(depth_spread=1.5))
    assert np.abs(shallow - deep).max() < 0.25
    same = np.arange(12)[:, None] // 6 == np.arange(12) // 6
    assert deep[same].min() > 0.3 > deep[~same].max()


def test_sections_are_pooled_and_may_come_one_by_one():
    parts = [table(seed=i, section=s) for i, s in enumerate("ab")]
    whole = anndata.concat(parts)
    np.testing.assert_allclose(product(whole), sum(product(p) for p in parts) / 2, atol=5e-3)
    encoder = CoExpression((part for part in parts), n_components=12)
    vectors, _ = encoder.encode(whole, GENES)
    np.testing.assert_allclose(vectors @ vectors.T, product(whole), atol=1e-4)
    assert encoder.provenance()["sections"] == ["a", "b"]


def test_genes_the_reference_lacks_have_no_vector_and_order_does_not_matter():
    reference = table(genes=GENES[:8])
    vectors, known = CoExpression(reference).encode(reference, GENES)
    assert known.tolist() == [True] * 8 + [False] * 4 and (vectors[8:] == 0).all()
    turned, _ = CoExpression(reference).encode(reference, GENES[::-1])
    np.testing.assert_allclose(turned[::-1] @ turned[::-1].T, vectors @ vectors.T, atol=1e-4)


def test_a_gene_that_some_sections_lack_keeps_its_correlations():
    """The pair counts where both are there, not in all sections."""
    parts = [table(seed=i, section=s) for i, s in enumerate("abcd")]
    lacking = [parts[0], *(part[:, GENES[:-1]].copy() for part in parts[1:])]
    whole, partly = (CoExpression(p, n_components=12).encode(parts[0], GENES)[0] for p in (parts, lacking))
    assert whole[10] @ whole[11] > 0.7 and abs(partly[10] @ partly[11] - whole[10] @ whole[11]) < 0.1


def test_names_may_be_of_another_kind_and_a_generator_is_read_once():
    reference = table()
    reference.var_names = [f"ENSG{i:011d}.3" for i in range(12)]
    names = {gene: f"ENSG{i:011d}" for i, gene in enumerate(GENES)}
    assert CoExpression(reference, names=names).encode(reference, GENES)[1].all()
    with pytest.raises(ValueError, match="names="):
        CoExpression(reference).encode(reference, GENES)
    once = CoExpression(part for part in [table()])
    once.encode(reference, GENES)
    with pytest.raises(ValueError, match="read before"):
        once.encode(reference, GENES)


def test_large_panels_take_another_solver_and_agree():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 2100)) + 0.1 * rng.normal(size=(300, 2100))
    correlation = np.corrcoef(values.T)
    few = spectral_vectors(correlation, 3)
    assert few.shape == (2100, 3)
    np.testing.assert_allclose((few @ few.T)[:50, :50], correlation[:50, :50], atol=0.06)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a[:10].copy(), "no section with 20 spots"),
        (lambda a: a[:, :1].copy(), "knows 1 of 12"),
        (lambda a: anndata.AnnData(a.X * 0.5, obs=a.obs, var=a.var), "non-integer"),
    ],
)
def test_references_that_cannot_be_right(change, reason):
    reference = change(table())
    with pytest.raises(ValueError, match=reason):
        CoExpression(reference).encode(reference, GENES)


def test_a_section_column_that_is_not_there():
    reference = table()
    with pytest.raises(KeyError, match="batch.*section_key"):
        CoExpression(reference, section_key="batch").encode(reference, GENES)
    assert CoExpression(reference, section_key=None).encode(reference, GENES)[1].all()
