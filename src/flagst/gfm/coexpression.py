"""Gene vectors from co-expression: of the training spots, or of other counts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_counts, require_key
from flagst._keys import EMBEDDINGS, OBS
from flagst.gfm.names import aliases_of, match_genes, require_overlap

if TYPE_CHECKING:
    from anndata import AnnData

#: Spots with fewer counts are left out: they say little about co-expression.
MIN_COUNTS = 200
#: Smaller sections are left out: their correlations are noise.
MIN_SPOTS = 20
#: For larger panels only the leading eigenvectors are computed.
DENSE_GENES = 2000


class CoExpression:
    """Spectral embedding of the co-expression in reference counts: spots without images, or single cells.

    Counts are scaled to 10,000 per spot, and log1p is taken. Within each section the logarithm of the total count is
    regressed out, because otherwise all genes would correlate through sequencing depth. The correlation of two genes is
    pooled over the sections in which both vary. One section is in memory at a time.

    Parameters
    ----------
    reference
        One AnnData of raw counts with all its genes, or an iterable of AnnData. A generator can be read only once.
    section_key
        ``obs`` column of the section or batch; with ``None`` each AnnData is one section.
    n_components
        Length of the vectors; at most the number of genes.
    layer
        Layer of the counts; ``None`` for ``X``.
    names
        Dict from gene to its name in the reference, or a column of ``adata.var`` with these names.

    Examples
    --------
    >>> encoder = flagst.gfm.CoExpression(adata, n_components=8)
    >>> vectors, known = encoder.encode(adata, list(adata.var_names))
    >>> vectors.shape, bool(known.all())
    ((20, 8), True)
    """

    name = "coexpression"

    def __init__(
        self,
        reference: "AnnData | Iterable[AnnData]",
        *,
        section_key: str | None = OBS.section,
        n_components: int = 16,
        layer: str | None = None,
        names: str | Mapping[str, str] | None = None,
    ):
        self.reference = [reference] if hasattr(reference, "obs_names") else reference
        self.section_key, self.n_components, self.layer, self.names = section_key, n_components, layer, names
        self.sections_: list[str] = []

    def encode(self, adata: "AnnData", genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Compute the vectors of genes from the reference.

        Parameters
        ----------
        adata
            Table of the genes; ``names`` may be a column of its ``var``.
        genes
            Gene names.

        Returns
        -------
        vectors
            ``(n_genes, n_components)`` float32, rows of length 1; zeros for a gene without vector.
        known
            ``(n_genes,)`` bool; false for a gene that the reference lacks, or that is constant there.

        Raises
        ------
        KeyError
            ``section_key``, ``layer`` or the column ``names`` does not exist.
        ValueError
            Values are not counts; the reference knows less than a tenth of the genes; it has no section with 20 spots
            of 200 counts or more; or it is a generator that was read before.

        Examples
        --------
        >>> vectors, known = flagst.gfm.CoExpression(adata).encode(adata, list(adata.var_names))
        >>> vectors.shape
        (20, 16)
        """
        n, self.sections_ = len(genes), []
        total, spots = np.zeros((n, n), dtype=np.float32), np.zeros((n, n), dtype=np.float32)
        seen, names, aliases = np.full(n, -1), [], aliases_of(adata, self.names)
        for table in self.reference:
            names = [str(name) for name in table.var_names]
            index = match_genes(genes, names, aliases=aliases)
            seen = np.maximum(seen, index)
            for section, rows in self._sections(table):
                unit = _depth_free(table, rows, index, self.layer)
                if unit is not None:
                    varies = (unit != 0).any(axis=0).astype(np.float32)
                    total += unit.T @ unit
                    spots += len(unit) * np.outer(varies, varies)
                    self.sections_.append(section)
        if not names:
            raise ValueError("The reference holds no table: an iterator that has been read before, or an empty list.")
        require_overlap(seen, genes, names, where="The reference")
        if not spots.any():
            raise ValueError(f"The reference has no section with {MIN_SPOTS} spots of {MIN_COUNTS} counts or more.")
        vectors = spectral_vectors(total / np.maximum(spots, 1), self.n_components)
        return vectors, (vectors != 0).any(axis=1)

    def provenance(self) -> dict[str, Any]:
        """Describe where the vectors come from.

        Returns
        -------
        Plain values: the encoder, the sections that the last :meth:`encode` used, and the number of components.

        Examples
        --------
        >>> encoder = flagst.gfm.CoExpression(adata)
        >>> vectors, known = encoder.encode(adata, list(adata.var_names))
        >>> encoder.provenance()["sections"]
        ['S1', 'S2', 'S3']
        """
        return {
            EMBEDDINGS.encoder: self.name,
            EMBEDDINGS.sections: list(self.sections_),
            EMBEDDINGS.n_components: self.n_components,
        }

    def _sections(self, table: "AnnData") -> list[tuple[str, np.ndarray]]:
        if self.section_key is None:
            return [("reference", np.arange(table.n_obs))]
        require_key(table.obs, self.section_key, where="obs of the reference", hint="Pass section_key=, or None.")
        names = table.obs[self.section_key].astype(str).to_numpy()
        return [(str(name), np.flatnonzero(names == name)) for name in dict.fromkeys(names)]


