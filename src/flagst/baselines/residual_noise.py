"""Ridge regression with noise around it: the structure that noise gives without a diffusion model.

Each baseline draws a residual ``e`` in standardised units. It predicts ``clip((m + structure * e) * sd + mean, 0)``,
where ``m`` is the ridge prediction. The noise is fitted on *cross-fitted* residuals: those of spots that ridge has not
seen, as the residuals of its own training spots would be too small.
"""

from abc import abstractmethod
from math import erf, sqrt

import numpy as np

from flagst.baselines.ridge import Ridge
from flagst.data.sections import Section
from flagst.sampling.balanced_noise import balance_noise, leading_scores
from flagst.sampling.spot_noise import spot_noise

#: Added to the diagonal of the residual covariance, in standardised units.
JITTER = 1e-4


class ResidualNoise(Ridge):
    """Ridge plus ``structure`` times a drawn residual; structure 0 is exactly Ridge."""

    has_dial = True

    def _fit(self, sections: list[Section]) -> None:
        self._fit_noise(self._fit_mean(sections))

    def _predict_section(self, section: Section, *, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        mean = self.stage_.predict(section.image, section.neighbours)
        moved = mean
        if structure > 0:
            moved = mean + structure * self._draw(section, seed, mean)
        return self.stage_.scaler.restore(moved), self.stage_.scaler.restore(mean)

    @abstractmethod
    def _fit_noise(self, residual: np.ndarray) -> None:
        """Fit on cross-fitted residuals ``(n_spots, n_genes)``, standardised units."""

    @abstractmethod
    def _draw(self, section: Section, seed: int, mean: np.ndarray) -> np.ndarray:
        """A residual for every spot and gene around ``mean``, ``(n_spots, n_genes)`` each, standardised units."""

    def _gaussian(self, section: Section, seed: int, width: int) -> np.ndarray:
        """``(n_spots, width)`` standard normal, keyed by spot."""
        return spot_noise(section.name, section.spot_names, seed=seed, widths=(width,))[0].astype(np.float64)


class IndependentNoise(ResidualNoise):
    """Ridge with Gaussian noise that is independent between genes and spots.

    The noise of a gene has the standard deviation of its residual.

    Parameters
    ----------
    adata, target, setup
        Training table with image features ``(n_spots, d_image)``, and the rest as in
        :class:`flagst.baselines.Ridge`.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :class:`flagst.baselines.Ridge`.

    Examples
    --------
    >>> baseline = flagst.baselines.IndependentNoise(adata)
    >>> baseline.train()
    >>> prediction = baseline.predict(adata.copy(), structure=0.5, seed=1)
    >>> bool((prediction.layers["flagst"] != prediction.layers["flagst_mean"]).any())
    True
    """

    def _fit_noise(self, residual: np.ndarray) -> None:
        self.sd_ = residual.std(axis=0)

    def _draw(self, section: Section, seed: int, mean: np.ndarray) -> np.ndarray:
        return self._gaussian(section, seed, len(self.sd_)) * self.sd_


class ResidualBootstrap(ResidualNoise):
    """Ridge with the residual of a random training spot, all genes together.

    The mean residual is subtracted.

    Parameters
    ----------
    adata, target, setup
        Training table with image features ``(n_spots, d_image)``, and the rest as in
        :class:`flagst.baselines.Ridge`.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :class:`flagst.baselines.Ridge`.

    Examples
    --------
    >>> baseline = flagst.baselines.ResidualBootstrap(adata)
    >>> baseline.train()
    >>> prediction = baseline.predict(adata.copy(), structure=0.5, seed=1)
    >>> bool((prediction.layers["flagst"] != prediction.layers["flagst_mean"]).any())
    True
    """

    def _fit_noise(self, residual: np.ndarray) -> None:
        self.residual_ = residual - residual.mean(axis=0)

    def _draw(self, section: Section, seed: int, mean: np.ndarray) -> np.ndarray:
        # the normal distribution function turns a spot's own noise into its own uniform number
        uniform = np.array([(1 + erf(z / sqrt(2))) / 2 for z in self._gaussian(section, seed, 1)[:, 0]])
        n_rows = len(self.residual_)
        return self.residual_[np.minimum((uniform * n_rows).astype(int), n_rows - 1)]


class CorrelatedGaussian(ResidualNoise):
    """Ridge with Gaussian noise that has the gene-gene covariance of the residual.

    The noise is independent between spots.

    Parameters
    ----------
    adata, target, setup
        Training table with image features ``(n_spots, d_image)``, and the rest as in
        :class:`flagst.baselines.Ridge`.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :class:`flagst.baselines.Ridge`.

    Examples
    --------
    >>> baseline = flagst.baselines.CorrelatedGaussian(adata)
    >>> baseline.train()
    >>> prediction = baseline.predict(adata.copy(), structure=0.5, seed=1)
    >>> bool((prediction.layers["flagst"] != prediction.layers["flagst_mean"]).any())
    True
    """

    def _fit_noise(self, residual: np.ndarray) -> None:
        covariance = np.atleast_2d(np.cov(residual.T)) + JITTER * np.eye(residual.shape[1])
        self.root_ = np.linalg.cholesky(covariance)

    def _draw(self, section: Section, seed: int, mean: np.ndarray) -> np.ndarray:
        return self._gaussian(section, seed, len(self.root_)) @ self.root_.T


class BalancedGaussian(CorrelatedGaussian):
    """:class:`CorrelatedGaussian` with balanced noise, as FLAG's is.

    Balanced noise has fewer correlations by chance, see :func:`flagst.sampling.balanced_noise.balance_noise`. FLAG's
    predictions gain from that; this baseline gains from it too.

    Parameters
    ----------
    adata, target, setup
        Training table with image features ``(n_spots, d_image)``, and the rest as in
        :class:`flagst.baselines.Ridge`.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :class:`flagst.baselines.Ridge`.

    Examples
    --------
    >>> baseline = flagst.baselines.BalancedGaussian(adata)
    >>> baseline.train()
    >>> prediction = baseline.predict(adata.copy(), structure=0.5, seed=1)
    >>> bool((prediction.layers["flagst"] != prediction.layers["flagst_mean"]).any())
    True
    """

    def _draw(self, section: Section, seed: int, mean: np.ndarray) -> np.ndarray:
        noise = self._gaussian(section, seed, len(self.root_))
        return balance_noise(noise, leading_scores(mean), np.empty((len(mean), 0))) @ self.root_.T
