"""Noise of one section without the correlations it has by chance."""

import numpy as np

#: Leading components of the mean that noise is made uncorrelated with.
N_MEAN = 5
#: Fewer spots than this many times the axes have too few directions to give away.
SPOTS_PER_AXIS = 4
#: In larger sections chance correlations are below 0.016; they, and larger panels, would take long.
MAX_SPOTS, MAX_VALUES = 4096, 2**22


def balances(n_spots: int, n_genes: int) -> bool:
    """Whether :func:`balance_noise` is for a section and panel of that size."""
    return n_spots <= MAX_SPOTS and n_spots * n_genes <= MAX_VALUES


def balance_noise(noise: np.ndarray, leading: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Make noise uncorrelated, over the spots of a section, with the mean, the state, and between genes.

    Independent numbers of a few hundred spots are correlated by chance, by one over the root of their number: as
    strongly as many genes are. A measured section has chance correlations too, but others, so that those of a draw
    only hide the ones that are meant. Here they are taken out: the noise is projected off a constant, the five leading
    principal components of the mean and the state, then turned into the nearest noise whose genes are uncorrelated (or,
    of more genes than spots, as little as so few spots allow).

    Parameters
    ----------
    noise
        ``(n_spots, n_genes)`` independent, standard normal.
    leading
        ``(n_spots, at most 5)`` scores of the regression mean, see :func:`leading_scores`.
    state
        ``(n_spots, n_latent)`` drawn state.

    Returns
    -------
    ``(n_spots, n_genes)`` of the type of ``noise``: every gene with mean 0 and variance 1 over the spots. The noise
    itself where there are fewer than four spots per axis, and in sections :func:`balances` is not for.

    Source
    ------
    Moment matching, a reduction of variance in simulation: Barraquand, Journal of Financial and Quantitative Analysis
    1995. The nearest orthogonal matrix is that of Loewdin, Journal of Chemical Physics 1950.
    """
    n_spots, n_genes = noise.shape
    axes = np.column_stack([np.ones(n_spots), leading, state])
    if not balances(n_spots, n_genes) or n_spots < SPOTS_PER_AXIS * axes.shape[1]:
        return noise
    basis = _basis(axes)
    free = noise - basis @ (basis.T @ noise.astype(np.float64))
    by_genes = n_genes <= n_spots
    values, axes = np.linalg.eigh(free.T @ free if by_genes else free @ free.T)
    kept = values > 1e-10 * values[-1]
    inverse_root = (axes[:, kept] / np.sqrt(values[kept])) @ axes[:, kept].T
    even = free @ inverse_root if by_genes else inverse_root @ free
    return (even / np.maximum(even.std(axis=0), 1e-12)).astype(noise.dtype)


def leading_scores(mean: np.ndarray) -> np.ndarray:
    """Scores of the five leading principal components of a mean ``(n_spots, n_genes)``, ``(n_spots, at most 5)``."""
    centred = mean - mean.mean(axis=0)
    if mean.shape[1] <= len(mean):
        axes = np.linalg.eigh(centred.T @ centred)[1]
        return centred @ axes[:, -N_MEAN:]
    values, axes = np.linalg.eigh(centred @ centred.T)
    return axes[:, -N_MEAN:] * np.sqrt(np.clip(values[-N_MEAN:], 0, None))


def _basis(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis of what columns span; those that others or nothing make up are left out."""
    length = np.linalg.norm(columns, axis=0)
    columns = columns[:, length > 1e-9 * length.max()] / length[length > 1e-9 * length.max()]
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, values > 1e-6]
