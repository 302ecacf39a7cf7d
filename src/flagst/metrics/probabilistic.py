"""Proper scores of posterior samples.

All are means, lower is better, and on average no distribution scores better than the true one. ``samples``
are samples of **one section**, ``(n_samples, n_spots, n_genes)``, as ``FLAG.sample`` returns them. Genes constant
in the measurement are left out, as in every other metric.
"""

import numpy as np

from flagst.metrics._draws import BUDGET, check_draws, gene_blocks
from flagst.metrics._inputs import Matrix, require_graph, varying_genes


def per_gene_crps(samples: np.ndarray, measured: Matrix, *, fair: bool = False) -> np.ndarray:
    """Continuous ranked probability score of every gene, mean over spots.

    ``mean_k |x_k - y| - c sum_kl |x_k - x_l|``, over the ``m`` samples ``x`` of a spot, with
    ``c = 1 / (2 m^2)``. It equals the absolute error for one sample. Samples are sorted: the time is ``m log m``.

    Parameters
    ----------
    samples
        (n_samples, n_spots, n_genes), numeric, in the unit of ``measured``; as ``FLAG.sample`` returns them.
    measured
        (n_spots, n_genes), numeric, dense or scipy sparse; spots and genes in the same order.
    fair
        ``c = 1 / (2 m (m - 1))``: unbiased for the distribution that the samples come from, however few they
        are. Without it, few samples score worse than many. Needs two samples; may be below 0 by chance.

    Returns
    -------
    (n_genes,) float64 in the unit of the target; NaN for genes constant in the measurement.

    Raises
    ------
    ValueError
        Shapes do not fit, too few samples, fewer than 3 spots, NaN, or no gene varies in ``measured``.
    TypeError
        Values are not numeric.

    Source
    ------
    Gneiting & Raftery, JASA 2007, 102:359, equation 21; ``fair``: Ferro, Q. J. R. Meteorol. Soc. 2014,
    140:1917.

    Examples
    --------
    >>> measured = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> flagst.metrics.per_gene_crps(np.stack([measured + 0.5, measured - 0.5]), measured)
    array([0.25,  nan])
    """
    samples, measured = check_draws(samples, measured, least=2 if fair else 1)
    n_draws, n_spots, n_genes = samples.shape
    result = np.full(n_genes, np.nan)
    # Sorted, draw k is above k - 1 others and below n - k: its weight in the sum over pairs of |x_k - x_l|.
    weights = 2.0 * np.arange(1, n_draws + 1) - n_draws - 1
    weights /= n_draws * (n_draws - 1 if fair else n_draws)
    for genes in gene_blocks(np.flatnonzero(varying_genes(measured)), n_draws * n_spots):
        draws = np.sort(samples[:, :, genes].astype(np.float64), axis=0)
        error = np.abs(draws - measured[:, genes]).mean(axis=(0, 1))
        result[genes] = error - np.tensordot(weights, draws, axes=1).mean(axis=0)
    return result


def crps(samples: np.ndarray, measured: Matrix, *, fair: bool = False) -> float:
    """Continuous ranked probability score, mean over spots and genes.

    The mean over genes of :func:`per_gene_crps`, genes constant in the measurement left out. It
    looks at one gene of one spot at a time. Whether the samples are right jointly is for :func:`energy_score`,
    :func:`variogram_score` and :func:`spatial_variogram_score`.

    Parameters
    ----------
    samples
        (n_samples, n_spots, n_genes), numeric, in the unit of ``measured``; as ``FLAG.sample`` returns them.
    measured
        (n_spots, n_genes), numeric, dense or scipy sparse; spots and genes in the same order.
    fair
        As in :func:`per_gene_crps`.

    Returns
    -------
    Number in the unit of the target; >= 0 unless ``fair``.

    Raises
    ------
    ValueError, TypeError
        As :func:`per_gene_crps`.

    Examples
    --------
    >>> from flagst.metrics import crps
    >>> measured = np.array([[0.0], [1.0], [2.0]])
    >>> crps(np.stack([measured + 0.5, measured - 0.5]), measured)
    0.25
    """
    return float(np.nanmean(per_gene_crps(samples, measured, fair=fair)))


