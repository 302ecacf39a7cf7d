"""Gene vectors from the co-expression of the training spots."""

import numpy as np


def coexpression(target: np.ndarray, section: np.ndarray, *, n_components: int = 16) -> np.ndarray:
    """Spectral embedding of the gene-gene correlation within sections.

    Correlations are taken within each section and averaged over sections, so that a difference
    between slides is not read as co-expression. A gene's vector is its row of the leading
    eigenvectors times the square root of their eigenvalues, scaled to unit length: the inner
    product of two vectors approximates the correlation of their genes.

    Parameters
    ----------
    target
        ``(n_spots, n_genes)`` expression of training spots, any unit.
    section
        ``(n_spots,)`` section of each spot.
    n_components
        Width of the vectors; at most ``n_genes``.

    Returns
    -------
    ``(n_genes, n_components)`` float32, rows of length 1; a gene that is constant everywhere gets a
    row of zeros.
    """
    names, code = np.unique(section, return_inverse=True)
    correlation = np.zeros((target.shape[1], target.shape[1]))
    for number in range(len(names)):
        values = target[code == number].astype(np.float64)
        sd = values.std(axis=0)
        unit = (values - values.mean(axis=0)) / np.where(sd > 1e-8, sd, np.inf)
        correlation += unit.T @ unit / len(values) / len(names)
    eigenvalues, axes = np.linalg.eigh(correlation)
    keep = np.argsort(-eigenvalues)[: min(n_components, len(eigenvalues))]
    vectors = axes[:, keep] * np.sqrt(np.clip(eigenvalues[keep], 0, None))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 1e-8, length, np.inf)).astype(np.float32)
