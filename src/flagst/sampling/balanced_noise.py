"""Noise of one section with as few chance correlations as its size allows."""

import numpy as np

from flagst.regression import LatentBasis

#: Leading components of the mean that noise is made uncorrelated with.
N_MEAN = 5
#: A spot keeps its noise when more than this share of it lies along the axes, the constant included.
MAX_LEVERAGE = 0.75
#: With fewer spots per axis too few directions are left.
SPOTS_PER_AXIS = 4
#: Chance correlations of more spots have a standard deviation below 0.016. Wider panels would take long.
MAX_SPOTS, MAX_VALUES, MAX_RANK = 4096, 2**22, 1024


def can_balance(n_spots: int, n_genes: int) -> bool:
    """Whether a section and panel have a size for which :func:`balance_noise` works."""
    return n_spots <= MAX_SPOTS and n_spots * n_genes <= MAX_VALUES and min(n_spots, n_genes) <= MAX_RANK


def balanced(
    latent: LatentBasis, state: np.ndarray, noise: np.ndarray, shared: np.ndarray, leading: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn what was sampled into the inputs of :meth:`LatentBasis.decode`.

    Parameters
    ----------
    latent
        The basis; latent dimensions that it does not have are dropped.
    state, noise, shared
        ``(n_spots, d_state)``, ``(n_spots, n_genes)`` and ``(n_spots, d_state)``, sampled independently.
    leading
        Scores of the mean over a whole section. With them latent components become uncorrelated, see
        :func:`uncorrelated`, and the noise is balanced, see :func:`balance_noise`. ``None`` leaves both unmodified.
    """
    n_latent = len(latent.sd)
    state, shared = state[:, :n_latent], shared[:, :n_latent]
    if leading is not None:
        together = state + shared * latent.shared_sd
        apart = uncorrelated(together)
        state, noise = state + (apart - together), balance_noise(noise, leading, apart)
    return state, noise, shared


def balance_noise(noise: np.ndarray, leading: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Remove chance correlations of noise with the mean, with the state, and between genes, over one section.

    Independent numbers of ``n`` spots have chance correlations of about ``1 / sqrt(n)``, as large for a few hundred
    spots as the correlations of many genes. They hide the correlations that a sample is meant to have. The noise is
    projected off a constant, the leading scores of the mean and the state. Then it is replaced by the nearest noise
    whose genes are uncorrelated. With more genes than remaining directions there is no such noise, and the result is as
    little correlated as possible: half as much for 200 genes in 181 spots. Spots with a leverage above three quarters
    keep their noise.

    Parameters
    ----------
    noise
        ``(n_spots, n_genes)`` independent, standard normal.
    leading
        ``(n_spots, at most 5)`` scores of the regression mean, see :func:`leading_scores`.
    state
        ``(n_spots, n_latent)`` sampled state.

    Returns
    -------
    ``(n_spots, n_genes)`` of the type of ``noise``: every gene with mean 0 and variance 1 over the spots. The noise
    itself where there are fewer than four spots per axis, and in sections :func:`can_balance` is not for.

    Source
    ------
    Moment matching, a reduction of variance in simulation: Barraquand, Journal of Financial and Quantitative Analysis
    1995. The nearest orthogonal matrix is that of Loewdin, Journal of Chemical Physics 1950.
    """
    n_spots, n_genes = noise.shape
    columns = np.column_stack([np.ones(n_spots), leading, state])
    if not can_balance(n_spots, n_genes) or n_spots < SPOTS_PER_AXIS * columns.shape[1]:
        return noise
    along = _axes(columns)
    free = noise - along @ (along.T @ noise.astype(np.float64))
    even = _nearest_orthogonal(free)
    even -= even.mean(axis=0)  # 0 but for spots that keep their noise
    return (even / np.maximum(even.std(axis=0), 1e-12)).astype(noise.dtype)


def uncorrelated(values: np.ndarray) -> np.ndarray:
    """The nearest components whose columns are uncorrelated over the spots of a section.

    Smooth fields over a few hundred spots have much stronger chance correlations than independent numbers, and the
    components carry most of what genes have in common. Over the training sections, where they were fitted, components
    are uncorrelated.

    Parameters
    ----------
    values
        ``(n_spots, n_latent)``.

    Returns
    -------
    ``(n_spots, n_latent)`` of the type of ``values``: every column keeps its mean and variance. The values themselves
    where there are fewer than four spots per column, or none varies.

    Source
    ------
    As of :func:`balance_noise`.
    """
    n_spots, n_latent = values.shape
    if n_spots < SPOTS_PER_AXIS * n_latent:
        return values
    mean, sd = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    varies = sd > 1e-9 * max(sd.max(), 1e-300)
    if not varies.any():
        return values
    even = _nearest_orthogonal((values[:, varies] - mean[varies]) / sd[varies])
    out = values.copy()
    out[:, varies] = mean[varies] + even / np.maximum(even.std(axis=0), 1e-12) * sd[varies]
    return out


def leading_scores(mean: np.ndarray) -> np.ndarray:
    """Scores of the five leading principal components of a mean ``(n_spots, n_genes)``, ``(n_spots, at most 5)``."""
    centred = mean - mean.mean(axis=0)
    wide = mean.shape[1] > len(mean)
    values, axes = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = np.arange(len(values))[-N_MEAN:]
    kept = kept[values[kept] > 1e-12 * max(values[-1], 1e-300)]  # the rest is rounding
    return axes[:, kept] * np.sqrt(values[kept]) if wide else centred @ axes[:, kept]


def _nearest_orthogonal(values: np.ndarray) -> np.ndarray:
    """Nearest matrix with orthonormal columns; where there are too few directions, as near as there is."""
    tall = values.shape[1] <= values.shape[0]
    squares, axes = np.linalg.eigh(values.T @ values if tall else values @ values.T)
    kept = squares > 1e-10 * squares[-1]
    inverse_root = (axes[:, kept] / np.sqrt(squares[kept])) @ axes[:, kept].T
    return values @ inverse_root if tall else inverse_root @ values


def _axes(columns: np.ndarray) -> np.ndarray:
    """Orthonormal axes ``(n_spots, at most n_columns)`` of the span of the columns, 0 at spots of high leverage.

    A spot that alone determines an axis would lose its noise, and the most unusual tissue would vary least.
    """
    columns = columns.copy()
    while True:
        axes = _orthonormal(columns)
        lost = (axes**2).sum(axis=1) > MAX_LEVERAGE
        if not lost.any():
            return axes
        columns[lost] = 0


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the span of the columns; zero and dependent columns are left out."""
    length = np.linalg.norm(columns, axis=0)
    used = length > 1e-9 * length.max()
    left, values, _ = np.linalg.svd(columns[:, used] / length[used], full_matrices=False)
    return left[:, values > 1e-6]
