"""The noise beside the latent components, shared out so that the right genes are ordered in space."""

from dataclasses import replace

import numpy as np

from flagst.regression.residual import ResidualModel
from flagst.regression.scaler import TargetScaler

#: The scale of a gene's noise may change by at most this factor, up or down.
MAX_FACTOR = 2.0
N_DRAWS = 4
N_HALVINGS = 12


def match_spatial_order(
    residual: ResidualModel,
    scaler: TargetScaler,
    means: list[np.ndarray],
    states: list[np.ndarray],
    targets: list[np.ndarray],
    neighbours: list[np.ndarray],
    *,
    seed: int = 0,
) -> ResidualModel:
    """Rescale the noise of each gene until Moran's I of stand-in draws equals the measured one.

    The noise that fits a gene's residual variance does not give the gene its spatial order: clipping
    at zero eats noise, counts are skewed, and the mean is smoother in some genes than in others.
    So the scale is set by the quantity itself. A stand-in draw is the cross-fitted mean, plus random
    states as smooth over the section as the measured ones, plus noise; the trained diffusion is no
    use here, as it has seen these sections. The total variance of the noise over genes stays as it
    was: this says which genes get how much of it.

    Parameters
    ----------
    residual
        Fitted model; its ``noise`` is rescaled, by a factor of two at most.
    scaler
        Of the target.
    means, states, targets
        Per training section: cross-fitted standardised mean ``(n_spots, n_genes)``, clean states
        ``(n_spots, n_latent)``, measured target ``(n_spots, n_genes)``.
    neighbours
        Per training section ``(n_spots, k)``, the neighbours Moran's I is taken over.
    seed
        Of the stand-in draws.

    Returns
    -------
    The model with another ``noise``.
    """
    rng = np.random.default_rng(seed)
    measured = np.mean([_moran(t, n) for t, n in zip(targets, neighbours, strict=True)], axis=0)
    smoothness = np.mean([_moran(s, n) for s, n in zip(states, neighbours, strict=True)], axis=0)
    weight = _smoothing_weight(smoothness, neighbours, rng)
    draws = []
    for mean, near in zip(means, neighbours, strict=True):
        for _ in range(N_DRAWS):
            state = _smooth_field(rng.standard_normal((len(near), len(weight))), near, weight)
            draws.append((mean, (state, rng.standard_normal(mean.shape), np.zeros_like(state)), near))

    def order(factor: np.ndarray) -> np.ndarray:
        scaled = replace(residual, noise=residual.noise * factor)
        return np.mean([_moran(scaler.restore(m + scaled.decode(*drawn)), n) for m, drawn, n in draws], axis=0)

    low, high = np.full(len(measured), -np.log(MAX_FACTOR)), np.full(len(measured), np.log(MAX_FACTOR))
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        too_ordered = order(np.exp(middle)) > measured
        low, high = np.where(too_ordered, middle, low), np.where(too_ordered, high, middle)
    noise = residual.noise * np.exp((low + high) / 2)
    total = np.sqrt((residual.noise**2).sum() / max((noise**2).sum(), 1e-12))
    return replace(residual, noise=noise * total)


def _moran(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Moran's I over row-normalised nearest neighbours, per column; 0 for constant columns."""
    centred = values - values.mean(axis=0)
    variance = (centred**2).sum(axis=0)
    return (centred * centred[neighbours].mean(axis=1)).sum(axis=0) / np.where(variance > 1e-12, variance, np.inf)


def _smooth_field(white: np.ndarray, neighbours: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """White noise plus ``weight`` times its neighbourhood mean, scaled to unit variance."""
    field = white + weight * white[neighbours].mean(axis=1)
    sd = field.std(axis=0)
    return field / np.where(sd > 1e-12, sd, 1.0)  # two spots may cancel out


def _smoothing_weight(smoothness: np.ndarray, neighbours: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Per component, the weight of the neighbourhood mean that gives a field this Moran's I."""
    white = [rng.standard_normal((len(near), 64)) for near in neighbours]
    weights = np.linspace(0, 3, 31)
    reached = [
        np.mean([_moran(_smooth_field(w, n, c), n).mean() for w, n in zip(white, neighbours, strict=True)])
        for c in weights
    ]
    return np.interp(smoothness, np.maximum.accumulate(reached), weights)
