"""Vectors of genes, of genes in spots, and of spots."""

import logging
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_anndata, require_finite, require_key, require_one_of, require_unique
from flagst._keys import EMBEDDINGS, OBSM, SLOT, UNS, VAR, VARM
from flagst.gfm import GeneEncoder, SpotEncoder, open_gene_model
from flagst.gfm.spots import count_batches
from flagst.pp._mapped import array_path, lazy_array, read_description, write_array

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger("flagst")

#: Mode -> name of what is written, unless given.
KEYS = {"static": VARM.gene, "contextual": OBSM.gene_context, "cell": OBSM.cell}
_HASHED_AT_ONCE = 4096  # spots


def gene_embeddings(
    adata: "AnnData",
    source: "GeneEncoder | str | Path",
    *,
    mode: str = "static",
    genes: Sequence[str] | None = None,
    key_added: str | None = None,
    path: str | Path | None = None,
    layer: str | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    half: bool = False,
    progress: bool = True,
) -> None:
    """Give genes, genes in spots, or spots vectors. :class:`flagst.FLAG` can align to them: ``gfm="X_gene"``.

    Contextual vectors stay in a file and are read by rows. The same call again, also after the table was written and
    read, finds the file and computes nothing; another model, setting, gene or count makes another file. Until it is
    complete, its name ends in ``.part``: what a killed run leaves is never taken for vectors, and can be deleted.

    Parameters
    ----------
    adata
        Table of the spots. For ``"contextual"`` and ``"cell"``, with raw counts of the whole transcriptome.
    source
        A gene encoder of :mod:`flagst.gfm`; or a file of vectors, or the folder of a gene model, as
        :func:`flagst.gfm.open_gene_model` knows them. Nothing is downloaded.
    mode
        ``"static"``, a vector per gene; ``"contextual"``, a vector per spot and gene; ``"cell"``, a vector per spot.
        The last two need a :class:`flagst.gfm.SpotEncoder`: scGPT or Geneformer.
    genes
        Genes that get a vector; by default the panel (``var["flagst_panel"]``) if there is one, else all. Not for
        ``"cell"``.
    key_added
        Name in ``varm`` or ``obsm``; ``None`` for ``"X_gene"``, ``"X_gene_context"``, ``"X_cell"``.
    path
        Folder for the file of ``"contextual"``, which needs it: 2 bytes for each of ``n_spots * n_genes * d``.
    layer
        Layer with the counts; ``None`` for ``X``.
    batch_size, device, half
        See :meth:`flagst.gfm.SpotEncoder.encode_spots`.
    progress
        Show a progress bar, where spots are gone through.

    Writes
    ------
    ``varm[key_added]``
        Static: (n_genes, d) float32, zero for genes without a vector.
    ``var["flagst_has_vector"]``
        Static: bool, those that have one in the array written last.
    ``obsm[key_added]``
        Contextual: (n_spots, n_genes, d) float16, a lazy dask array on the file, in the order of ``genes``; all zero
        where a gene has no vector in a spot, because the model does not know it, it is not expressed there, or it is
        beyond the model's length. Rows of ``adata`` stay lazy. Writing ``adata`` copies the vectors into its file, and
        reading that one loads them: to keep them apart, ``del adata.obsm[key_added]`` before, and repeat the call
        after. Cell: (n_spots, d) float32, zero for a spot without known genes.
    ``uns["flagst"]["gene_embeddings"][key_added]``
        Encoder, file and its SHA-256 or sections, licence if known, number of genes asked for and found, names of
        those without a vector (static, where there are some); for spots also mode, layer of the model, genes in order,
        shape, folder and file.

    Raises
    ------
    KeyError
        Genes or a layer that ``adata`` lacks.
    ValueError
        Repeated gene names, an unreadable file (named), a source that knows less than a tenth of the genes, or one
        that returns values that are not finite or of another shape; values that are no counts; no ``path``, or one
        where none is used.
    TypeError
        ``source`` of another type, or one that does not know spots.
    ImportError
        Geneformer without transformers, for spots.
    OSError
        ``path`` cannot be written to, or has too little room.

    Examples
    --------
    >>> import flagst
    >>> adata = flagst.datasets.simulated_sections(n_sections=1)["table"]
    >>> reference = flagst.datasets.simulated_sections(n_sections=2, seed=7)["table"]
    >>> flagst.pp.gene_embeddings(adata, flagst.gfm.CoExpression(reference, n_components=16))
    >>> adata.varm["X_gene"].shape
    (60, 16)
    >>> flagst.pp.gene_embeddings(adata, "scGPT_human", mode="contextual", path="vectors")  # doctest: +SKIP
    >>> adata.obsm["X_gene_context"][:8].compute().shape  # doctest: +SKIP
    (8, 60, 512)
    """
    require_anndata(adata)
    require_one_of(mode, KEYS, name="mode")
    if (mode == "contextual") != (path is not None):
        what = "needs path=, the folder for its file" if path is None else "writes no file: leave out path="
        raise ValueError(f"mode={mode!r} {what}.")
    if mode == "cell" and genes is not None:
        raise ValueError("mode='cell' gives spots vectors, from all their genes: leave out genes=.")
    if isinstance(source, (str, Path)):
        source = open_gene_model(source)
    if isinstance(source, type) or not isinstance(source, GeneEncoder):
        raise TypeError(
            f"source must be a path or a gene encoder of flagst.gfm, made already; got {type(source).__name__}."
        )
    if mode != "static" and not isinstance(source, SpotEncoder):
        raise TypeError(f"{source.name} gives a gene one vector, mode='static'; {mode!r} takes scGPT or Geneformer.")
    if mode != "static" and not adata.n_obs:
        raise ValueError("There are no spots to give vectors to.")
    require_unique(adata.var_names, where="gene names", hint="Run adata.var_names_make_unique().")
    key = KEYS[mode] if key_added is None else key_added
    if mode == "static":
        record = _add_static(adata, source, _wanted(adata, genes), key)
    else:
        how = {"layer": layer, "batch_size": batch_size, "device": device, "half": half}
        if mode == "cell":
            record = _add_cell(adata, source, key, how, progress)
        else:
            record = _add_contextual(adata, source, _wanted(adata, genes), key, Path(path).expanduser(), how, progress)
    adata.uns.setdefault(UNS.flagst, {}).setdefault(SLOT.gene_embeddings, {})[key] = record


