"""Vectors from a scGPT checkpoint: of genes, of genes in spots, and of spots."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_key
from flagst._files import load_json, load_weights
from flagst._keys import EMBEDDINGS
from flagst._weights import bare_names, require_finite_weights
from flagst.gfm._files import require_one_version, settings_digest
from flagst.gfm.spots import Sequences, SpotModel, pad
from flagst.gfm.tokens import sum_by_token

if TYPE_CHECKING:
    from anndata import AnnData

    from flagst.gfm._scgpt_network import Arguments

_TABLE, _SCALE, _SHIFT = "encoder.embedding.weight", "encoder.enc_norm.weight", "encoder.enc_norm.bias"
_CLS = "<cls>"


class ScGPT(SpotModel):
    """Vectors from a scGPT folder.

    - Static, per gene: the input embedding of its token, layer-normalised as in the model (:meth:`encode`).
    - Contextual, per spot and gene: the output of the last layer at the token of the gene.
    - Cell, per spot: the output at ``<cls>``, scaled to length 1, as published.

    Contextual and cell vectors (:meth:`encode_spots`) come from the encoder of the model, in plain torch. A spot is
    ``<cls>`` and its expressed genes, with the count of each gene as one of ``n_bins`` bins. If a spot has more genes
    than the model can take, the genes with the highest counts are kept; of equal counts those that come first in the
    vocabulary. The published code takes genes at random instead.

    Parameters
    ----------
    path
        Folder with ``vocab.json`` and ``best_model.pt``; contextual and cell vectors also need ``args.json``. Nothing
        in the weights file is run. Fine-tuned and wrapped checkpoints (``module.`` before every name, or under
        ``model_state_dict``) are read too, with names of flash attention or of plain torch.
    names
        Dict from gene to symbol, or a column of ``adata.var`` with symbols.
    max_length
        Largest number of tokens of a spot, ``<cls>`` included; by default ``max_seq_len`` of ``args.json``.
    licence
        Licence of the weights, for the record; by default that of the published weights.

    Raises
    ------
    FileNotFoundError
        A file is missing; the message names it.
    ValueError
        A file is broken or of another kind, vocabulary and weights do not fit (the message names the file), or
        ``max_length`` is below 2.

    Source
    ------
    Cui et al., Nature Methods 2024; github.com/bowang-lab/scGPT.

    Examples
    --------
    >>> encoder = flagst.gfm.ScGPT("scGPT_human")  # doctest: +SKIP
    >>> for rows, vectors, mask in encoder.encode_spots(adata, ["ERBB2", "GNAS"]):  # doctest: +SKIP
    ...     print(rows, vectors.shape, mask.mean())
    """

    name = "scgpt"
    weights = "best_model.pt"
    pooling = "cls"
    unit = True

    def __init__(
        self,
        path: str | Path,
        *,
        names: str | Mapping[str, str] | None = None,
        max_length: int | None = None,
        licence: str | None = "MIT",
    ):
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length must be 2 or more; got {max_length}.")
        self.path, self.names, self.max_length, self.licence = Path(path), names, max_length, licence
        vocabulary = load_json(self.path / "vocab.json")
        if not isinstance(vocabulary, dict) or not vocabulary:
            raise ValueError("vocab.json is not a dict of symbol to token.")
        self._read_tokens(vocabulary, "vocab.json")
        self.vectors = self._vectors(load_weights(self.path / self.weights))
        require_one_version(vocabulary.values(), self.vectors, "vocab.json", self.weights)

    def _spot_settings(self) -> dict[str, Any]:
        arguments = self._arguments()
        return {
            EMBEDDINGS.kind: "last layer",
            EMBEDDINGS.max_length: self.max_length or arguments.max_length,
            EMBEDDINGS.settings: settings_digest(asdict(arguments), self.marks),
        }

    def _open(self, adata: "AnnData", device: str) -> tuple[Callable, Callable[[Any], Sequences]]:
        from flagst.gfm._scgpt_network import scgpt_network

        arguments = self._arguments()
        for mark in (_CLS, arguments.pad_token):
            require_key(self.marks, mark, where="vocab.json", hint="Contextual and cell vectors need it.")
        of_columns = self._tokens_of(adata, [str(gene) for gene in adata.var_names])
        network = scgpt_network(arguments, load_weights(self.path / self.weights), weights=self.weights)
        return network.to(device), lambda counts: self._sequences(counts, of_columns, arguments)

    def _arguments(self) -> "Arguments":
        from flagst.gfm._scgpt_network import read_arguments

        return read_arguments(self.path / "args.json")

    def _sequences(self, counts, of_columns: np.ndarray, arguments: "Arguments") -> Sequences:
        """Spots as ``<cls>`` and genes in the order of their tokens, with their bins."""
        columns = np.flatnonzero(of_columns >= 0)
        known, unique, _ = sum_by_token(counts, columns, of_columns[columns])
        room = (self.max_length or arguments.max_length) - 1
        tokens, values = [], []
        for start, end in pairwise(known.indptr):
            found, count = known.indices[start:end], known.data[start:end]
            kept = np.sort(np.argsort(-count, kind="stable")[:room])
            tokens.append(np.concatenate([[self.marks[_CLS]], unique[found[kept]]]))
            # as published, bins come from all genes of a spot, not only from those that are kept
            values.append(np.concatenate([[arguments.pad_value], bin_counts(count, arguments.n_bins)[kept]]))
        padded, present = pad(tokens, self.marks[arguments.pad_token])
        is_gene = present.copy()
        is_gene[:, 0] = False
        return Sequences(padded, present, is_gene, pad(values, arguments.pad_value)[0].astype(np.float32))

    def _vectors(self, state: dict[str, Any]) -> np.ndarray:
        from torch.nn.functional import layer_norm

        state = bare_names(state)
        if _TABLE not in state or state[_TABLE].ndim != 2:
            raise ValueError(f"{self.weights} has no {_TABLE}; it is no scGPT checkpoint. Found {list(state)[:3]}.")
        values = state[_TABLE].double()
        require_finite_weights(self.weights, {_TABLE: values})
        if _SCALE in state and _SHIFT in state:
            values = layer_norm(values, values.shape[1:], state[_SCALE].double(), state[_SHIFT].double())
        return values.numpy()


def bin_counts(counts: np.ndarray, n_bins: int) -> np.ndarray:
    """Counts of one spot, (n_expressed,) above 0, as bins of about equal size: int64 from 1 to ``n_bins - 1``.

    The bin of a count is the number of edges that it reaches, of ``n_bins - 1`` edges at equal quantiles; bin 0 is for
    genes that are not expressed. A count that equals several edges could be in any of their bins. The published code
    draws one at random; here it is the middle one, so that a spot always has the same vectors.

    Examples
    --------
    >>> from flagst.gfm.scgpt import bin_counts
    >>> bin_counts(np.array([1, 1, 1, 2, 9]), n_bins=6)
    array([2, 2, 2, 4, 5])
    """
    if not len(counts):
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(counts, np.linspace(0, 1, n_bins - 1))
    reached, passed = np.digitize(counts, edges), np.digitize(counts, edges, right=True)
    return -((reached + passed) // -2)
