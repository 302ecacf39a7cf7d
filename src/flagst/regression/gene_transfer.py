"""Genes that were never measured in training, from those that were: kernel ridge over gene vectors."""

from dataclasses import dataclass

import numpy as np

#: Exponents of the Gaussian kernel: ``exp(-width * squared distance)`` of vectors of length 1.
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
#: Genes that width and penalty are chosen on.
MAX_CHOOSING = 1000


@dataclass(frozen=True)
class GeneTransfer:
    """Weights from the genes of a panel to any gene that has a vector too.

    A gene's standardised expression is a weighted sum of the panel's, the weights a kernel ridge regression over
    genes: genes with like vectors are alike in the tissue. Level and spread of a gene are kernel averages of the
    panel's, which is a guess: compare spots of such a gene, not its level with that of other genes.

    Attributes
    ----------
    vectors
        ``(n_known, d)`` of length 1: genes of the panel that have a vector.
    known
        ``(n_known,)`` their positions in the panel.
    solve
        ``(n_known, n_known)`` inverse of the penalised kernel matrix.
    width
        Of the kernel.
    correlation
        ``(n_known, n_known)`` of standardised expression over the training spots.
    level, log_spread
        ``(n_known,)`` mean and logarithm of the standard deviation, in the unit of the target.
    pcc
        Mean correlation with measured expression when a known gene is left out and predicted from the others, over
        1,000 of them at most.
    """

    vectors: np.ndarray
    known: np.ndarray
    solve: np.ndarray
    width: float
    correlation: np.ndarray
    level: np.ndarray
    log_spread: np.ndarray
    pcc: float

    @classmethod
    def fit(
        cls, vectors: np.ndarray, mean: np.ndarray, expression: np.ndarray, level: np.ndarray, spread: np.ndarray
    ) -> "GeneTransfer":
        """Choose width and penalty by leaving out one gene at a time.

        Parameters
        ----------
        vectors
            ``(n_panel, d)``; rows of zeros are genes without a vector.
        mean
            ``(n_spots, n_panel)`` cross-fitted standardised mean of the training spots.
        expression
            ``(n_spots, n_panel)`` standardised expression there.
        level, spread
            ``(n_panel,)`` mean and standard deviation of the target.

        Raises
        ------
        ValueError
            Fewer than three genes have a vector.
        """
        known = np.flatnonzero(np.linalg.norm(vectors, axis=1) > 0)
        if len(known) < 3:
            raise ValueError(f"{len(known)} genes of the panel have a vector; 3 or more are needed to predict others.")
        unit = _unit(vectors[known])
        chosen_on = np.sort(np.random.default_rng(0).permutation(len(known))[:MAX_CHOOSING])
        some, own = unit[chosen_on], known[chosen_on]
        best = (-np.inf, WIDTHS[0], ALPHAS[0])
        for width in WIDTHS:
            values, axes = np.linalg.eigh(_kernel(some, some, width))
            for alpha in ALPHAS:
                inverse = (axes / (np.clip(values, 0, None) + alpha)) @ axes.T
                # what a gene is predicted from the others is its row of the inverse, scaled, without itself
                weights = -inverse / np.diag(inverse)[:, None]
                np.fill_diagonal(weights, 0)
                pcc = _correlations(mean[:, own] @ weights.T, expression[:, own]).mean()
                best = max(best, (float(pcc), width, alpha))
        pcc, width, alpha = best
        solve = np.linalg.inv(_kernel(unit, unit, width) + alpha * np.eye(len(unit)))
        seen = expression[:, known]
        correlation = seen.T @ seen / len(seen)
        return cls(unit, known, solve, width, correlation, level[known], np.log(spread[known]), pcc)

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
        """
        kernel = _kernel(_unit(vectors), self.vectors, self.width)
        weights = kernel @ self.solve
        explained = np.einsum("gi,ij,gj->g", weights, self.correlation, weights, optimize=True)
        weights /= np.sqrt(np.maximum(explained, 1))[:, None]  # no gene varies more than the standardised ones
        shares = kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 1e-300)
        noise = np.sqrt(np.clip(1 - explained, 0, None))
        return weights, noise, shares @ self.level, np.exp(shares @ self.log_spread)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-2 * width * (1 - a @ b.T))


def _correlations(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Pearson correlation column by column; 0 where one is constant."""
    predicted, measured = predicted - predicted.mean(axis=0), measured - measured.mean(axis=0)
    norms = np.linalg.norm(predicted, axis=0) * np.linalg.norm(measured, axis=0)
    return (predicted * measured).sum(axis=0) / np.where(norms > 1e-12, norms, np.inf)
