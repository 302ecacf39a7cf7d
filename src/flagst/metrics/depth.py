"""Library size: gene-gene correlation without it, and how much it predicts alone."""

import numpy as np

from flagst._checks import require_finite
from flagst.metrics._inputs import Matrix, scored_pair, standardise
from flagst.metrics.structure import gsc


def gsc_depth_residual(predicted: Matrix, measured: Matrix, depth: np.ndarray) -> float:
    """GSC after removing from every gene what the measured total counts of a spot explain.

    Every gene, predicted and measured alike, is regressed by least squares on a constant, ``log(depth + 1)``
    and its square; the result is :func:`gsc` of the residuals. Where all genes rise and fall with the library size, as
    in log2(count + 1), their correlations share that one pattern, which can give a high GSC alone. The square
    is needed because log counts bend where counts are few: with a straight line, two nearly empty spots of a
    section left an average correlation of 0.2 between genes; with the square, 0.01.

    Parameters
    ----------
    predicted, measured
        (n_spots, n_genes), numeric, dense or scipy sparse; same unit, spots and genes in the same order.
    depth
        (n_spots,) measured total counts of every spot, over all genes, >= 0. The same depth is used for both matrices:
        what the prediction says about it is removed only as far as it is right.

    Returns
    -------
    Number in [-1, 1]. A gene that depth explains entirely counts as constant: left out where that is so in
    the measurement, correlation zero where only in the prediction. NaN with fewer than 3 genes left.

    Raises
    ------
    ValueError
        As :func:`gsc`; ``depth`` of the wrong length, negative or not finite.
    TypeError
        Values are not numeric.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> depth = rng.poisson(500, 50)
    >>> measured = rng.normal(size=(50, 4)) + 5 * np.log1p(depth)[:, None]
    >>> round(flagst.metrics.gsc_depth_residual(3 * measured, measured, depth), 6)
    1.0
    """
    predicted, measured, _ = scored_pair(predicted, measured)
    basis = _depth_basis(depth, len(measured))
    predicted, measured = (_residuals(values, basis) for values in (predicted, measured))
    if not measured.any():
        return float("nan")
    return gsc(predicted, measured)


def depth_pcc(measured: Matrix, depth: np.ndarray) -> float:
    """PCC of a predictor that knows the total counts of a spot and nothing else, mean over genes.

    Every gene is predicted by least squares on a constant, ``log(depth + 1)`` and its square, **on the
    section that is scored**. This is an oracle and no method: it reads the test section twice, for the depth and for
    the fit. It tells how much PCC the library size can give. By chance alone it is about ``1.25 / sqrt(n_spots)``.

    Parameters
    ----------
    measured
        (n_spots, n_genes), numeric, dense or scipy sparse.
    depth
        (n_spots,) measured total counts of every spot, over all genes, >= 0.

    Returns
    -------
    Number in [0, 1]; genes constant in the measurement left out, 0 where all spots have the same depth.

    Raises
    ------
    ValueError, TypeError
        As :func:`gsc_depth_residual`.

    Examples
    --------
    >>> depth = np.array([10, 100, 1000, 5000])
    >>> round(flagst.metrics.depth_pcc(np.log1p(depth)[:, None], depth), 6)
    1.0
    """
    measured, _, _ = scored_pair(measured, measured)
    # the correlation of a least-squares fit with what was fitted is the length of its projection
    fit = _depth_basis(depth, len(measured)).T @ standardise(measured)
    return float(np.mean(np.linalg.norm(fit, axis=0)))


def _depth_basis(depth: np.ndarray, n_spots: int) -> np.ndarray:
    """Orthonormal basis of log depth and its square beside a constant, (n_spots, 0 to 2) float64."""
    depth = np.asarray(depth, dtype=np.float64)
    if depth.shape != (n_spots,):
        raise ValueError(f"depth must be ({n_spots},), one number per spot; got shape {depth.shape}.")
    require_finite(depth, where="depth", hint="Leave those spots out.")
    if depth.min() < 0:
        raise ValueError(f"depth has negative values (minimum {depth.min():g}); total counts are needed.")
    line = standardise(np.log1p(depth)[:, None])
    square = line**2 - np.mean(line**2)
    square -= line * (line.T @ square)
    # nothing but rounding is left where depth takes one or two values
    if np.linalg.norm(square) <= 1e-9:
        return line
    return np.concatenate([line, square / np.linalg.norm(square)], axis=1)


def _residuals(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Residuals of every column on ``basis`` and a constant, float64; 0 where only rounding is left."""
    rounding = 32 * np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps
    size = np.abs(values).max(axis=0).astype(np.float64)
    rest = values.astype(np.float64)
    rest -= rest.mean(axis=0)
    rest -= basis @ (basis.T @ rest)
    rest[:, np.abs(rest).max(axis=0) <= rounding * size] = 0.0
    return rest