def _wanted(adata: "AnnData", genes: Sequence[str] | None) -> list[str]:
    """Genes that were asked for, or the panel, or all."""
    if genes is None:
        panel = adata.var[VAR.panel].isin([True]).to_numpy() if VAR.panel in adata.var else np.ones(adata.n_vars, bool)
        genes = adata.var_names[panel]
    genes = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    require_unique(genes, where="genes=", hint="Name each gene once.")
    if not genes:
        raise ValueError("There are no genes to give vectors to.")
    for gene in genes:
        require_key(
            adata.var.index,
            gene,
            where="adata.var_names",
            hint="flagst.pp.add_genes gives a table genes it has no counts of.",
        )
    return genes


def _add_static(adata: "AnnData", source: GeneEncoder, genes: list[str], key: str) -> dict[str, Any]:
    vectors, known = source.encode(adata, genes)
    vectors, known = np.asarray(vectors, dtype=np.float32), np.asarray(known, dtype=bool)
    if vectors.ndim != 2 or len(vectors) != len(genes) or known.shape != (len(genes),):
        raise ValueError(
            f"{source.name} returned vectors {vectors.shape} and a mask {known.shape} for {len(genes)} genes; "
            "(n_genes, d) and (n_genes,) are needed."
        )
    require_finite(vectors, where=f"The vectors of {source.name}", hint="Mark such genes as not known.")
    rows = adata.var_names.get_indexer(genes)
    written, has_vector = np.zeros((adata.n_vars, vectors.shape[1]), np.float32), np.zeros(adata.n_vars, bool)
    written[rows], has_vector[rows] = np.where(known[:, None], vectors, 0), known
    adata.varm[key], adata.var[VAR.has_vector] = written, has_vector
    logger.info("%d of %d genes have a vector of %s in varm[%r].", known.sum(), len(genes), source.name, key)
    missing = [gene for gene, found in zip(genes, known, strict=True) if not found]
    counts = {EMBEDDINGS.n_genes: len(genes), EMBEDDINGS.n_found: int(known.sum())}
    return source.provenance() | counts | ({EMBEDDINGS.missing: missing} if missing else {})


