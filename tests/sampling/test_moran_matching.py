"""Rescaling the residual of a sample so that genes have a given Moran's I."""

import numpy as np
import pytest

from flagst.data.graph import knn
from flagst.regression import neighbour_moran
from flagst.sampling import moran_matching
from flagst.sampling.moran_matching import BOUNDS, MATCHED_AT, moran_curve, moran_factors

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


def factors(parts, moran, *, rows=None, **kwargs):
    """Factor of every gene; Moran's I is taken over some rows, ``None`` for all."""
    mean, residual, near = parts
    near = near if rows is None else near[rows]
    found = moran_factors(moran_curve([(mean, residual, near, rows, None)], restore), moran, **kwargs)
    assert found.shape == (mean.shape[1],)
    return found


def own_moran(parts):
    mean, residual, near = parts
    return neighbour_moran(restore(mean + residual), near)


def moran_at_matched(parts, factor):
    """Moran's I at the structure at which genes are matched."""
    mean, residual, near = parts
    return neighbour_moran(restore(mean + MATCHED_AT * factor * residual), near)


def test_factors_keep_within_bounds(parts):
    for moran in (np.linspace(0, 0.9, G), np.linspace(0.9, -0.5, G), np.full(G, 0.4)):
        factor = factors(parts, moran)
        assert factor.min() >= BOUNDS[0] - 1e-9 and factor.max() <= BOUNDS[1] + 1e-9
        assert factor.std() > 0.05


def test_both_bounds_are_reached(parts):
    """One gene that has to lose all autocorrelation, among genes that have to gain it, and the reverse."""
    moran = np.where(np.arange(G) == 0, -1.5, 1.5)
    assert factors(parts, moran).max() == pytest.approx(BOUNDS[1])
    assert factors(parts, -moran).min() == pytest.approx(BOUNDS[0])


def test_all_genes_have_the_same_excess_over_their_aim(parts):
    """It is the excess that unmodified samples have, on average over genes."""
    usual = (moran_at_matched(parts, np.ones(G)) - own_moran(parts)).mean()
    assert usual > 0.03
    moran = own_moran(parts) + np.random.default_rng(1).uniform(-0.08, 0.08, G)
    for weight, share in ((1.0, 0.75), (0.4, 0.3)):
        factor = factors(parts, moran, weight=weight)
        inside = (factor > BOUNDS[0] + 0.01) & (factor < BOUNDS[1] - 0.01)
        assert inside.sum() >= 8
        aim = share * moran + (1 - share) * own_moran(parts)
        excess = (moran_at_matched(parts, factor) - aim)[inside]
        np.testing.assert_allclose(excess, usual, atol=0.012)
        assert excess.std() < (moran_at_matched(parts, np.ones(G)) - aim)[inside].std() / 3


def test_a_gene_with_a_lower_moran_gets_more_residual(parts):
    moran = own_moran(parts)
    less = moran - 0.2 * (np.arange(G) == 4)
    assert factors(parts, less)[4] > factors(parts, moran)[4] + 0.1


def test_the_factor_of_a_gene_does_not_depend_on_the_aims_of_other_genes(parts):
    moran = own_moran(parts)
    others = moran - 0.2 * (np.arange(G) % 2)
    np.testing.assert_array_equal(factors(parts, others)[::2], factors(parts, moran)[::2])


def test_a_sample_that_has_the_moran_already_changes_little(parts):
    """Its genes have the same excess at the matched structure, where they had different ones."""
    factor = factors(parts, own_moran(parts))
    assert abs(factor.mean() - 1) < 0.03 and factor.std() < 0.2
    mean, residual, near = parts
    full = neighbour_moran(restore(mean + factor * residual), near)
    assert abs((full - own_moran(parts)).mean()) < 0.02


def test_with_weight_zero_the_moran_of_the_training_sections_is_not_used(parts):
    first, second = (factors(parts, moran, weight=0.0) for moran in (np.zeros(G), np.linspace(0, 1, G)))
    np.testing.assert_array_equal(first, second)


def test_with_less_weight_abundant_genes_get_a_higher_moran(parts, monkeypatch):
    """By a quarter of what a line through Moran's I and abundance says, around the mean of the sample's own."""
    monkeypatch.setattr(moran_matching, "moran_by_abundance", lambda moran, abundance: 0.1 + 0.03 * abundance)
    abundance = np.random.default_rng(3).permutation(np.linspace(0, 8, G))
    own = own_moran(parts)
    free = factors(parts, np.zeros(G), weight=0.0) != 1
    expected = 0.03 * (abundance - abundance[free].mean()) + own[free].mean()
    usual = (moran_at_matched(parts, np.ones(G)) - own)[free].mean()
    for weight in (0.0, 0.4):
        aim = own + 0.75 * weight * (0.6 - own) + 0.25 * (1 - weight) * (expected - own)
        factor = factors(parts, np.full(G, 0.6), weight=weight, abundance=abundance)
        inside = (factor > BOUNDS[0] + 0.01) & (factor < BOUNDS[1] - 0.01) & free
        assert inside.sum() >= 6
        np.testing.assert_allclose((moran_at_matched(parts, factor) - aim)[inside], usual, atol=0.012)


