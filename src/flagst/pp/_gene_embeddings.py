"""Add embeddings of genes, of genes in spots, and of spots to a table."""

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

#: Mode -> default name in ``varm`` or ``obsm``.
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
    """Add embeddings of genes, of genes in spots, or of spots.

    :class:`flagst.FLAG` can align to them: ``gfm="X_gene"``. Contextual vectors are stored in a file and read by rows.
    If the call is repeated, also after the table was written and read, it finds the file and computes nothing. Another
    model, setting, gene or count leads to another file. The name of an incomplete file ends in ``.part``. A run that
    was stopped leaves such a file. It is never read, and can be deleted.

    Parameters
    ----------
    adata
        Table of the spots. ``"contextual"`` and ``"cell"`` need raw counts of the whole transcriptome.
    source
        A gene encoder of :mod:`flagst.gfm`; or the path of a file of vectors or of the folder of a gene model, see
        :func:`flagst.gfm.open_gene_model`. Nothing is downloaded.
    mode
        ``"static"``: one vector per gene. ``"contextual"``: one vector per spot and gene. ``"cell"``: one vector per
        spot. The last two need a :class:`flagst.gfm.SpotEncoder`: scGPT or Geneformer.
    genes
        Genes that get a vector. By default the panel (``var["flagst_panel"]``) if there is one, else all. Not used for
        ``"cell"``.
    key_added
        Name in ``varm`` or ``obsm``. By default ``"X_gene"``, ``"X_gene_context"`` or ``"X_cell"``.
    path
        Folder for the file of ``"contextual"``, which needs it. The file takes 2 bytes for each of the
        ``n_spots * n_genes * d_gene`` numbers.
    layer
        Layer with the counts; by default ``X``.
    batch_size, device, half
        See :meth:`flagst.gfm.SpotEncoder.encode_spots`.
    progress
        Show a progress bar while spots are processed.

    Writes
    ------
    ``varm[key_added]``
        Static: (n_genes, d_gene) float32, zero for genes without a vector.
    ``var["flagst_has_vector"]``
        Static: bool, whether a gene has a vector in the array that was written last.
    ``obsm[key_added]``
        Contextual: (n_spots, n_genes, d_gene) float16, a lazy dask array, genes in the order of ``genes``. It is zero
        where a gene has no vector in a spot: the model does not know the gene, the gene is not expressed there, or the
        spot has more genes than the model takes. Subsets of ``adata`` stay lazy. Writing ``adata`` copies the vectors
        into its file, and reading that file loads them. To avoid this, run ``del adata.obsm[key_added]`` before
        writing, and repeat the call after reading. Cell: (n_spots, d_cell) float32, zero for spots without known genes.
    ``uns["flagst"]["gene_embeddings"][key_added]``
        Encoder, file and its SHA-256 or sections, licence if known, number of genes asked for and found, names of those
        without a vector (static, if there are any). For spots also mode, layer of the model, genes in order, shape,
        folder and file.

    Raises
    ------
    KeyError
        ``adata`` has no such gene or layer.
    ValueError
        Gene names are repeated, a file cannot be read (it is named), the source knows less than a tenth of the genes,
        it returns values of another shape or that are not finite, the counts are not raw counts, there are no spots or
        genes, ``mode`` is unknown, or ``path`` is missing or not used by this mode.
    TypeError
        ``adata`` is a SpatialData, or ``source`` has another type or cannot encode spots.
    ImportError
        Geneformer needs transformers to encode spots.
    OSError
        The folder ``path`` cannot be written to, or the disk has too little space.

    Examples
    --------
    >>> source = flagst.gfm.CoExpression(sdata["table"], n_components=8)
    >>> flagst.pp.gene_embeddings(adata, source)
    >>> adata.varm["X_gene"].shape
    (20, 8)
    >>> flagst.pp.gene_embeddings(adata, "scGPT_human", mode="contextual", path="vectors")  # doctest: +SKIP
    >>> adata.obsm["X_gene_context"][:8].compute().shape  # doctest: +SKIP
    (8, 20, 512)
    """
    require_anndata(adata)
    require_one_of(mode, KEYS, name="mode")
    if (mode == "contextual") != (path is not None):
        what = "needs path=, the folder for its file" if path is None else "writes no file: leave out path="
        raise ValueError(f"mode={mode!r} {what}.")
    if mode == "cell" and genes is not None:
        raise ValueError("mode='cell' encodes spots from all their genes: leave out genes=.")
    if isinstance(source, (str, Path)):
        source = open_gene_model(source)
    if isinstance(source, type) or not isinstance(source, GeneEncoder):
        raise TypeError(
            f"source must be a path or a gene encoder of flagst.gfm, made already; got {type(source).__name__}."
        )
    if mode != "static" and not isinstance(source, SpotEncoder):
        raise TypeError(f"{source.name} gives a gene one vector, mode='static'; {mode!r} needs scGPT or Geneformer.")
    if mode != "static" and not adata.n_obs:
        raise ValueError("adata has no spots to encode.")
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
    """The given genes, else the panel, else all genes."""
    if genes is None:
        panel = adata.var[VAR.panel].isin([True]).to_numpy() if VAR.panel in adata.var else np.ones(adata.n_vars, bool)
        genes = adata.var_names[panel]
    genes = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    require_unique(genes, where="genes=", hint="Name each gene once.")
    if not genes:
        raise ValueError("There are no genes to encode.")
    for gene in genes:
        require_key(
            adata.var.index,
            gene,
            where="adata.var_names",
            hint="flagst.pp.add_genes adds genes that were not measured to a table.",
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
        logger.info("Found vectors of %s in %s.", source.name, path)
    adata.obsm[key] = lazy_array(path)
    logger.info(
        "%d of %d genes have a vector of %s somewhere in obsm[%r].",
        said[EMBEDDINGS.n_found], len(genes), source.name, key,
    )  # fmt: skip
    return said | {EMBEDDINGS.folder: str(path.parent), EMBEDDINGS.array: path.name}


def _spot_record(source: SpotEncoder, mode: str, how: dict) -> dict[str, Any]:
    """Everything that the vectors depend on, except for the table."""
    layer = {} if how["layer"] is None else {EMBEDDINGS.counts_layer: how["layer"]}
    return source.provenance(mode) | {EMBEDDINGS.mode: mode, EMBEDDINGS.half: bool(how["half"])} | layer


def _inputs_digest(adata: "AnnData", source: SpotEncoder, layer: str | None) -> str:
    """SHA-256 of everything in the table that the vectors depend on; the counts are read once, in batches."""
    digest = sha256("\n".join([*adata.obs_names, "", *adata.var_names]).encode())
    # static vectors depend on how gene names were matched; float16, because processors differ in the last digits
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
    """Yield the batches; check their shape, that they are finite, and that every spot occurs once."""
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