def _add_cell(adata: "AnnData", source: SpotEncoder, key: str, how: dict, progress: bool) -> dict[str, Any]:
    record, found, vectors = _spot_record(source, "cell", how), 0, None
    batches = source.encode_spots(adata, [], mode="cell", **how)
    for rows, batch, mask in _checked(batches, (), source, adata.n_obs, how["half"], progress):
        vectors = np.zeros((adata.n_obs, batch.shape[1]), np.float32) if vectors is None else vectors
        vectors[rows] = batch
        found += int(mask.sum())
    adata.obsm[key] = vectors
    logger.info("%d of %d spots have a vector of %s in obsm[%r].", found, adata.n_obs, source.name, key)
    return record | {EMBEDDINGS.shape: list(vectors.shape), EMBEDDINGS.n_found: found}


def _add_contextual(
    adata: "AnnData", source: SpotEncoder, genes: list[str], key: str, folder: Path, how: dict, progress: bool
) -> dict[str, Any]:
    record = _spot_record(source, "contextual", how) | {
        EMBEDDINGS.n_genes: len(genes),
        EMBEDDINGS.genes: genes,
        EMBEDDINGS.inputs: _inputs_digest(adata, source, how["layer"]),
    }
    path = array_path(folder.resolve(), record)
    said = read_description(path, record)
    if said is None:
        batches = source.encode_spots(adata, genes, mode="contextual", **how)
        checked = _checked(batches, (len(genes),), source, adata.n_obs, how["half"], progress)
        said = write_array(path, record, checked, n_spots=adata.n_obs)
    else:
        logger.info("Vectors of %s were there: %s.", source.name, path)
    adata.obsm[key] = lazy_array(path)
    logger.info(
        "%d of %d genes have a vector of %s somewhere in obsm[%r].",
        said[EMBEDDINGS.n_found], len(genes), source.name, key,
    )  # fmt: skip
    return said | {EMBEDDINGS.folder: str(path.parent), EMBEDDINGS.array: path.name}


def _spot_record(source: SpotEncoder, mode: str, how: dict) -> dict[str, Any]:
    """What shapes the vectors, but for the table."""
    layer = {} if how["layer"] is None else {EMBEDDINGS.counts_layer: how["layer"]}
    return source.provenance(mode) | {EMBEDDINGS.mode: mode, EMBEDDINGS.half: bool(how["half"])} | layer


def _inputs_digest(adata: "AnnData", source: SpotEncoder, layer: str | None) -> str:
    """SHA-256 of everything in the table that shapes the vectors; the counts are looked through once, in batches."""
    digest = sha256("\n".join([*adata.obs_names, "", *adata.var_names]).encode())
    # the vectors that genes start from tell how names were matched; coarse, as processors differ in the last digit
    static, _ = source.encode(adata, [str(gene) for gene in adata.var_names])
    digest.update(np.ascontiguousarray(static, dtype=np.float16))
    for _, counts in count_batches(adata, layer=layer, batch_size=_HASHED_AT_ONCE):
        counts = counts.copy()
        counts.sum_duplicates()
        counts.eliminate_zeros()
        for part, kind in ((counts.data, np.float64), (counts.indices, np.int64), (counts.indptr, np.int64)):
            digest.update(np.ascontiguousarray(part, dtype=kind))
    return digest.hexdigest()


def _checked(
    batches: Iterator[tuple], inner: tuple[int, ...], source: SpotEncoder, n_spots: int, half: bool, progress: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of the right shape, finite, and every spot once."""
    from tqdm.auto import tqdm

    hint = "Try half=False." if half else "Mask them."
    seen = np.zeros(n_spots, dtype=bool)
    with tqdm(total=n_spots, unit="spot", desc=f"vectors of {source.name}", disable=not progress) as bar:
        for rows, vectors, mask in batches:
            if vectors.shape[:-1] != (len(rows), *inner) or mask.shape != vectors.shape[:-1] or seen[rows].any():
                raise ValueError(
                    f"{source.name} returned vectors {vectors.shape} and a mask {mask.shape} for {len(rows)} spots; "
                    f"{('n_batch', *inner, 'd')} and {('n_batch', *inner)} are needed, and every spot once."
                )
            where = f"The vectors of {source.name}"
            require_finite(vectors.reshape(len(rows), -1), where=where, hint=hint, numbers=rows)
            seen[rows] = True
            bar.update(len(rows))
            yield rows, np.where(mask[..., None], vectors, 0), mask
    if not seen.all():
        raise ValueError(f"{source.name} returned vectors of {seen.sum()} of {n_spots} spots.")
