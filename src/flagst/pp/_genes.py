"""Select the gene panel: the genes that a model is trained on."""

import hashlib
import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_anndata, require_counts, require_key, require_one_of, require_unique
from flagst._keys import GENES, OBS, SLOT, UNS, VAR
from flagst.data.measured import counts_name, section_rows
from flagst.data.stored import in_memory, row_sums

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger("flagst")

FLAVORS = ("hmhvg", "seurat", "cell_ranger", "seurat_v3")
#: Number of highly variable genes of each section; their union is then ranked.
N_VARIABLE = 4096
# Mitochondrial and ribosomal symbols; a bare "MT" would also drop MT2A and MTDH.
_HOUSEKEEPING = re.compile(r"^(MT-|RP[SL]\d)", re.IGNORECASE)
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")


def select_genes(
    adata: "AnnData",
    n_genes: int = 200,
    *,
    flavor: str = "hmhvg",
    section_key: str = OBS.section,
    train_sections: str | Sequence[str] | None = None,
    layer: str | None = None,
    subset: bool = False,
) -> None:
    """Select the gene panel from raw counts.

    Parameters
    ----------
    adata
        Table with raw counts, (n_spots, n_genes) non-negative integers, dense or sparse.
    n_genes
        Number of genes of the panel.
    flavor
        ``"hmhvg"``: high mean and high variability, see Source. Otherwise a flavour of
        :func:`scanpy.pp.highly_variable_genes`, with the sections as batches: ``"seurat"`` and ``"cell_ranger"`` on
        log-normalised counts, or ``"seurat_v3"`` on counts.
    section_key
        Column of ``obs`` with the section names.
    train_sections
        Sections to select from; by default all. Leave out the sections that a model will be tested on.
    layer
        Layer with the raw counts; by default ``X``.
    subset
        Keep only the genes of the panel in ``adata``.

    Writes
    ------
    ``var["flagst_panel"]``
        bool, True for n_genes genes.
    ``uns["flagst"]["genes"]``
        Flavour, number of genes, sections, names in the order of ``var``, and the SHA-256 of the sorted names (one per
        line).
    ``obs["total_counts"]``
        (n_spots,) float64, counts over all genes. Written only if the column is missing.

    Raises
    ------
    TypeError
        ``adata`` is a SpatialData.
    KeyError
        The layer or the section column is missing.
    ValueError
        Counts are missing or not raw, gene names are repeated, a section or the flavour is unknown, a spot has no
        section, or there are fewer genes than ``n_genes``.

    Source
    ------
    HMHVG of FLAG (arXiv 2605.18055): take the union over sections of the 4,096 most variable genes (log-normalised),
    without mitochondrial and ribosomal genes. Rank them by mean and by standard deviation of the raw counts over all
    spots. The panel is the intersection of the two top lists, with the length of the lists chosen to give ``n_genes``
    genes. If the last step adds too many genes, the last ones in alphabetical order are left out. Here, only genes with
    counts in every selected section are eligible.

    Examples
    --------
    >>> flagst.pp.select_genes(adata, 10, train_sections=["S1", "S2"])
    >>> int(adata.var["flagst_panel"].sum())
    10
    >>> adata.uns["flagst"]["genes"]["sections"]
    ['S1', 'S2']
    """
    require_anndata(adata)
    require_one_of(flavor, FLAVORS, name="flavor")
    if n_genes < 1:
        raise ValueError(f"n_genes must be 1 or more; got {n_genes!r}.")
    require_unique(adata.var_names, where="adata.var_names", hint="Call adata.var_names_make_unique() first.")
    counts, where = _counts(adata, layer)
    require_counts(counts, where=where)
    sections = _sections(section_rows(adata, section_key), train_sections)
    if flavor == "hmhvg":
        names = _hmhvg(adata, counts, sections, n_genes)
    else:
        names = _scanpy_flavor(adata, counts, sections, n_genes, flavor)

    if OBS.total_counts not in adata.obs:
        adata.obs[OBS.total_counts] = row_sums(counts)
    panel = np.isin(adata.var_names.to_numpy(dtype=object), names)
    adata.var[VAR.panel] = panel
    ordered = [str(name) for name in adata.var_names[panel]]
    record = {
        GENES.flavor: flavor,
        GENES.n_genes: int(n_genes),
        GENES.sections: list(sections),
        GENES.names: ordered,
        GENES.sha256: panel_hash(ordered),
    }
    adata.uns[UNS.flagst] = dict(adata.uns.get(UNS.flagst, {})) | {SLOT.genes: record}
    if subset:
        adata._inplace_subset_var(panel)
    logger.info("Chose %d genes (%s) from sections %s.", len(ordered), flavor, ", ".join(sections))


