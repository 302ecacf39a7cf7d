"""Spots through the network of a gene model, a batch at a time: what scGPT and Geneformer share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flagst._checks import require_counts, require_key, require_one_of
from flagst._keys import EMBEDDINGS
from flagst.gfm._files import file_record
from flagst.gfm.names import aliases_of, match_genes, require_overlap, rows_of

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

#: What a network gives for a spot: a vector per gene, or one vector.
MODES = ("contextual", "cell")
#: Where the vector of a spot comes from: the token ``<cls>``, or the mean over the tokens of genes.
POOLINGS = ("cls", "mean")


class Sequences(NamedTuple):
    """Spots as rows of tokens, padded to one length.

    ``tokens`` (n_spots, length) int64; ``present`` bool, false where padded; ``is_gene`` bool, false for padding and
    special tokens; ``values`` float32, or ``None`` for a model that takes no values. All have the same shape.
    """

    tokens: np.ndarray
    present: np.ndarray
    is_gene: np.ndarray
    values: np.ndarray | None = None


class SpotModel:
    """A gene model in a folder. A subclass reads the folder, and says how a spot becomes tokens."""

    name: str
    path: Path
    #: Name of the file of the weights.
    weights: str
    licence: str | None
    #: Dict from gene to another name of it, or a column of ``adata.var``.
    names: str | Mapping[str, str] | None
    #: Tokens of genes by the name that the model has for them, and special tokens such as ``<cls>``.
    tokens: dict[str, int]
    marks: dict[str, int]
    #: What the dictionary of tokens is called in messages.
    vocabulary: str
    #: Input embedding of every token: (n_tokens, d).
    vectors: np.ndarray
    #: One of ``POOLINGS``.
    pooling: str
    #: Whether the vector of a spot is scaled to length 1.
    unit = False

    def encode(self, adata: "AnnData", genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Look up the static vector of each gene: the input embedding of its token.

        Parameters
        ----------
        adata
            Table of the genes; ``names`` may be a column of its ``var``.
        genes
            Gene names, symbols or Ensembl identifiers.

        Returns
        -------
        vectors
            ``(n_genes, d)`` float32; zeros for a gene that the model does not know.
        known
            ``(n_genes,)`` bool; true where the gene has a vector.

        Raises
        ------
        KeyError
            ``adata.var`` has no column ``names``.
        ValueError
            The model knows less than a tenth of the genes.

        Examples
        --------
        >>> encoder = flagst.gfm.open_gene_model("scGPT_human")  # doctest: +SKIP
        >>> vectors, known = encoder.encode(adata, ["ERBB2", "GNAS"])  # doctest: +SKIP
        >>> vectors.shape  # doctest: +SKIP
        (2, 512)
        """
        return rows_of(self._tokens_of(adata, genes), self.vectors)

    def encode_spots(
        self,
        adata: "AnnData",
        genes: Sequence[str],
        *,
        mode: str = "contextual",
        layer: str | None = None,
        batch_size: int = 8,
        device: str = "cpu",
        half: bool = False,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Compute vectors of genes in spots, or of spots, one batch of spots at a time.

        Neither the batch size nor the order of genes or spots changes the vectors, except for rounding.

        Parameters
        ----------
        adata
            Raw counts of the whole transcriptome, not only of ``genes``: the other genes are the context of a gene.
            Counts are read one batch at a time, so the table may be sparse, or backed by a file.
        genes
            Gene names; used with ``mode="contextual"`` only.
        mode
            ``"contextual"``: a vector per spot and gene. ``"cell"``: a vector per spot.
        layer
            Layer of the counts; ``None`` for ``X``.
        batch_size
            Number of spots per batch.
        device
            Device of the network, as torch names it: ``"cpu"``, ``"cuda:0"``.
        half
            Compute in half precision: bfloat16 on a CPU, float16 elsewhere.

        Returns
        -------
        An iterator over ``rows, vectors, mask`` of a batch: ``(n_batch,)`` int64, ``(n_batch, n_genes, d)`` or
        ``(n_batch, d)`` float32, and bool without the last axis: see :meth:`flagst.gfm.SpotEncoder.encode_spots`.

        Raises
        ------
        FileNotFoundError
            A file of the model is missing; it is named.
        ImportError
            Geneformer without transformers.
        KeyError
            ``adata`` has no such layer, or the vocabulary lacks a special token.
        ValueError
            The files do not belong to one model, or describe a variant that is not supported (the file is named); the
            values are not counts; the model knows less than a tenth of the genes; a setting is out of range.

        Examples
        --------
        >>> encoder = flagst.gfm.open_gene_model("scGPT_human")  # doctest: +SKIP
        >>> for rows, vectors, mask in encoder.encode_spots(adata, ["ERBB2", "GNAS"]):  # doctest: +SKIP
        ...     print(rows, vectors.shape, mask.mean())
        """
        require_one_of(mode, MODES, name="mode")
        batches = count_batches(adata, layer=layer, batch_size=batch_size)
        wanted = self._tokens_of(adata, genes) if mode == "contextual" else None
        network, sequences = self._open(adata, device)
        return (
            (rows, *self._spot_vectors(network, sequences(counts), wanted, device=device, half=half))
            for rows, counts in batches
        )

    def provenance(self, mode: str = "static") -> dict[str, Any]:
        """Describe where the vectors come from.

        Parameters
        ----------
        mode
            ``"static"``, or a mode of :meth:`encode_spots`, which adds the settings that change its vectors.

        Returns
        -------
        Plain values: encoder, file of the weights and its SHA-256, licence, kind of vector, settings.

        Raises
        ------
        FileNotFoundError
            A file of the model is missing; it is named.
        ValueError
            A file is broken, or ``hidden_layer`` is out of range.

        Examples
        --------
        >>> encoder = flagst.gfm.open_gene_model("scGPT_human")  # doctest: +SKIP
        >>> encoder.provenance()["licence"]  # doctest: +SKIP
        'MIT'
        """
        record = file_record(self.name, self.path / self.weights) | {EMBEDDINGS.licence: self.licence}
        if mode == "static":
            return record | {EMBEDDINGS.kind: "input embedding"}
        return record | self._spot_settings() | ({EMBEDDINGS.pooling: self.pooling} if mode == "cell" else {})

    def _read_tokens(self, held: Mapping[str, int], vocabulary: str) -> None:
        """Keep the tokens of a dictionary; ``vocabulary`` is what it is called in messages."""
        self.tokens = {name: token for name, token in held.items() if not name.startswith("<")}
        self.marks = {name: token for name, token in held.items() if name.startswith("<")}
        self.vocabulary = vocabulary

    def _aliases(self, adata: "AnnData", genes: Sequence[str]) -> dict[str, str]:
        """Other names of genes, under which the model may know them."""
        return aliases_of(adata, self.names)

    def _match(self, adata: "AnnData", genes: Sequence[str]) -> np.ndarray:
        """(n_genes,) int64 position of each gene in ``tokens``, -1 for a gene without token."""
        known = list(self.tokens)
        index = match_genes(genes, known, aliases=self._aliases(adata, genes))
        require_overlap(index, genes, known, where=self.vocabulary)
        return index

    def _tokens_of(self, adata: "AnnData", genes: Sequence[str]) -> np.ndarray:
        """(n_genes,) int64 token of each gene, -1 for a gene without token."""
        index = self._match(adata, genes)
        return np.where(index >= 0, np.array(list(self.tokens.values()))[index], -1)

    def _open(self, adata: "AnnData", device: str) -> tuple[Callable, Callable[[Any], Sequences]]:
        """The network, from tensors ``tokens, present, values`` to (n_spots, length, d); counts to sequences."""
        raise NotImplementedError

    def _spot_settings(self) -> dict[str, Any]:
        """Record of the settings that change vectors of :meth:`encode_spots`."""
        raise NotImplementedError

    def _spot_vectors(
        self, network: Callable, sequences: Sequences, wanted: np.ndarray | None, *, device: str, half: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of the tokens ``wanted``, (n_spots, n_genes, d), or without it of spots, (n_spots, d); the mask."""
        shape = sequences.tokens.shape[:1] if wanted is None else (len(sequences.tokens), len(wanted))
        vectors = np.zeros((*shape, self.vectors.shape[1]), dtype=np.float32)
        mask = np.zeros(shape, dtype=bool)
        # a softmax over no token at all is NaN
        filled = np.flatnonzero(sequences.is_gene.any(axis=1))
        if len(filled):
            sequences = Sequences(*(part if part is None else part[filled] for part in sequences))
            output = _evaluate(network, sequences, device=device, half=half)
            if wanted is not None:
                vectors[filled], mask[filled] = _pick_genes(output, sequences, wanted)
            else:
                pooled = _pool(output, sequences.is_gene, self.pooling)
                length = np.linalg.norm(pooled, axis=1, keepdims=True) if self.unit else 1
                vectors[filled], mask[filled] = pooled / length, True
        return vectors, mask


def pad(rows: Sequence[np.ndarray], fill: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different length as one array, ``(n_rows, longest)``, and where they are, bool of that shape."""
    lengths = np.array([len(row) for row in rows])
    present = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = np.full(present.shape, fill, dtype=np.result_type(*rows))
    padded[present] = np.concatenate(rows)
    return padded, present


def count_batches(adata: "AnnData", *, layer: str | None, batch_size: int) -> Iterator[tuple[np.ndarray, Any]]:
    """Read the counts of consecutive spots when they are asked for, also from a table that is backed by a file.

    Gives (n_batch,) int64 rows and (n_batch, n_vars) CSR counts. Raises a ``KeyError`` for a missing layer, and a
    ``ValueError`` for a batch size below 1, for no counts, and for values that are not counts.
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
            block = matrix[start : start + batch_size]
            block = block.compute() if hasattr(block, "compute") else block
            require_counts(block, where=where)
            yield np.arange(start, start + block.shape[0]), sp.csr_matrix(block)

    return read()


def _evaluate(network: Callable[..., Any], sequences: Sequences, *, device: str, half: bool) -> "torch.Tensor":
    """(n_spots, length, d) float32 output of the network."""
    import torch

    arrays = (sequences.tokens, sequences.present, sequences.values)
    inputs = [None if array is None else torch.as_tensor(array, device=device) for array in arrays]
    kind = torch.device(device).type
    narrow = torch.bfloat16 if kind == "cpu" else torch.float16
    with torch.inference_mode(), torch.autocast(kind, dtype=narrow, enabled=half):
        return network(*inputs).float()


def _pick_genes(output: "torch.Tensor", sequences: Sequences, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n_spots, n_genes, d) output at the wanted tokens, zeros where a spot lacks one; the mask of where it has one."""
    import torch

    tokens = sequences.tokens
    place = np.full((len(tokens), max(tokens.max(), wanted.max()) + 1), -1)
    spot, position = np.nonzero(sequences.is_gene)
    place[spot, tokens[spot, position]] = position
    at = np.where(wanted >= 0, place[:, wanted], -1)
    mask = at >= 0
    index = torch.as_tensor(at.clip(0), device=output.device)[:, :, None].expand(-1, -1, output.shape[2])
    # gathered on the device, because whole sequences are much larger than the genes that were asked for
    return np.where(mask[:, :, None], output.gather(1, index).cpu().numpy(), 0), mask


def _pool(output: "torch.Tensor", is_gene: np.ndarray, pooling: str) -> np.ndarray:
    """(n_spots, d): the first token, or the mean over the tokens of genes."""
    import torch

    if pooling == "cls":
        return output[:, 0].cpu().numpy()
    weight = torch.as_tensor(is_gene, device=output.device, dtype=output.dtype)
    return ((output * weight[:, :, None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)).cpu().numpy()
