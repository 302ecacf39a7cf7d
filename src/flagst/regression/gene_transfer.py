"""Genes that were never measured in training, from those that were: kernel ridge over gene vectors."""

from dataclasses import dataclass

import numpy as np

#: Exponents of the Gaussian kernel: ``exp(-width * squared distance)`` of vectors of length 1.
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
#: Factors of what a gene has beyond the part that all genes share.
GAINS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
#: Weight of the correlation without the shared part, beside the whole correlation.
OWN_SHARE = 0.5
#: Genes that width, penalty and gain are chosen on.
MAX_CHOOSING = 1000


@dataclass(frozen=True)
class GeneTransfer:
    """Weights from the genes of a panel to any gene that has a vector too.

    A gene's standardised expression is a weighted sum of the panel's. The weights are a kernel ridge regression over
    genes: genes with similar vectors have similar expression. The average over genes goes in by a loading, which is
    regressed in the same way, so that a gene without similar vectors gets the average. What a gene has beyond the
    average goes in with a gain. Kernel ridge alone would shrink both alike, and where all genes follow the depth of a
    spot, only the average would remain.

    Mean and standard deviation of a gene are kernel averages of the panel's. They are uncertain: compare spots of such
    a gene, not its level with that of other genes.

    Attributes
    ----------
    vectors
        ``(n_known, d)`` of length 1: genes of the panel that have a vector.
    known
        ``(n_known,)`` their positions in the panel.
    solve
        ``(n_known, n_known)`` inverse of the penalised kernel matrix.
    width, gain
        Of the kernel, and of what a gene has beyond the average.
    loading
        ``(n_known,)`` of each gene on the average, 1 on average.
    correlation
        ``(n_known, n_known)`` of standardised expression over the training spots.
    level, log_sd
        ``(n_known,)`` mean and logarithm of the standard deviation, in the unit of the target.
    pcc, own_pcc
        Mean correlation with measured expression when a known gene is left out and predicted from the others, over
        1,000 of them at most: as it is, and with the average over genes, measured, and its square regressed out of
        both. Width, penalty and gain are those with the highest ``pcc + 0.5 * own_pcc``.

    Examples
    --------
    >>> from flagst.regression import GeneTransfer
    >>> rng = np.random.default_rng(0)
    >>> vectors, expression = rng.normal(size=(8, 3)), rng.normal(size=(50, 8))
    >>> transfer = GeneTransfer.fit(vectors, expression, expression, np.ones(8), np.ones(8))
    >>> weights, noise_sd, level, sd = transfer.weights(rng.normal(size=(2, 3)))
    >>> weights.shape, noise_sd.shape
    ((2, 8), (2,))
    """

    vectors: np.ndarray
    known: np.ndarray
    solve: np.ndarray
    width: float
    gain: float
    loading: np.ndarray
    correlation: np.ndarray
    level: np.ndarray
    log_sd: np.ndarray
    pcc: float
    own_pcc: float

    @classmethod
    def fit(
        cls, vectors: np.ndarray, mean: np.ndarray, expression: np.ndarray, level: np.ndarray, sd: np.ndarray
    ) -> "GeneTransfer":
        """Choose width, penalty and gain by leaving out one gene at a time.

        Parameters
        ----------
        vectors
            ``(n_panel, d)``; rows of zeros are genes without a vector.
        mean
            ``(n_spots, n_panel)`` cross-fitted standardised mean of the training spots.
        expression
            ``(n_spots, n_panel)`` standardised expression there.
        level, sd
            ``(n_panel,)`` mean and standard deviation of the target.

        Raises
        ------
        ValueError
            Fewer than three genes have a vector.

        Examples
        --------
        >>> from flagst.regression import GeneTransfer
        >>> rng = np.random.default_rng(0)
        >>> vectors, expression = rng.normal(size=(8, 3)), rng.normal(size=(50, 8))
        >>> transfer = GeneTransfer.fit(vectors, expression, expression, np.ones(8), np.ones(8))
        >>> transfer.known
        array([0, 1, 2, 3, 4, 5, 6, 7])
        """
        known = np.flatnonzero(np.linalg.norm(vectors, axis=1) > 0)
        if len(known) < 3:
            raise ValueError(f"{len(known)} genes of the panel have a vector; 3 or more are needed to predict others.")
        unit, seen = _unit(vectors[known]), expression[:, known]
        chosen_on = np.sort(np.random.default_rng(0).permutation(len(known))[:MAX_CHOOSING])
        chosen = _choose(unit[chosen_on], mean[:, known[chosen_on]], seen[:, chosen_on])
        width, alpha, gain, pcc, own_pcc = chosen
        solve = np.linalg.inv(_kernel(unit, unit, width) + alpha * np.eye(len(unit)))
        correlation, loading = seen.T @ seen / len(seen), _loading(mean[:, known])
        moments = level[known], np.log(sd[known])
        return cls(unit, known, solve, width, gain, loading, correlation, *moments, pcc, own_pcc)

    def weights(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What is needed to predict genes with these vectors.

        Parameters
        ----------
        vectors
            ``(n_genes, d)``, none of them zero.

        Returns
        -------
        ``(n_genes, n_known)`` weights of the known genes' standardised expression; ``(n_genes,)`` each: standard
        deviation of independent noise that brings the variance over the training spots to 1, mean and standard
        deviation in the unit of the target.

        Examples
        --------
        >>> from flagst.regression import GeneTransfer
        >>> rng = np.random.default_rng(0)
        >>> vectors, expression = rng.normal(size=(8, 3)), rng.normal(size=(50, 8))
        >>> transfer = GeneTransfer.fit(vectors, expression, expression, np.ones(8), np.ones(8))
        >>> [part.shape for part in transfer.weights(rng.normal(size=(2, 3)))]
        [(2, 8), (2,), (2,), (2,)]
        """
        kernel = _kernel(_unit(vectors), self.vectors, self.width)
        like = kernel @ self.solve
        shared = _shared(like, self.loading) - self.gain * (like @ self.loading)
        weights = self.gain * like + shared[:, None] / len(self.known)
        explained = np.einsum("gi,ij,gj->g", weights, self.correlation, weights, optimize=True)
        weights /= np.sqrt(np.maximum(explained, 1))[:, None]  # no gene varies more than the standardised ones
        shares = kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 1e-300)
        noise = np.sqrt(np.clip(1 - explained, 0, None))
        return weights, noise, shares @ self.level, np.exp(shares @ self.log_sd)


def unit_vectors(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gene vectors scaled to length 1, ``(n_genes, d)`` float32, and which genes have one: finite and not zero.

    Examples
    --------
    >>> from flagst.regression import unit_vectors
    >>> unit, known = unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]]))
    >>> unit.tolist(), known.tolist()
    ([[0.6..., 0.8...], [0.0, 0.0]], [True, False])
    """
    length = np.linalg.norm(np.nan_to_num(vectors), axis=1)
    known = np.isfinite(vectors).all(axis=1) & (length > 0)
    return np.where(known[:, None], vectors / np.where(known, length, 1)[:, None], 0).astype(np.float32), known


def _choose(unit: np.ndarray, mean: np.ndarray, expression: np.ndarray) -> tuple[float, ...]:
    """Width, penalty, gain, and both correlations, of the best of all choices."""
    average, loading = mean.mean(axis=1, keepdims=True), _loading(mean)
    own, shared = mean - average * loading, expression.mean(axis=1)
    others = (mean.sum(axis=1, keepdims=True) - mean) / (mean.shape[1] - 1)  # a gene left out is not in its own average
    apart = np.linalg.qr(np.stack([np.ones(len(shared)), shared, shared**2], axis=1))[0]
    measured = expression - expression.mean(axis=0), expression - apart @ (apart.T @ expression)
    best = (-np.inf,)
    for width in WIDTHS:
        values, axes = np.linalg.eigh(_kernel(unit, unit, width))
        for alpha in ALPHAS:
            inverse = (axes / (np.clip(values, 0, None) + alpha)) @ axes.T
            # leave-one-out weights of a gene: its row of the inverse, divided by minus the diagonal, without itself
            like = -inverse / np.diag(inverse)[:, None]
            np.fill_diagonal(like, 0)
            parts = others * _shared(like, loading), own @ like.T
            pcc = _correlations([part - part.mean(axis=0) for part in parts], measured[0])
            own_pcc = _correlations([part - apart @ (apart.T @ part) for part in parts], measured[1])
            for gain, as_is, without in zip(GAINS, pcc, own_pcc, strict=True):
                best = max(best, (as_is + OWN_SHARE * without, width, alpha, gain, as_is, without))
    return best[1:]


def _loading(mean: np.ndarray) -> np.ndarray:
    """Slope of every gene's mean on their average, ``(n_genes,)``."""
    average = mean.mean(axis=1) - mean.mean()
    return average @ mean / max(average @ average, 1e-12)


def _shared(like: np.ndarray, loading: np.ndarray) -> np.ndarray:
    """Loading of genes on the average, ``(n_genes,)``, from those of the genes they are like."""
    return loading.mean() + like @ (loading - loading.mean())


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-2 * width * (1 - a @ b.T))


def _correlations(parts: list[np.ndarray], measured: np.ndarray) -> list[float]:
    """Mean Pearson correlation over columns of ``shared + gain * own`` with the measurement, for every gain.

    All of them centred; 0 where one is constant.
    """
    shared, own = parts
    squares = [(a * b).sum(axis=0) for a, b in ((shared, shared), (shared, own), (own, own))]
    products, norm = [(part * measured).sum(axis=0) for part in parts], np.linalg.norm(measured, axis=0)
    found = []
    for gain in GAINS:
        length = np.sqrt(np.clip(squares[0] + 2 * gain * squares[1] + gain**2 * squares[2], 0, None)) * norm
        found.append(float(((products[0] + gain * products[1]) / np.where(length > 1e-12, length, np.inf)).mean()))
    return found
