"""The residual of a draw, shared out between genes by their spatial order."""

import numpy as np
import pytest

from flagst.data.graph import knn
from flagst.regression import draw_order, match_draw_order, neighbour_moran
from flagst.regression.moran import order_by_abundance
from flagst.sampling.moran_matching import BOUNDS, MATCHED_AT

N_SIDE, G = 20, 12


def _smooth(white, near, weight):
    field = white + weight * white[near].mean(axis=1)
    return (field - field.mean(axis=0)) / field.std(axis=0)


def restore(values, genes=slice(None)):
    return values + 10


@pytest.fixture
def parts():
    """A smooth mean, and residuals from rough to smooth."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(N_SIDE), np.arange(N_SIDE)), -1).reshape(-1, 2).astype(float)
    near = knn(grid, 4)[0]
    wave = np.sin(grid[:, :1] / 3) + np.cos(grid[:, 1:] / 4)
    mean = np.repeat((wave - wave.mean()) / wave.std(), G, axis=1)
    residual = np.hstack([_smooth(rng.normal(size=(len(grid), 1)), near, w) for w in np.linspace(0, 1.5, G)])
    return mean, residual, near


def factors(parts, order, **kwargs):
    """Factor of every gene; the same for all spots."""
    mean, residual, near = parts
    ratio = match_draw_order(mean, residual, restore, near, order, **kwargs) / residual
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-9)
    return ratio[0]


def own_order(parts):
    mean, residual, near = parts
    return neighbour_moran(restore(mean + residual), near)


def order_on_the_way(parts, factor):
    mean, residual, near = parts
    return neighbour_moran(restore(mean + MATCHED_AT * factor * residual), near)


def test_factors_keep_within_bounds(parts):
    for order in (np.linspace(0, 0.9, G), np.linspace(0.9, -0.5, G), np.full(G, 0.4)):
        factor = factors(parts, order)
        assert factor.min() >= BOUNDS[0] - 1e-9 and factor.max() <= BOUNDS[1] + 1e-9
        assert factor.std() > 0.05


def test_both_bounds_are_reached(parts):
    """One gene that has to lose all order, among genes that have to gain it, and the reverse."""
    order = np.where(np.arange(G) == 0, -1.5, 1.5)
    assert factors(parts, order).max() == pytest.approx(BOUNDS[1])
    assert factors(parts, -order).min() == pytest.approx(BOUNDS[0])


def test_on_the_way_all_genes_have_the_same_excess_over_what_is_aimed_at(parts):
    """As draws have as they come, on average over genes."""
    usual = (order_on_the_way(parts, np.ones(G)) - own_order(parts)).mean()
    assert usual > 0.03
    order = own_order(parts) + np.random.default_rng(1).uniform(-0.08, 0.08, G)
    for trust, share in ((1.0, 0.75), (0.4, 0.3)):
        factor = factors(parts, order, trust=trust)
        inside = (factor > BOUNDS[0] + 0.01) & (factor < BOUNDS[1] - 0.01)
        assert inside.sum() >= 8
        aim = share * order + (1 - share) * own_order(parts)
        excess = (order_on_the_way(parts, factor) - aim)[inside]
        np.testing.assert_allclose(excess, usual, atol=0.012)
        assert excess.std() < (order_on_the_way(parts, np.ones(G)) - aim)[inside].std() / 3


def test_a_gene_that_should_be_less_ordered_gets_more_residual(parts):
    order = own_order(parts)
    less = order - 0.2 * (np.arange(G) == 4)
    assert factors(parts, less)[4] > factors(parts, order)[4] + 0.1


def test_a_gene_s_factor_is_not_about_what_other_genes_ask_for(parts):
    order = own_order(parts)
    others = order - 0.2 * (np.arange(G) % 2)
    np.testing.assert_array_equal(factors(parts, others)[::2], factors(parts, order)[::2])


def test_a_draw_that_has_the_order_already_stays_nearly_as_it_is(parts):
    """Its genes have the same excess on the way, where they had different ones."""
    factor = factors(parts, own_order(parts))
    assert abs(factor.mean() - 1) < 0.03 and factor.std() < 0.2
    mean, residual, near = parts
    full = neighbour_moran(restore(mean + factor * residual), near)
    assert abs((full - own_order(parts)).mean()) < 0.02


def test_without_trust_the_order_of_the_training_sections_has_no_part(parts):
    first, second = (factors(parts, order, trust=0.0) for order in (np.zeros(G), np.linspace(0, 1, G)))
    np.testing.assert_array_equal(first, second)


def test_without_trust_abundant_genes_are_aimed_at_with_more_order(parts, monkeypatch):
    """By a quarter of what a line through order and abundance says, around the draw's own mean order."""
    monkeypatch.setattr(draw_order, "order_by_abundance", lambda order, abundance: 0.1 + 0.03 * abundance)
    abundance = np.random.default_rng(3).permutation(np.linspace(0, 8, G))
    own = own_order(parts)
    free = factors(parts, np.zeros(G), trust=0.0) != 1
    expected = 0.03 * (abundance - abundance[free].mean()) + own[free].mean()
    usual = (order_on_the_way(parts, np.ones(G)) - own)[free].mean()
    for trust in (0.0, 0.4):
        aim = own + 0.75 * trust * (0.6 - own) + 0.25 * (1 - trust) * (expected - own)
        factor = factors(parts, np.full(G, 0.6), trust=trust, abundance=abundance)
        inside = (factor > BOUNDS[0] + 0.01) & (factor < BOUNDS[1] - 0.01) & free
        assert inside.sum() >= 6
        np.testing.assert_allclose((order_on_the_way(parts, factor) - aim)[inside], usual, atol=0.012)


