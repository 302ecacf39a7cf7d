"""The diffusion state: what the regression mean leaves over, on a few whitened components.

The state of a spot is ``z = E u``: ``u`` the residual of the cross-fitted mean, centred per section
and standardised per gene; ``E`` the projection on its leading principal components, each scaled to
unit variance. What the components do not carry comes back as independent noise per gene, and what
drawn states lack in spatial covariance as noise on the components that neighbours share.
"""

from dataclasses import dataclass

import numpy as np

from flagst.regression.axes import principal_axes
from flagst.regression.balance import balance_noise, uncorrelated


@dataclass(frozen=True)
class ResidualModel:
    """Whitened principal components of the cross-fitted residual, and the noise beside them.

    Attributes
    ----------
    scale
        ``(n_genes,)`` standard deviation of the residual, in standardised target units.
    components
        ``(n_latent, n_genes)`` orthonormal axes.
    sd
        ``(n_latent,)`` standard deviation along them.
    noise
        ``(n_genes,)`` standard deviation of what is left, in units of ``scale``.
    jitter
        ``(n_latent,)`` standard deviation of noise added to drawn states, in units of the state.
    """

    scale: np.ndarray
    components: np.ndarray
    sd: np.ndarray
    noise: np.ndarray
    jitter: np.ndarray

    @classmethod
    def fit(cls, residual: np.ndarray, section: np.ndarray, *, n_latent: int) -> tuple["ResidualModel", np.ndarray]:
        """Fit on held-out residuals.

        Parameters
        ----------
        residual
            ``(n_spots, n_genes)``: standardised target minus its cross-fitted mean.
        section
            ``(n_spots,)`` section of each spot. The mean of a section is taken out: it is one
            number per slide, and three slides say little about its distribution.
        n_latent
            Number of components. ``n_genes`` or more gives all of them.

        Returns
        -------
        The model and the ``(n_spots, n_latent)`` states.
        """
        centred = residual - section_means(residual, section)
        scale = centred.std(axis=0)
        scale = np.where(scale > 1e-8, scale, 1.0)
        unit = centred / scale
        components, sd = principal_axes(unit, n_latent)
        state = unit @ components.T / sd
        noise = (unit - (state * sd) @ components).std(axis=0)
        return cls(scale, components, sd, noise, np.zeros(len(sd))), state

    def decodable(
        self, state: np.ndarray, noise: np.ndarray, state_noise: np.ndarray, leading: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What :meth:`decode` takes, of what was drawn: without components that are not there.

        Given ``leading``, the mean's scores over a whole section, with fewer correlations by chance: between
        components, see :func:`flagst.regression.balance.uncorrelated`, and of the noise,
        :func:`flagst.regression.balance.balance_noise`.
        """
        n_latent = len(self.sd)
        state, state_noise = state[:, :n_latent], state_noise[:, :n_latent]
        if leading is not None:
            together = state + state_noise * self.jitter
            apart = uncorrelated(together)
            state, noise = state + (apart - together), balance_noise(noise, leading, apart)
        return state, noise, state_noise

    def decode(self, state: np.ndarray, noise: np.ndarray, state_noise: np.ndarray) -> np.ndarray:
        """State and standard normal noise to a residual.

        Parameters
        ----------
        state
            ``(n_spots, n_latent)``.
        noise
            ``(n_spots, n_genes)`` standard normal; independent, or balanced over a section
            (:func:`flagst.regression.balance.balance_noise`).
        state_noise
            ``(n_spots, n_latent)`` standard normal, independent between components.

        Returns
        -------
        ``(n_spots, n_genes)`` in standardised target units.
        """
        moved = (state + state_noise * self.jitter) * self.sd
        return (moved @ self.components + noise * self.noise) * self.scale


def section_means(values: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Mean of each spot's section, ``(n_spots, n_columns)``."""
    _, code = np.unique(section, return_inverse=True)
    sums = np.zeros((code.max() + 1, values.shape[1]))
    np.add.at(sums, code, values)
    return (sums / np.bincount(code)[:, None])[code]