def panel_hash(names: Sequence[str]) -> str:
    """SHA-256 of the sorted gene names, one per line, UTF-8. The order of ``names`` does not matter."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _counts(adata: "AnnData", layer: str | None):
    """Counts in memory, and their name for messages."""
    if layer is not None:
        require_key(adata.layers, layer, where="adata.layers", hint="Pass layer=None to use adata.X.")
    elif adata.X is None:
        raise ValueError("adata.X is None. Genes are chosen from raw counts: name their layer with layer=.")
    return in_memory(adata.X if layer is None else adata.layers[layer]), counts_name(layer)


def _sections(rows: dict[str, np.ndarray], train_sections: str | Sequence[str] | None) -> dict[str, np.ndarray]:
    """Rows of each section to select from."""
    if train_sections is None:
        return rows
    wanted = [train_sections] if isinstance(train_sections, str) else [str(s) for s in train_sections]
    unknown = [s for s in wanted if s not in rows]
    if unknown or not wanted:
        raise ValueError(f"train_sections {unknown or wanted} are not among the sections; found {list(rows)}.")
    return {section: rows[section] for section in dict.fromkeys(wanted)}


def _hmhvg(adata: "AnnData", counts, sections: dict[str, np.ndarray], n_genes: int) -> list[str]:
    """Names of the HMHVG panel."""
    from scipy.stats import rankdata

    names = adata.var_names.to_numpy(dtype=object)
    eligible = np.all([_detected(counts[rows]) for rows in sections.values()], axis=0)
    variable = eligible.copy()
    if eligible.sum() > N_VARIABLE:
        known = names[eligible].astype(str)
        variable[eligible] = np.any(
            [_most_variable(counts[rows][:, eligible], known, N_VARIABLE) for rows in sections.values()], axis=0
        )
    _warn_if_ensembl(names)
    variable &= np.array([_HOUSEKEEPING.match(str(name)) is None for name in names])
    candidates = np.flatnonzero(variable)
    candidates = candidates[np.argsort(names[candidates].astype(str), kind="stable")]
    if len(candidates) < n_genes:
        raise ValueError(
            f"n_genes is {n_genes}, but only {len(candidates)} genes are variable, neither mitochondrial "
            f"nor ribosomal, and counted in each of the sections {list(sections)}. "
            "Ask for fewer genes, or leave out a section with few counts."
        )
    mean, deviation = _mean_and_deviation(counts[np.concatenate(list(sections.values()))][:, candidates])
    # A gene is in both top-k lists exactly when the worse of its two ranks is at most k.
    worse = np.maximum(*(rankdata(-values, method="ordinal") for values in (mean, deviation)))
    length = np.sort(worse)[n_genes - 1]
    return list(names[candidates[worse <= length]][:n_genes])


def _detected(counts) -> np.ndarray:
    return np.asarray((counts > 0).sum(axis=0)).ravel() > 0


def _mean_and_deviation(counts) -> tuple[np.ndarray, np.ndarray]:
    """Per-gene mean and standard deviation in double precision."""
    counts = counts.astype(np.float64)
    mean = np.asarray(counts.mean(axis=0)).ravel()
    square = counts.multiply(counts) if hasattr(counts, "multiply") else counts**2
    variance = np.asarray(square.mean(axis=0)).ravel() - mean**2
    return mean, np.sqrt(np.maximum(variance, 0))


def _scanpy_flavor(adata: "AnnData", counts, sections: dict[str, np.ndarray], n_genes: int, flavor: str) -> list[str]:
    """Names of the most variable genes by a flavour of scanpy, with the sections as batches."""
    rows = np.concatenate(list(sections.values()))
    detected = _detected(counts[rows])
    if detected.sum() < n_genes:
        raise ValueError(f"n_genes is {n_genes}, but only {detected.sum()} genes have counts. Ask for fewer genes.")
    names = adata.var_names[detected]
    labels = np.repeat(list(sections), [len(r) for r in sections.values()])
    chosen = names[_most_variable(counts[rows][:, detected], names, int(n_genes), flavor=flavor, labels=labels)]
    if len(chosen) < n_genes:
        raise ValueError(f"n_genes is {n_genes}, but flavor {flavor!r} ranks only {len(chosen)} genes. Ask for fewer.")
    return list(chosen)


def _most_variable(counts, names, n_genes: int, *, flavor: str = "seurat", labels=()) -> np.ndarray:
    """Mask (n_genes,) bool of the most variable genes by a flavour of scanpy; spots of one label are a batch."""
    import anndata as ad
    import pandas as pd
    import scanpy as sc

    part = ad.AnnData(counts.astype(np.float32), var=pd.DataFrame(index=names))
    batches = len(set(labels)) > 1
    if batches:
        part.obs[OBS.section] = pd.Categorical(labels)
    if flavor != "seurat_v3":
        sc.pp.normalize_total(part)
        sc.pp.log1p(part)
    batch_key = OBS.section if batches else None
    sc.pp.highly_variable_genes(part, n_top_genes=n_genes, flavor=flavor, batch_key=batch_key)
    return part.var["highly_variable"].to_numpy()


def _warn_if_ensembl(names: np.ndarray) -> None:
    if len(names) and np.mean([_ENSEMBL.match(str(name)) is not None for name in names]) > 0.5:
        logger.warning(
            "Gene names look like Ensembl identifiers: mitochondrial and ribosomal genes are recognised "
            "by symbol only and are not left out. Put symbols into adata.var_names first."
        )