def energy_score(samples: np.ndarray, measured: Matrix, *, fair: bool = False) -> float:
    """Energy score over the genes of a spot, mean over spots: the CRPS of whole expression vectors.

    ``mean_k |x_k - y| - c sum_kl |x_k - x_l|`` with Euclidean norms over genes and ``c`` as in
    :func:`per_gene_crps`. Genes with a large standard deviation weigh more; divide every gene by a scale where that is
    not wanted. The score reacts to a wrong mean or standard deviation, and less to wrong correlations between genes:
    see :func:`variogram_score`.

    Parameters
    ----------
    samples
        (n_samples, n_spots, n_genes), numeric, in the unit of ``measured``; as ``FLAG.sample`` returns them.
    measured
        (n_spots, n_genes), numeric, dense or scipy sparse; spots and genes in the same order.
    fair
        As in :func:`per_gene_crps`.

    Returns
    -------
    Number in the unit of the target; it grows with the square root of the number of genes.

    Raises
    ------
    ValueError, TypeError
        As :func:`per_gene_crps`.

    Source
    ------
    Gneiting & Raftery, JASA 2007, 102:359, equation 22.

    Examples
    --------
    >>> measured = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> round(flagst.metrics.energy_score((measured + [3.0, 4.0])[None], measured), 6)
    5.0
    """
    samples, measured = check_draws(samples, measured, least=2 if fair else 1)
    kept = np.flatnonzero(varying_genes(measured))
    n_draws, n_spots = samples.shape[:2]
    n_pairs = n_draws * (n_draws - 1 if fair else n_draws)
    total = 0.0
    for spot in range(n_spots):
        away = samples[:, spot, kept].astype(np.float64) - measured[spot, kept]
        gram = away @ away.T
        square = np.diag(gram)
        between = np.sqrt(np.maximum(square[:, None] + square - 2 * gram, 0.0))
        np.fill_diagonal(between, 0.0)
        total += np.sqrt(square).mean() - between.sum() / (2 * n_pairs)
    return float(total / n_spots)


