"""What the diffusion is aligned to: gene-model vectors of a training table, and the heads for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor, nn

from flagst._checks import require_key
from flagst._keys import EMBEDDINGS, SLOT, TENSOR, UNS
from flagst.data.sections import Section, stack_targets
from flagst.gfm import coexpression
from flagst.nn import AlignmentHead, CellHead, ContextualHead, choose_genes
from flagst.regression import unit_vectors
from flagst.settings import Settings

COEXPRESSION = "coexpression"
GFM_HINT = "Pass gfm='coexpression', a key of adata.varm or adata.obsm, or None."
#: Numbers that are read at a time.
VALUES_AT_A_TIME = 2**22


@dataclass(frozen=True)
class Alignment:
    """Gene-model vectors for one training run.

    Attributes
    ----------
    make_head
        From the width of a hidden state to a head.
    vectors, mask
        ``(n_genes, d_gene)`` float32 of unit length and ``(n_genes,)`` bool; ``None`` where vectors are per spot.
    held, columns
        Vectors per spot, ``(n_spots, ...)``, perhaps on disk, and the panel's places along their second axis; ``None``
        where vectors are per gene.
    """

    make_head: Callable[[int], nn.Module]
    vectors: Tensor | None = None
    mask: Tensor | None = None
    held: Any = None
    columns: np.ndarray | None = None

    def add(self, window: dict[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        """A window with the vectors that the heads need, read on demand: of a random subset if there are many genes."""
        if self.columns is None:
            return {**window, TENSOR.embedding: _read(self.held, window[TENSOR.table_row], None)}
        genes = choose_genes(self.mask, training=training)
        vectors = _read(self.held, window[TENSOR.table_row], self.columns[genes.numpy()])
        return {**window, TENSOR.embedding: vectors, TENSOR.read_genes: genes}


def require_vectors(adata: AnnData, settings: Settings) -> None:
    """Raise a ``KeyError`` when ``settings.gfm`` names nothing in ``adata.varm`` or ``adata.obsm``."""
    if settings.gfm in (None, COEXPRESSION) or settings.gfm in adata.varm:
        return
    require_key({**adata.varm, **adata.obsm}, settings.gfm, where="adata.varm and adata.obsm", hint=GFM_HINT)


def build_alignment(
    adata: AnnData, settings: Settings, *, sections: list[Section], genes: list[str], rows: np.ndarray
) -> Alignment | None:
    """Vectors and heads that ``settings.gfm`` stands for; ``None`` for no alignment.

    Parameters
    ----------
    adata
        Training table.
    settings
        Of the model.
    sections
        Training sections with targets, for ``gfm="coexpression"``.
    genes
        The panel.
    rows
        ``(n_training_spots,)`` rows of the table.

    Raises
    ------
    KeyError
        No such key in ``adata.varm`` or ``adata.obsm``.
    ValueError
        No gene or spot has a vector, vectors that are not finite, or vectors per spot and gene that are not of the
        panel.
    TypeError
        Vectors per spot that are no array.
    """
    gfm, weight = settings.gfm, settings.align_weight
    if gfm is None:
        return None
    require_vectors(adata, settings)
    if gfm != COEXPRESSION and gfm not in adata.varm:
        return _per_spot(adata, rows, genes, key=gfm, weight=weight)
    vectors, mask = (torch.as_tensor(part) for part in gene_vectors(adata, sections, genes, gfm=gfm))
    return Alignment(lambda width: AlignmentHead(width, vectors, mask, weight=weight), vectors, mask)


def _per_spot(adata: AnnData, rows: np.ndarray, genes: list[str], *, key: str, weight: float) -> Alignment:
    """Alignment to vectors per spot and gene, or per spot; read a few spots at a time."""
    held = _require_array(adata.obsm[key], key)
    columns = _columns(adata, key, genes) if held.ndim == 3 else None
    step = max(VALUES_AT_A_TIME // int(np.prod(held.shape[1:])), 1)
    total, count = 0.0, 0
    for start in range(0, len(rows), step):
        part = _read(held, rows[start : start + step], columns).double()
        if not part.isfinite().all():
            raise ValueError(f"adata.obsm[{key!r}] has NaN or infinite values. A spot without a vector has zeros.")
        total, count = total + part.sum(dim=0), count + part.any(dim=-1).sum(dim=0)
    mask = count > 0
    if not mask.any():
        raise ValueError(f"adata.obsm[{key!r}] has no vector for any training spot. {GFM_HINT}")
    centre = (total / count.clamp(min=1)[..., None]).float()
    if held.ndim == 2:
        return Alignment(lambda width: CellHead(width, centre, weight=weight), held=held)
    return Alignment(
        lambda width: ContextualHead(width, centre, mask, weight=weight), mask=mask, held=held, columns=columns
    )


def _require_array(held, key: str):
    """Vectors per spot as something that rows can be read from."""
    if isinstance(held, pd.DataFrame):
        return held.to_numpy()
    if not hasattr(held, "ndim") or sp.issparse(held) or held.ndim not in (2, 3):
        raise TypeError(
            f"adata.obsm[{key!r}] must be an array with two or three axes, one vector per spot or per spot and gene; "
            f"got {type(held).__name__}."
        )
    return held


def _read(held, rows: np.ndarray | Tensor, columns: np.ndarray | None) -> Tensor:
    """Vectors of some spots, and of some genes where there are genes."""
    rows = np.asarray(rows)
    if columns is None:
        return torch.as_tensor(np.asarray(held[rows]))
    # all genes of a spot are read for a few: not of all spots at once
    step = max(VALUES_AT_A_TIME // int(np.prod(held.shape[1:])), 1)
    parts = [np.asarray(held[rows[start : start + step]][:, columns]) for start in range(0, len(rows), step)]
    return torch.as_tensor(np.concatenate(parts))


def _columns(adata: AnnData, key: str, genes: list[str]) -> np.ndarray:
    """Places of the panel's genes among those that ``adata.obsm[key]`` has vectors of."""
    record = adata.uns.get(UNS.flagst, {}).get(SLOT.gene_embeddings, {}).get(key, {})
    held = [str(gene) for gene in record.get(EMBEDDINGS.genes, adata.var_names)]
    place = {gene: i for i, gene in enumerate(held)}
    missing = [gene for gene in genes if gene not in place]
    n_held = adata.obsm[key].shape[1]
    if missing or len(held) != n_held:
        known = f"which are not those of the panel ({len(missing)} are missing, as {missing[:3]})"
        unknown = f"and adata.uns does not say which; the table has {adata.n_vars}"
        raise ValueError(
            f"adata.obsm[{key!r}] has vectors of {n_held} genes, {known if record else unknown}. Run "
            "flagst.pp.gene_embeddings(adata, source, mode='contextual', genes=...) with the panel's."
        )
    return np.array([place[gene] for gene in genes])


def gene_vectors(
    adata: AnnData, sections: list[Section], genes: list[str], *, gfm: str
) -> tuple[np.ndarray, np.ndarray]:
    """One vector per gene of the panel, and which genes have one.

    Returns
    -------
    ``(n_genes, d_gene)`` float32 of unit length, zero where there is none, and ``(n_genes,)`` bool.

    Raises
    ------
    ValueError
        No gene of the panel has a vector.
    """
    if gfm == COEXPRESSION:
        names = np.repeat(np.arange(len(sections)), [len(s) for s in sections])
        vectors = coexpression(stack_targets(sections), names)
    else:
        vectors = np.asarray(adata.varm[gfm], dtype=np.float32)[adata.var_names.get_indexer(genes)]
    unit, known = unit_vectors(vectors)
    if not known.any():
        raise ValueError(f"adata.varm[{gfm!r}] has no vector for any gene of the panel. {GFM_HINT}")
    return unit, known
