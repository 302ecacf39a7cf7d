"""Co-expression vectors: inner products are correlations within sections."""

import numpy as np
import pytest

from flagst.gfm import coexpression

N, G = 300, 12


@pytest.fixture
def blocks():
    """Three programs of four genes each, the last gene of each with the opposite sign."""
    rng = np.random.default_rng(0)
    sign = np.tile([1, 1, 1, -1], 3)
    values = np.repeat(rng.normal(size=(N, 3)), 4, axis=1) * sign + 0.4 * rng.normal(size=(N, G))
    return values, np.repeat(["a", "b", "c"], N // 3), sign


def test_genes_of_a_program_lie_together(blocks):
    values, section, sign = blocks
    vectors = coexpression(values, section, n_components=3)
    assert vectors.shape == (G, 3) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    same = np.arange(G)[:, None] // 4 == np.arange(G) // 4
    product = vectors @ vectors.T
    assert (product * np.outer(sign, sign))[same].min() > 0.9
    assert np.abs(product[~same]).max() < 0.35


def test_inner_products_are_correlations_when_nothing_is_cut(blocks):
    values, _, _ = blocks
    vectors = coexpression(values, np.zeros(N), n_components=G)
    np.testing.assert_allclose(vectors @ vectors.T, np.corrcoef(values.T), atol=1e-4)


def test_differences_between_sections_are_not_coexpression(blocks):
    values, section, _ = blocks
    rng = np.random.default_rng(1)
    offset = {name: 20 * rng.normal(size=G) for name in "abc"}
    factor = {name: rng.uniform(0.5, 2, G) for name in "abc"}
    other = np.array([values[i] * factor[s] + offset[s] for i, s in enumerate(section)])
    products = [v @ v.T for v in (coexpression(values, section), coexpression(other, section))]
    np.testing.assert_allclose(products[0], products[1], atol=1e-3)


def test_constant_genes_have_no_vector(blocks):
    values, section, _ = blocks
    values[:, 5] = 2.0
    vectors = coexpression(values, section)
    assert (vectors[5] == 0).all() and np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(np.delete(vectors, 5, 0), axis=1), 1, atol=1e-5)


def test_a_gene_constant_in_one_section_keeps_its_vector(blocks):
    values, section, sign = blocks
    values[section == "a", 0] = 0.0
    vectors = coexpression(values, section, n_components=3)
    assert abs(vectors[0] @ vectors[1]) > 0.8


def test_no_more_components_than_genes():
    values = np.random.default_rng(0).normal(size=(50, 3))
    assert coexpression(values, np.zeros(50)).shape == (3, 3)
