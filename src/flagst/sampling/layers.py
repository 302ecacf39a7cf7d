"""Layers of a prediction: what is written of some spots, by name. A new output layer goes here."""

import numpy as np

from flagst._keys import quantile_part
from flagst.sampling.quantiles import IntervalCalibration
from flagst.sampling.spot_samples import SpotSamples, sample_quantiles


def compute_layers(
    part: SpotSamples,
    *,
    structure: float,
    seed: int,
    n_samples: int = 1,
    return_std: bool = False,
    quantiles: tuple[float, ...] = (),
    intervals: IntervalCalibration | None = None,
) -> dict[str, np.ndarray]:
    """Prediction and mean of some spots; standard deviation and quantiles over posterior samples if asked.

    Parameters
    ----------
    part
        Of the spots.
    structure, seed
        As in :meth:`flagst.FLAG.predict`.
    n_samples
        Posterior samples behind standard deviation and quantiles.
    return_std, quantiles
        What is asked for.
    intervals
        Calibrates the quantiles; ``None`` leaves them unmodified.

    Returns
    -------
    The layers of :func:`layer_names`, each ``(n_spots, n_genes)`` float32 in the unit of the target.
    """
    out = dict(zip(("draw", "mean"), part.predict(structure, seed), strict=True))
    if not return_std and not quantiles:
        return out
    samples = part.samples(n_samples, seed)
    if return_std:
        out["std"] = samples.std(axis=0, ddof=1)
    if quantiles:
        if intervals is None:
            found = sample_quantiles(samples, quantiles)
        else:
            found = intervals.move(samples, quantiles, unit=part.interval_unit(n_samples, seed))
        out |= {quantile_part(quantile): values for quantile, values in zip(quantiles, found, strict=True)}
    return out


def layer_names(return_std: bool, quantiles: tuple[float, ...]) -> list[str]:
    """Names of what :func:`compute_layers` returns."""
    return ["draw", "mean", *(["std"] if return_std else []), *map(quantile_part, quantiles)]
