"""The latent basis: few whitened components of what the regression mean leaves over.

The state of a spot is ``z = E u``. Here ``u`` is the residual of the cross-fitted mean, centred per section and
standardised per gene, and ``E`` is the projection on its leading principal components, each scaled to unit variance.
"""

from dataclasses import dataclass

import numpy as np

from flagst.regression.pca import principal_axes


@dataclass(frozen=True)
class LatentBasis:
    """Whitened principal components of the cross-fitted residual, and the scale of the noise beside them.

    Attributes
    ----------
    scale
        ``(n_genes,)`` standard deviation of the residual, in standardised target units.
    components
        ``(n_latent, n_genes)`` orthonormal axes.
    sd
        ``(n_latent,)`` standard deviation along them.
    noise_sd
        ``(n_genes,)`` standard deviation of what is left, in units of ``scale``.
    shared_sd
        ``(n_latent,)`` standard deviation of the noise that neighbours share, in units of the state.

    Examples
    --------
    >>> from flagst.regression import LatentBasis
    >>> residual = np.random.default_rng(0).normal(size=(100, 6))
    >>> basis, state = LatentBasis.fit(residual, np.zeros(100), n_latent=2)
    >>> state.shape, state.std(axis=0).round(6)
    ((100, 2), array([1., 1.]))
    """

    scale: np.ndarray
    components: np.ndarray
    sd: np.ndarray
    noise_sd: np.ndarray
    shared_sd: np.ndarray

    @classmethod
    def fit(cls, residual: np.ndarray, section: np.ndarray, *, n_latent: int) -> tuple["LatentBasis", np.ndarray]:
        """Fit on held-out residuals.

        Parameters
        ----------
        residual
            ``(n_spots, n_genes)``: standardised target minus its cross-fitted mean.
        section
            ``(n_spots,)`` section of each spot. The mean of a section is subtracted: it is one number per slide, and
            three slides say little about its distribution.
        n_latent
            Number of components. ``n_genes`` or more gives all of them.

        Returns
        -------
        The basis and the states, ``(n_spots, n_latent)`` float64 of unit variance.

        Examples
        --------
        >>> from flagst.regression import LatentBasis
        >>> residual = np.random.default_rng(0).normal(size=(100, 6))
        >>> basis, state = LatentBasis.fit(residual, np.zeros(100), n_latent=2)
        >>> basis.components.shape
        (2, 6)
        """
        centred = residual - section_means(residual, section)
        scale = centred.std(axis=0)
        scale = np.where(scale > 1e-8, scale, 1.0)
        unit = centred / scale
        components, sd = principal_axes(unit, n_latent)
        state = unit @ components.T / sd
        noise_sd = (unit - (state * sd) @ components).std(axis=0)
        return cls(scale, components, sd, noise_sd, np.zeros(len(sd))), state

    def decode(self, state: np.ndarray, noise: np.ndarray, shared: np.ndarray) -> np.ndarray:
        """State and standard normal noise to a residual.

        Parameters
        ----------
        state, shared
            ``(n_spots, n_latent)``: the state, and the noise that neighbours share.
        noise
            ``(n_spots, n_genes)`` noise of each gene.

        Returns
        -------
        ``(n_spots, n_genes)`` float64 in standardised target units.

        Examples
        --------
        >>> from flagst.regression import LatentBasis
        >>> residual = np.random.default_rng(0).normal(size=(100, 6))
        >>> basis, state = LatentBasis.fit(residual, np.zeros(100), n_latent=6)
        >>> decoded = basis.decode(state, np.zeros((100, 6)), np.zeros((100, 6)))
        >>> np.allclose(decoded, residual - residual.mean(axis=0))
        True
        """
        moved = (state + shared * self.shared_sd) * self.sd
        return (moved @ self.components + noise * self.noise_sd) * self.scale


def section_means(values: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Mean of each spot's section, ``(n_spots, n_columns)``."""
    _, code = np.unique(section, return_inverse=True)
    sums = np.zeros((code.max() + 1, values.shape[1]))
    np.add.at(sums, code, values)
    return (sums / np.bincount(code)[:, None])[code]