def test_with_full_weight_abundance_is_not_used(parts):
    moran, abundance = np.linspace(0.2, 0.9, G), np.linspace(8, 0, G)
    np.testing.assert_array_equal(factors(parts, moran, abundance=abundance), factors(parts, moran))


def test_the_ranks_of_the_genes_become_those_of_the_aim(parts):
    moran = np.random.default_rng(2).permutation(np.linspace(0.35, 0.75, G))
    before, after = (np.corrcoef(moran_at_matched(parts, f), moran)[0, 1] for f in (np.ones(G), factors(parts, moran)))
    assert after > 0.8 and after > before + 0.2


def test_constant_genes_stay_constant_and_finite(parts):
    mean, residual, near = parts
    flat = mean * (np.arange(G) > 0), residual * (np.arange(G) > 1)
    values = flat[1] * factors((*flat, near), np.full(G, 0.3))
    assert np.isfinite(values).all() and (values[:, :2] == 0).all() and (values[:, 2:].std(axis=0) > 0.2).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_genes", [1, 2, 3, 10])
def test_few_genes_and_rough_means(n_genes, seed):
    """A residual that lowers no Moran's I leaves a gene unmodified; curves with plateaus give factors within bounds."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(5)), -1).reshape(-1, 2).astype(float)
    near = knn(grid, 4)[0]
    mean, residual = rng.normal(size=(2, 40, n_genes))
    factor = factors((mean, residual, near), np.full(n_genes, 0.2))
    most = moran_matching.STEPS[-1]
    kept = neighbour_moran(restore(mean + most * residual), near) >= neighbour_moran(restore(mean), near)
    np.testing.assert_allclose(factor[kept], 1)
    assert ((factor >= BOUNDS[0] - 1e-9) & (factor <= BOUNDS[1] + 1e-9)).all()


def test_genes_of_unknown_moran_keep_that_of_the_sample(parts):
    own = factors(parts, own_moran(parts))
    unknown = np.where(np.arange(G) < 6, np.nan, own_moran(parts))
    np.testing.assert_allclose(factors(parts, unknown), own)


def test_some_spots_of_a_large_section_are_enough(parts):
    moran = own_moran(parts) + np.random.default_rng(1).uniform(-0.08, 0.08, G)
    full = factors(parts, moran)
    some = np.sort(np.random.default_rng(2).permutation(len(parts[0]))[:300])
    part = factors(parts, moran, rows=some)
    assert not np.array_equal(full, part)
    assert np.corrcoef(full, part)[0, 1] > 0.9 and np.abs(full - part).mean() < 0.15


def test_factors_from_parts_of_a_section(parts):
    """Summed up in parts that share neighbours, at some of the spots: the factors of the whole."""
    (mean, residual, near), moran = parts, np.linspace(0.2, 0.9, G)
    counted, seen, given = np.arange(0, len(mean), 2), np.zeros(len(mean), bool), []
    for own in np.array_split(counted, 7):
        kept, place = np.unique(np.concatenate([own, near[own].ravel()]), return_inverse=True)
        places = place[len(own) :].reshape(len(own), -1), place[: len(own)]
        given.append((mean[kept], residual[kept], *places, ~seen[kept]))
        seen[kept] = True
    found = moran_factors(moran_curve(given, restore), moran)
    np.testing.assert_allclose(residual * found, residual * factors(parts, moran, rows=counted), atol=1e-8)
    assert not np.allclose(residual * found, residual * factors(parts, moran), atol=1e-3)
    assert np.ptp(found) > 0.1


def test_the_number_of_genes_at_once_does_not_matter(parts, monkeypatch):
    mean, residual, near = parts

    def restored(values, genes):
        return values * np.linspace(1, 2, G)[genes] + np.arange(G)[genes]

    whole = moran_curve([(mean, residual, near, None, None)], restored)
    monkeypatch.setattr(moran_matching, "VALUES_AT_ONCE", 5 * len(mean))
    np.testing.assert_allclose(moran_curve([(mean, residual, near, None, None)], restored), whole, atol=1e-12)
    for gene in (0, 7, 11):
        expected = [
            neighbour_moran(restored(mean + step * residual, slice(None)), near)[gene] for step in moran_matching.STEPS
        ]
        np.testing.assert_allclose(whole[:, gene], expected, atol=1e-10)