def test_with_full_trust_abundance_has_no_part(parts):
    order, abundance = np.linspace(0.2, 0.9, G), np.linspace(8, 0, G)
    np.testing.assert_array_equal(factors(parts, order, abundance=abundance), factors(parts, order))


def test_order_by_abundance_is_the_least_squares_line():
    rng = np.random.default_rng(0)
    abundance = rng.gamma(2, size=50)
    order = 0.1 + 0.05 * abundance + rng.normal(0, 0.05, 50)
    unknown = rng.permutation(50)[:9]
    order[unknown] = np.nan
    known = np.isfinite(order)
    slope, intercept = np.polyfit(abundance[known], order[known], 1)
    np.testing.assert_allclose(order_by_abundance(order, abundance), intercept + slope * abundance, rtol=1e-9)
    # no line: too few genes, a fall, genes alike
    assert order_by_abundance(order[:15], abundance[:15]) is None
    assert order_by_abundance(-order, abundance) is None
    assert order_by_abundance(order, np.full(50, 1e6)) is None
    assert order_by_abundance(np.full(50, np.nan), abundance) is None


def test_the_ranks_of_the_genes_become_those_of_the_order(parts):
    order = np.random.default_rng(2).permutation(np.linspace(0.35, 0.75, G))
    before, after = (np.corrcoef(order_on_the_way(parts, f), order)[0, 1] for f in (np.ones(G), factors(parts, order)))
    assert after > 0.8 and after > before + 0.2


def test_constant_genes_stay_constant_and_finite(parts):
    mean, residual, near = parts
    flat = mean * (np.arange(G) > 0), residual * (np.arange(G) > 1)
    values = match_draw_order(*flat, restore, near, np.full(G, 0.3))
    assert np.isfinite(values).all() and (values[:, :2] == 0).all() and (values[:, 2:].std(axis=0) > 0.2).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_genes", [1, 2, 3, 10])
def test_few_genes_and_rough_means(n_genes, seed):
    """A residual that takes no order away leaves a gene as it is; curves with plateaus give a factor within bounds."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(5)), -1).reshape(-1, 2).astype(float)
    near = knn(grid, 4)[0]
    mean, residual = rng.normal(size=(2, 40, n_genes))
    ratio = (match_draw_order(mean, residual, restore, near, np.full(n_genes, 0.2)) / residual)[0]
    most = draw_order.STEPS[-1]
    kept = neighbour_moran(restore(mean + most * residual), near) >= neighbour_moran(restore(mean), near)
    np.testing.assert_allclose(ratio[kept], 1)
    assert ((ratio >= BOUNDS[0] - 1e-9) & (ratio <= BOUNDS[1] + 1e-9)).all()


def test_an_unknown_order_is_the_draw_s_own(parts):
    own = factors(parts, own_order(parts))
    unknown = np.where(np.arange(G) < 6, np.nan, own_order(parts))
    np.testing.assert_allclose(factors(parts, unknown), own)


def test_large_sections_are_looked_at_in_part(parts):
    order = own_order(parts) + np.random.default_rng(1).uniform(-0.08, 0.08, G)
    full = factors(parts, order)
    some = np.sort(np.random.default_rng(2).permutation(len(parts[0]))[:300])
    part = factors(parts, order, rows=some)
    assert not np.array_equal(full, part)
    assert np.corrcoef(full, part)[0, 1] > 0.9 and np.abs(full - part).mean() < 0.15


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_constant_columns_have_no_order(kind):
    near = knn(np.random.default_rng(0).uniform(size=(5000, 2)), 4)[0]
    values = np.full((5000, 4), [0.1, 0.7, 3.3, 0.0], dtype=kind)
    np.testing.assert_array_equal(neighbour_moran(values, near), 0)


def test_small_variation_on_a_large_value_still_counts(parts):
    near = parts[2]
    np.testing.assert_allclose(neighbour_moran(1000 + parts[0], near), neighbour_moran(parts[0], near), atol=1e-6)


def test_order_is_morans_i(parts):
    from scipy.sparse import csr_matrix

    from flagst.metrics import morans_i

    values, near = parts[0] + parts[1], parts[2]
    n_spots, k = near.shape
    weights, starts = np.full(k * n_spots, 1 / k), np.arange(0, k * n_spots + 1, k)
    graph = csr_matrix((weights, near.ravel(), starts), shape=(n_spots, n_spots))
    np.testing.assert_allclose(neighbour_moran(values, near), morans_i(values, graph), atol=1e-6)


def test_order_factors_from_parts_of_a_section(parts):
    """Summed up in parts that share neighbours, at some of the spots: the factors of the whole."""
    (mean, residual, near), order = parts, np.linspace(0.2, 0.9, G)
    looked_at, seen, given = np.arange(0, len(mean), 2), np.zeros(len(mean), bool), []
    for own in np.array_split(looked_at, 7):
        kept, place = np.unique(np.concatenate([own, near[own].ravel()]), return_inverse=True)
        places = place[len(own) :].reshape(len(own), -1), place[: len(own)]
        given.append((mean[kept], residual[kept], *places, ~seen[kept]))
        seen[kept] = True
    factors = draw_order.order_factors(draw_order.order_curve(given, restore), order)
    whole = match_draw_order(mean, residual, restore, near, order, rows=looked_at)
    np.testing.assert_allclose(residual * factors, whole, atol=1e-8)
    assert not np.allclose(residual * factors, match_draw_order(mean, residual, restore, near, order), atol=1e-3)
    assert np.ptp(factors) > 0.1