def coexpression(target: np.ndarray, section: np.ndarray, *, n_components: int = 16) -> np.ndarray:
    """Compute gene vectors from the gene-gene correlation within sections.

    Correlations are computed within each section and averaged over sections, so that a difference between slides is not
    mistaken for co-expression. The vector of a gene is its row of the leading eigenvectors times the square root of
    their eigenvalues, scaled to length 1. The inner product of two vectors is the cosine of what the leading components
    keep of both genes; its absolute value is therefore larger than that of their correlation.

    Parameters
    ----------
    target
        ``(n_spots, n_genes)`` float, expression of training spots in any unit.
    section
        ``(n_spots,)`` section of each spot.
    n_components
        Length of the vectors; at most ``n_genes``.

    Returns
    -------
    ``(n_genes, n_components)`` float32, rows of length 1; zeros for a gene that is constant everywhere.

    Examples
    --------
    >>> expression = np.random.default_rng(0).normal(size=(60, 8))
    >>> vectors = flagst.gfm.coexpression(expression, np.repeat(["a", "b"], 30), n_components=3)
    >>> vectors.shape, bool(np.allclose(np.linalg.norm(vectors, axis=1), 1))
    ((8, 3), True)
    """
    names, code = np.unique(section, return_inverse=True)
    correlation = np.zeros((target.shape[1], target.shape[1]))
    for number in range(len(names)):
        unit = _standardised(target[code == number].astype(np.float64))
        correlation += unit.T @ unit / len(unit) / len(names)
    return spectral_vectors(correlation, n_components)


def spectral_vectors(correlation: np.ndarray, n_components: int) -> np.ndarray:
    """Rows of the leading eigenvectors times the roots of their eigenvalues, of length 1 or all zero.

    ``(n_genes, n_genes)`` -> ``(n_genes, min(n_components, n_genes))`` float32.
    """
    n = len(correlation)
    if n > max(DENSE_GENES, 2 * n_components):
        from scipy.sparse.linalg import eigsh

        eigenvalues, axes = eigsh(correlation, k=n_components, v0=np.full(n, n**-0.5, dtype=correlation.dtype))
    else:
        eigenvalues, axes = np.linalg.eigh(correlation)
    keep = np.argsort(-eigenvalues)[: min(n_components, n)]
    vectors = axes[:, keep] * np.sqrt(np.clip(eigenvalues[keep], 0, None))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 1e-8, length, np.inf)).astype(np.float32)


def _depth_free(table: "AnnData", rows: np.ndarray, index: np.ndarray, layer: str | None) -> np.ndarray | None:
    """Standardised log expression of the deep spots of a section, with the log total count regressed out.

    ``(n_deep, n_genes)`` float32, zeros for genes that the table lacks; ``None`` for too few spots.
    """
    counts = table.X if layer is None else table.layers[layer]
    section = counts[rows]
    require_counts(section, where="The reference")
    depth = np.asarray(section.sum(axis=1), dtype=np.float64).ravel()
    deep = depth >= MIN_COUNTS
    if deep.sum() < MIN_SPOTS:
        return None
    known = np.flatnonzero(index >= 0)
    part = section[deep][:, index[known]]
    dense = np.asarray(part.todense() if hasattr(part, "todense") else part, dtype=np.float64)
    values = np.log1p(dense / depth[deep, None] * 1e4)
    values -= values.mean(axis=0)
    axis = np.log(depth[deep])
    axis -= axis.mean()
    square = axis @ axis
    if square > 1e-12:
        values -= np.outer(axis, axis @ values / square)
    out = np.zeros((len(values), len(index)), dtype=np.float32)
    out[:, known] = _standardised(values)
    return out


def _standardised(values: np.ndarray) -> np.ndarray:
    sd = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(sd > 1e-8, sd, np.inf)
