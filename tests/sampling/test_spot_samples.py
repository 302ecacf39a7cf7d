"""From the mean and sampled residuals to predictions, on a toy whose residuals are known."""

import numpy as np
import pytest

from flagst.sampling.spot_samples import SpotSamples, pooled_sd

N_SPOTS, N_GENES = 60, 4


class Toy(SpotSamples):
    """Residuals keyed by the seed and their number, and a count of how many were sampled."""

    def __init__(self, n_average=None):
        self.mean, self.n_average, self.n_sampled = (
            np.random.default_rng(0).normal(size=(N_SPOTS, N_GENES)),
            n_average,
            0,
        )

    def restore(self, standardised):
        return np.clip(2 * standardised + 1, 0, None)

    def residuals(self, n_samples, seed):
        self.n_sampled += n_samples
        return [np.random.default_rng([seed, i]).normal(size=(N_SPOTS, N_GENES)) for i in range(n_samples)]


@pytest.mark.parametrize("structure", [0.0, 0.3, 1.0])
def test_a_prediction_is_the_mean_and_a_share_of_one_residual(structure):
    toy = Toy()
    [residual] = Toy().residuals(1, 3)
    prediction, mean = toy.predict(structure, 3)
    np.testing.assert_allclose(mean, np.clip(2 * toy.mean + 1, 0, None), rtol=1e-6)
    np.testing.assert_allclose(prediction, np.clip(2 * (toy.mean + structure * residual) + 1, 0, None), rtol=1e-6)
    assert prediction.dtype == mean.dtype == np.float32 and prediction.min() == 0
    assert toy.n_sampled == (structure > 0)  # nothing is sampled for the mean


def test_samples_have_structure_one_and_the_first_is_behind_the_prediction():
    samples = Toy().samples(3, 5)
    assert samples.shape == (3, N_SPOTS, N_GENES) and samples.dtype == np.float32
    np.testing.assert_array_equal(samples[0], Toy().predict(1.0, 5)[0])
    assert np.abs(samples[0] - samples[1]).mean() > 0.5


def test_predictions_along_structures_share_their_residuals():
    toy = Toy()
    found = dict(toy.along((0.0, 0.5, 1.0), 3, 7))
    assert toy.n_sampled == 3 and [len(values) for values in found.values()] == [1, 3, 3]
    np.testing.assert_array_equal(found[0.0][0], toy.predict(0.0, 7)[1])
    np.testing.assert_array_equal(found[0.5][0], toy.predict(0.5, 7)[0])
    np.testing.assert_array_equal(found[1.0], toy.samples(3, 7))


def test_without_a_regression_mean_samples_of_the_target_are_averaged():
    toy = Toy(n_average=4)
    samples = toy.samples(4, 2)
    np.testing.assert_array_equal(samples, np.clip(Toy().residuals(4, 2), 0, None))  # not restored
    for values in toy.predict(0.3, 2):
        np.testing.assert_array_equal(values, samples.mean(axis=0))
    [(structure, prediction)] = toy.along((0.0, 0.5), 3, 2)
    assert np.isnan(structure)
    np.testing.assert_array_equal(prediction, samples.mean(axis=0)[None])


def test_the_pooled_standard_deviation_of_parts_is_that_of_the_section():
    samples = Toy().samples(20, 0)
    found = pooled_sd(np.split(samples, [10, 11, 40], axis=1))
    assert found.shape == (N_GENES,) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.sqrt(samples.astype(float).var(axis=0, ddof=1).mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(found, pooled_sd([samples]), rtol=1e-6)