def variogram_score(
    samples: np.ndarray, measured: Matrix, *, order: float = 0.5, max_pairs: int | None = 20_000, seed: int = 0
) -> float:
    """Variogram score over pairs of genes of a spot, mean over pairs and spots.

    Mean of ``(|y_i - y_j|^p - mean_k |x_ki - x_kj|^p)^2`` over pairs of genes ``i < j`` and spots. It
    judges whether genes vary together as measured, and does not change when all genes shift by the same amount. Memory
    is linear in the number of genes.

    Parameters
    ----------
    samples
        (n_samples, n_spots, n_genes), numeric, in the unit of ``measured``; as ``FLAG.sample`` returns them.
    measured
        (n_spots, n_genes), numeric, dense or scipy sparse; spots and genes in the same order.
    order
        ``p``, positive.
    max_pairs
        With more pairs of genes (from 201 genes on), this many are chosen at random, the same for every spot;
        None takes all, at a cost quadratic in genes.
    seed
        Seed of the choice of pairs.

    Returns
    -------
    Number >= 0, in the unit of the target to the power of ``2 p``.

    Raises
    ------
    ValueError
        As :func:`per_gene_crps`; fewer than two genes that vary; ``order`` or ``max_pairs`` not positive.
    TypeError
        Values are not numeric.

    Source
    ------
    Scheuerer & Hamill, Mon. Weather Rev. 2015, 143:1321, equation 10; theirs is the weighted sum over all
    ordered pairs, ours the mean.

    Examples
    --------
    >>> measured = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> flagst.metrics.variogram_score(measured[None] + 5, measured)
    0.0
    """
    samples, measured = check_draws(samples, measured)
    kept = np.flatnonzero(varying_genes(measured))
    if len(kept) < 2:
        raise ValueError("The variogram score compares genes; only one varies in measured.")
    n_pairs = len(kept) * (len(kept) - 1) // 2
    n_chosen = n_pairs if max_pairs is None else min(n_pairs, max_pairs)
    _check_positive(order=order, max_pairs=n_chosen)
    chosen = range(n_pairs)
    if n_chosen < n_pairs:
        chosen = np.random.default_rng(seed).choice(n_pairs, n_chosen, replace=False)
    total, size = 0.0, max(1, BUDGET // len(measured))
    for start in range(0, n_chosen, size):
        pairs = np.asarray(chosen[start : start + size])
        left, right = (kept[index] for index in _genes_of_pairs(pairs, len(kept)))
        seen = np.abs(measured[:, left].astype(np.float64) - measured[:, right]) ** order
        total += _squared_gaps(samples, seen, (slice(None), left), (slice(None), right), order)
    return float(total / (n_chosen * len(measured)))


def spatial_variogram_score(samples: np.ndarray, measured: Matrix, graph: Matrix, *, order: float = 0.5) -> float:
    """Variogram score over pairs of neighbouring spots, mean over genes and pairs.

    Mean of ``(|y_a - y_b|^p - mean_k |x_ka - x_kb|^p)^2`` over genes and pairs of spots ``a, b`` that the
    graph connects in either direction, whatever the weight. It judges whether the maps of samples are as smooth as
    measured, which the CRPS cannot.

    Parameters
    ----------
    samples
        (n_samples, n_spots, n_genes), numeric, in the unit of ``measured``; as ``FLAG.sample`` returns them.
    measured
        (n_spots, n_genes), numeric, dense or scipy sparse; spots and genes in the same order.
    graph
        (n_spots, n_spots), scipy sparse or dense; see :func:`flagst.data.graph.moran_graph`.
    order
        ``p``, positive.

    Returns
    -------
    Number >= 0, in the unit of the target to the power of ``2 p``.

    Raises
    ------
    ValueError
        As :func:`per_gene_crps`; graph of the wrong shape or without edges; ``order`` not positive.
    TypeError
        Values are not numeric.

    Source
    ------
    Scheuerer & Hamill, Mon. Weather Rev. 2015, 143:1321, equation 10, on pairs of places.

    Examples
    --------
    >>> measured = np.array([[0.0], [1.0], [2.0]])
    >>> line = np.eye(3, k=1) + np.eye(3, k=-1)
    >>> flagst.metrics.spatial_variogram_score(np.zeros((1, 3, 1)), measured, line, order=1)
    1.0
    """
    samples, measured = check_draws(samples, measured)
    _check_positive(order=order)
    left, right = _edges(graph, len(measured))
    total, kept = 0.0, np.flatnonzero(varying_genes(measured))
    for genes in gene_blocks(kept, len(left)):
        seen = np.abs(measured[left][:, genes].astype(np.float64) - measured[right][:, genes]) ** order
        total += _squared_gaps(samples, seen, np.ix_(left, genes), np.ix_(right, genes), order)
    return float(total / (len(left) * len(kept)))


def _squared_gaps(samples, seen: np.ndarray, left, right, order: float) -> float:
    """Sum over ``(seen - mean over samples of |sample[left] - sample[right]|^order)^2``."""
    expected = np.zeros(seen.shape)
    for sample in samples:
        expected += np.abs(sample[left].astype(np.float64) - sample[right]) ** order
    return float(((seen - expected / len(samples)) ** 2).sum())


def _genes_of_pairs(pairs: np.ndarray, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both genes of pairs numbered row by row through the upper triangle, without listing the triangle."""
    rows = np.arange(n_genes)
    first = rows * (2 * n_genes - rows - 1) // 2
    left = np.searchsorted(first, pairs, side="right") - 1
    return left, pairs - first[left] + left + 1


def _edges(graph: Matrix, n_spots: int) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of every connected pair of spots, each pair once."""
    require_graph(graph, n_spots)
    ends = np.sort(np.stack(graph.nonzero()), axis=0)
    ends = np.unique(ends[:, ends[0] != ends[1]], axis=1)
    if ends.shape[1] == 0:
        raise ValueError("graph has no edges; pairs of neighbours are needed.")
    return ends[0], ends[1]


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive; got {value}.")
