"""Spots through the network of a gene model, a batch at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_counts, require_key

if TYPE_CHECKING:
    from anndata import AnnData

#: What a network gives of a spot: a vector for each of its genes, or one for itself.
MODES = ("contextual", "cell")
#: Where the vector of a spot is taken from.
POOLINGS = ("cls", "mean")


@dataclass(frozen=True)
class Sequences:
    """Spots as rows of tokens, padded to one length.

    Attributes
    ----------
    tokens
        ``(n_batch, length)`` int64.
    present
        ``(n_batch, length)`` bool, false where padded.
    is_gene
        ``(n_batch, length)`` bool, tokens of genes: not padding, not ``<cls>`` and the like.
    values
        ``(n_batch, length)`` float32 that go with the tokens; ``None`` where the model takes none.
    """

    tokens: np.ndarray
    present: np.ndarray
    is_gene: np.ndarray
    values: np.ndarray | None = None


def pad(rows: Sequence[np.ndarray], fill: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different length as one array, ``(n_rows, longest)``, and where they are, bool of that shape."""
    lengths = np.array([len(row) for row in rows])
    present = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = np.full(present.shape, fill, dtype=np.result_type(*rows))
    padded[present] = np.concatenate(rows)
    return padded, present


def count_batches(adata: "AnnData", *, layer: str | None, batch_size: int) -> Iterator[tuple[np.ndarray, Any]]:
    """Counts of consecutive spots, read when they are asked for; also from a table that is backed by a file.

    Parameters
    ----------
    adata
        Raw counts of the whole transcriptome.
    layer
        Layer that holds them; ``None`` for ``X``.
    batch_size
        Spots per batch.

    Returns
    -------
    Iterator over ``(n_batch,)`` int64 rows and ``(n_batch, n_vars)`` CSR counts.

    Raises
    ------
    KeyError
        No such layer.
    ValueError
        No counts, or values that are none.
    """
    import scipy.sparse as sp

    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number from 1; got {batch_size!r}.")
    if layer is not None:
        require_key(adata.layers, layer, where="adata.layers", hint="Name the layer of the raw counts.")
    matrix = adata.X if layer is None else adata.layers[layer]
    where = "adata.X" if layer is None else f"layer {layer!r}"
    if matrix is None:
        raise ValueError(f"{where} is empty; vectors of spots are made from their counts.")
    matrix = sp.csr_matrix(matrix) if sp.issparse(matrix) else matrix

    def read() -> Iterator[tuple[np.ndarray, Any]]:
        for start in range(0, adata.n_obs, batch_size):
            rows = np.arange(start, min(start + batch_size, adata.n_obs))
            block = matrix[start : start + batch_size]
            block = block.compute() if hasattr(block, "compute") else block
            require_counts(block, where=where)
            yield rows, sp.csr_matrix(block)

    return read()


def spot_vectors(
    batches: Iterator[tuple[np.ndarray, Any]],
    sequences: Callable[[Any], Sequences],
    network: Callable[..., Any],
    *,
    mode: str,
    gene_tokens: np.ndarray,
    width: int,
    pooling: str,
    unit: bool,
    device: str,
    half: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Vectors of spots, or of genes in spots, from the output of a network.

    Parameters
    ----------
    batches
        From :func:`count_batches`.
    sequences
        Makes :class:`Sequences` of counts.
    network
        Takes tensors ``tokens, present, values`` and returns ``(n_batch, length, width)``.
    mode
        ``"contextual"`` or ``"cell"``.
    gene_tokens
        ``(n_genes,)`` int64, tokens of the genes that are asked for, -1 for none; for ``"contextual"``.
    width
        Width of the vectors.
    pooling
        ``"cls"``, the first token, or ``"mean"`` over the tokens of genes; for ``"cell"``.
    unit
        Scale vectors of spots to unit length.
    device
        Of the network.
    half
        Half precision: bfloat16 on a CPU, else float16.

    Returns
    -------
    As :meth:`flagst.gfm.SpotEncoder.encode_spots`.
    """
    inner = (len(gene_tokens),) if mode == "contextual" else ()
    for rows, counts in batches:
        sequence = sequences(counts)
        # attention over nothing is not a number
        filled = np.flatnonzero(sequence.is_gene.any(axis=1))
        vectors = np.zeros((len(rows), *inner, width), dtype=np.float32)
        mask = np.zeros((len(rows), *inner), dtype=bool)
        if len(filled):
            output = _evaluate(network, sequence, filled, device=device, half=half)
            if mode == "contextual":
                vectors[filled], mask[filled] = _pick_genes(output, sequence, filled, gene_tokens)
            else:
                pooled = _pool(output, sequence.is_gene[filled], pooling)
                length = np.linalg.norm(pooled, axis=1, keepdims=True) if unit else 1
                vectors[filled], mask[filled] = pooled / length, True
        yield rows, vectors, mask


def _evaluate(network: Callable[..., Any], sequence: Sequences, rows: np.ndarray, *, device: str, half: bool) -> Any:
    """(n_rows, length, width) float32 output of the network."""
    import torch

    arrays = (sequence.tokens, sequence.present, sequence.values)
    inputs = [None if array is None else torch.as_tensor(array[rows], device=device) for array in arrays]
    kind = torch.device(device).type
    narrow = torch.bfloat16 if kind == "cpu" else torch.float16
    with torch.inference_mode(), torch.autocast(kind, dtype=narrow, enabled=half):
        return network(*inputs).float()


def _pick_genes(
    output: Any, sequence: Sequences, rows: np.ndarray, gene_tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n_rows, n_genes, width) output at the tokens of genes, zeros where a spot lacks one, and where it has it."""
    import torch

    tokens, is_gene = sequence.tokens[rows], sequence.is_gene[rows]
    place = np.full((len(rows), max(tokens.max(), gene_tokens.max()) + 1), -1)
    spot, position = np.nonzero(is_gene)
    place[spot, tokens[spot, position]] = position
    at = np.where(gene_tokens >= 0, place[:, gene_tokens], -1)
    mask = at >= 0
    index = torch.as_tensor(at.clip(0), device=output.device)[:, :, None].expand(-1, -1, output.shape[2])
    # picked on the device: what comes back is the genes asked for, not whole sequences
    return np.where(mask[:, :, None], output.gather(1, index).cpu().numpy(), 0), mask


def _pool(output: Any, is_gene: np.ndarray, pooling: str) -> np.ndarray:
    """(n_rows, width): the first token, or the mean over the tokens of genes."""
    import torch

    if pooling == "cls":
        return output[:, 0].cpu().numpy()
    weight = torch.as_tensor(is_gene, device=output.device, dtype=output.dtype)
    return ((output * weight[:, :, None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)).cpu().numpy()
