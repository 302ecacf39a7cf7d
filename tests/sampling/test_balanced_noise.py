"""Balanced noise: no chance correlation with anything in the section, and still noise; in samples by default."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg

from flagst.regression import LatentBasis
from flagst.sampling import balanced_noise, sampler
from flagst.sampling.balanced_noise import balance_noise, balanced, leading_scores, uncorrelated
from flagst.sampling.sampler import SectionSampler

N_SPOTS, N_LATENT = 200, 4


def sampled(n_genes, n_spots=N_SPOTS, seed=0):
    """Noise, a mean of a few programmes, a state."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(n_spots, 3)) @ rng.normal(size=(3, n_genes)) + 0.1 * rng.normal(size=(n_spots, n_genes))
    return rng.normal(size=(n_spots, n_genes)).astype(np.float32), mean, rng.normal(size=(n_spots, N_LATENT)) + 1


def correlations(values):
    return np.corrcoef(values.T)[np.triu_indices(values.shape[1], 1)]


@pytest.mark.parametrize("n_genes", [1, 30, 150])
def test_no_two_genes_are_correlated(n_genes):
    noise, mean, state = sampled(n_genes)
    even = balance_noise(noise, leading_scores(mean), state)
    assert even.dtype == np.float32
    np.testing.assert_allclose(even.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(even.std(axis=0), 1, atol=1e-5)
    if n_genes > 1:
        assert np.abs(correlations(even)).max() < 1e-5 and np.abs(correlations(noise)).max() > 0.15


def test_more_genes_than_spots_are_as_uncorrelated_as_they_can_be():
    noise, mean, state = sampled(500)
    even = balance_noise(noise, leading_scores(mean), state)
    rank = N_SPOTS - 1 - balanced_noise.N_MEAN - N_LATENT
    least = np.sqrt((500 - rank) / (rank * 499))  # root mean square of the correlations: Welch's bound
    found = np.sqrt((correlations(even) ** 2).mean())
    assert least * 0.999 < found < least * 1.02 < np.sqrt((correlations(noise) ** 2).mean())


def test_nor_with_the_mean_or_the_state():
    noise, mean, state = sampled(30)
    even = balance_noise(noise, leading_scores(mean), state)
    for other in (state, np.linalg.svd(mean - mean.mean(axis=0))[0][:, : balanced_noise.N_MEAN]):
        cross = np.corrcoef(even.T, other.T)[:30, 30:]
        assert np.abs(cross).max() < 1e-5


def test_noise_stays_close_to_what_it_was_and_normal():
    noise, mean, state = sampled(30)
    even = balance_noise(noise, leading_scores(mean), state)
    kept = [np.corrcoef(a, b)[0, 1] for a, b in zip(noise.T, even.T, strict=True)]
    assert min(kept) > 0.9
    pooled = even.ravel()
    assert abs((pooled**3).mean()) < 0.1 and (pooled**4).mean() == pytest.approx(3, abs=0.2)
    assert np.quantile(pooled, 0.95) == pytest.approx(1.645, abs=0.05)


@pytest.mark.parametrize("n_genes", [30, 500])
def test_leading_scores_are_those_of_a_singular_value_decomposition(n_genes):
    _, mean, _ = sampled(n_genes)
    left, values, _ = np.linalg.svd(mean - mean.mean(axis=0), full_matrices=False)
    expected = left[:, : balanced_noise.N_MEAN] * values[: balanced_noise.N_MEAN]
    found = leading_scores(mean)
    np.testing.assert_allclose(np.abs(found[:, ::-1]), np.abs(expected), atol=1e-8)


def test_constant_or_repeated_columns_change_nothing():
    noise, mean, state = sampled(30)
    constant = np.ones((N_SPOTS, 1))
    with_them = balance_noise(noise, np.zeros((N_SPOTS, 2)), np.hstack([state, state[:, :1] * 2, constant]))
    np.testing.assert_allclose(with_them, balance_noise(noise, np.empty((N_SPOTS, 0)), state), atol=1e-5)


@pytest.mark.parametrize("n_genes", [30, 300])
def test_the_order_of_spots_does_not_matter_whatever_the_rank_of_the_mean(n_genes):
    noise, _, state = sampled(n_genes)
    rng = np.random.default_rng(1)
    order = rng.permutation(N_SPOTS)
    for rank in (0, 1, 20):
        mean = rng.normal(size=(N_SPOTS, rank)) @ rng.normal(size=(rank, n_genes)) + 2
        scores = leading_scores(mean)
        assert scores.shape[1] == min(rank, balanced_noise.N_MEAN)
        even = balance_noise(noise, scores, state)
        permuted = balance_noise(noise[order], leading_scores(mean[order]), state[order])
        np.testing.assert_allclose(permuted, even[order], atol=1e-4)


@pytest.mark.parametrize("n_genes", [30, 300])
def test_no_spot_loses_its_noise(n_genes):
    _, mean, state = sampled(n_genes)
    mean[0] += 100 * mean.std()
    even = [balance_noise(sampled(n_genes, seed=seed)[0], leading_scores(mean), state)[0] for seed in range(20)]
    assert 0.85 < np.std(even) < 1.15


def test_too_few_spots_too_many_or_too_many_genes_stay_unmodified(monkeypatch):
    n_axes = 1 + balanced_noise.N_MEAN + N_LATENT
    for n_spots, changes in ((4 * n_axes - 1, False), (4 * n_axes, True)):
        noise, mean, state = sampled(8, n_spots)
        assert (balance_noise(noise, leading_scores(mean), state) is not noise) == changes
    noise, mean, state = sampled(8)
    for name, limit in (("MAX_SPOTS", N_SPOTS - 1), ("MAX_VALUES", N_SPOTS * 8 - 1), ("MAX_RANK", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(balanced_noise, name, limit)
            assert balance_noise(noise, leading_scores(mean), state) is noise


def test_components_are_made_uncorrelated_and_keep_their_mean_and_variance():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(N_SPOTS, N_LATENT)).cumsum(axis=0) * [0.1, 0.2, 0.3, 0.4] + 1).astype(np.float32)
    apart = uncorrelated(values)
    assert apart.dtype == np.float32
    assert np.abs(correlations(apart)).max() < 1e-5 and np.abs(correlations(values)).max() > 0.3
    np.testing.assert_allclose(apart.mean(axis=0), values.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(apart.std(axis=0), values.std(axis=0), rtol=1e-4)


def test_components_move_no_further_than_they_have_to():
    """Of all uncorrelated columns those are nearest: of the inverse root of the correlations, by its definition."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(N_SPOTS, N_LATENT)) @ rng.normal(size=(N_LATENT, N_LATENT))
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    expected = values @ np.linalg.inv(scipy.linalg.sqrtm(np.corrcoef(values.T)))
    np.testing.assert_allclose(uncorrelated(values), expected, atol=1e-8)
    np.testing.assert_allclose(uncorrelated(expected), expected, atol=1e-8)


def test_constant_or_repeated_components_stay_finite():
    rng = np.random.default_rng(2)
    column = rng.normal(size=(N_SPOTS, 1))
    values = np.hstack([column, np.full_like(column, 3.0), column, rng.normal(size=column.shape)])
    apart = uncorrelated(values)
    assert np.isfinite(apart).all()
    np.testing.assert_array_equal(apart[:, 1], 3)
    few, flat = values[: 4 * values.shape[1] - 1], np.ones_like(values)
    assert uncorrelated(few) is few and uncorrelated(flat) is flat


def test_decoder_inputs_have_uncorrelated_components_and_noise_beside_them():
    """Of state and shared noise together, which is what is decoded."""
    rng = np.random.default_rng(3)
    n_genes = 30
    state, shared = (rng.normal(size=(N_SPOTS, N_LATENT + 1)).astype(np.float32) for _ in range(2))
    state = state.cumsum(axis=0) / 5
    noise, mean, _ = sampled(n_genes)
    latent = LatentBasis(
        scale=np.ones(n_genes),
        components=np.linalg.qr(rng.normal(size=(n_genes, N_LATENT)))[0].T,
        sd=np.ones(N_LATENT),
        noise_sd=np.ones(n_genes),
        shared_sd=np.linspace(0, 0.9, N_LATENT),
    )
    free, even = (balanced(latent, state, noise, shared, leading) for leading in (None, leading_scores(mean)))
    together = [z + w * latent.shared_sd for z, _, w in (free, even)]
    np.testing.assert_allclose(together[1], uncorrelated(together[0]), atol=1e-5)
    assert np.abs(correlations(together[1])).max() < 1e-4 < 0.3 < np.abs(correlations(together[0])).max()
    assert np.abs(np.corrcoef(even[1].T, together[1].T)[:n_genes, n_genes:]).max() < 1e-4
    np.testing.assert_array_equal(even[2], shared[:, :N_LATENT])


@pytest.fixture(scope="module")
def models(make):
    """Quick models, with balanced noise or not."""

    def train(**changes):
        model = make.model(make.table(), **changes)
        model.train(**make.QUICK)
        return model

    return {True: train(), False: train(balance_noise=False)}


@pytest.fixture(scope="module")
def slide(make):
    """A section of 200 spots."""
    return make.table(names=("X",), n_spots=N_SPOTS, seed=7)


def noise_and_state(sampler, number=0):
    """Gene noise of a sample, and its state with the shared noise."""
    state, noise, shared = sampler.decoder_inputs(f"0/{number}", sampler.everything)
    return noise, state + shared * sampler.fitted.latent.shared_sd


def chance(noise, state):
    """Largest correlation between the noises of two genes, or of one with the state."""
    found = np.corrcoef(noise.T, state.T)
    return np.abs(found[: noise.shape[1]][:, : len(found)] - np.eye(noise.shape[1], len(found))).max()


def test_noise_of_every_sample_is_balanced_by_default(models, slide):
    assert models[True].settings_.balance_noise
    for is_balanced, model in models.items():
        [(_, one)] = model._samplers(slide)
        found = [chance(*noise_and_state(one, number)) for number in range(2)]
        assert max(found) < 1e-4 if is_balanced else min(found) > 0.1
        first, second = (noise_and_state(one, number)[0] for number in range(2))
        assert np.abs(first - second).mean() > 0.5  # every sample has its own


def test_samples_behind_the_intervals_are_balanced_too(models, slide):
    [(_, one)] = models[True]._samplers(slide)
    part, seen = one.whole(), []
    part.latent = SimpleNamespace(decode=lambda *inputs: seen.append(inputs) or np.zeros_like(part.mean))
    assert len(list(part.resampled(1, 3, "x"))) == len(seen) == 3
    for state, noise, shared in seen:
        assert chance(noise, state + shared * one.fitted.latent.shared_sd) < 1e-4
    assert list(one.states) == ["x/0/0"]  # one state, with three noises beside it
    assert np.abs(seen[0][1] - seen[1][1]).mean() > 0.5 and np.abs(seen[0][2] - seen[1][2]).mean() > 0.5


def test_windows_have_the_same_noise(models, slide):
    model = models[True]
    [(_, whole)], [(_, cut)] = (model._samplers(slide, window_spots=size) for size in (10**6, 60))
    assert whole.at_once and not cut.at_once
    np.testing.assert_allclose(cut.decoder_inputs("0/0", np.arange(200))[1], noise_and_state(whole)[0], atol=1e-3)
    layers = [model.predict(slide.copy(), window_spots=size).layers["flagst"] for size in (10**6, 60)]
    np.testing.assert_allclose(*layers, atol=1e-3)
    unbalanced = models[False].predict(slide.copy(), window_spots=60).layers["flagst"]
    assert np.abs(layers[1] - unbalanced).max() > 0.05


def test_windows_keep_the_noise_of_few_samples_and_drop_it_at_the_end(models, slide, monkeypatch):
    n_genes = len(models[True].genes_)
    monkeypatch.setattr(sampler, "HELD_VALUES", 2 * slide.n_obs * n_genes)
    monkeypatch.setattr(sampler, "DECODED_VALUES", 50 * n_genes)
    [(_, cut)] = models[True]._samplers(slide, streamed=True)
    held, samples = [], []
    for _, part in cut.parts(3):
        samples.append(part.samples(3, 0))
        held.append(len(cut._noise))
    assert set(held) == {2} and not cut._noise and len(samples) > 1
    [(_, whole)] = models[True]._samplers(slide, window_spots=10**6)
    np.testing.assert_allclose(np.concatenate(samples, axis=1), whole.samples(3, 0), atol=1e-3)


def test_an_extreme_spot_varies_as_much_as_all_others(models, slide):
    [(_, one)] = models[True]._samplers(slide)
    mean = one.mean_of(one.everything).copy()
    mean[7] += 30  # far out on every component
    extreme = SectionSampler(one.section, one.fitted, one.settings, one.module, mean=mean)
    noise = np.stack([noise_and_state(extreme, number)[0][7] for number in range(20)])
    assert 0.85 < noise.std() < 1.15


def test_large_sections_stay_unmodified_in_one_window_or_several(models, slide, monkeypatch):
    monkeypatch.setattr(balanced_noise, "MAX_SPOTS", N_SPOTS - 1)
    [(_, whole)], [(_, cut)] = (models[True]._samplers(slide, streamed=streamed) for streamed in (False, True))
    assert whole.settings.balance_noise and not whole.balanced and not cut.balanced
    assert chance(*noise_and_state(whole)) > 0.1
    layers = [models[True].predict(slide.copy(), window_spots=size).layers["flagst"] for size in (10**6, 60)]
    np.testing.assert_allclose(*layers, atol=1e-4)
