"""Gene vectors of a scGPT checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._files import load_json, load_weights
from flagst._keys import EMBEDDINGS
from flagst.gfm._files import file_record, require_one_version
from flagst.gfm.names import aliases_of, match_genes, require_overlap, rows_of

if TYPE_CHECKING:
    from anndata import AnnData

_TABLE, _SCALE, _SHIFT = "encoder.embedding.weight", "encoder.enc_norm.weight", "encoder.enc_norm.bias"
_EPSILON = 1e-5  # of torch.nn.LayerNorm


class ScGPT:
    """Gene vectors of a scGPT folder: the input embedding of each gene's token, layer-normalised as the model does.

    Parameters
    ----------
    path
        Folder with ``vocab.json`` and ``best_model.pt``; the weights are read without running anything they hold.
        Fine-tuned and wrapped checkpoints (``module.`` before every name, or under ``model_state_dict``) are read too.
    names
        Dict from gene to symbol, or a column of ``adata.var`` that holds symbols.

    Raises
    ------
    FileNotFoundError
        A file is missing; it is named.
    ValueError
        A file is broken, of another kind, or vocabulary and weights do not go together; the file is named.

    Source
    ------
    Cui et al., Nature Methods 2024; github.com/bowang-lab/scGPT.
    """

    name = "scgpt"
    weights = "best_model.pt"

    def __init__(self, path: str | Path, *, names: str | Mapping[str, str] | None = None):
        self.path, self.names = Path(path), names
        vocabulary = load_json(self.path / "vocab.json")
        if not isinstance(vocabulary, dict) or not vocabulary:
            raise ValueError("vocab.json is no dict of symbol to token.")
        # <pad>, <cls> and <eoc> are no genes
        self.tokens = {symbol: i for symbol, i in vocabulary.items() if not symbol.startswith("<")}
        self.vectors = self._vectors(load_weights(self.path / self.weights))
        require_one_version(vocabulary.values(), self.vectors, "vocab.json", self.weights)

    def encode(self, adata: "AnnData", genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`flagst.gfm.GeneEncoder.encode`. Symbols are looked for.

        Raises
        ------
        ValueError
            The vocabulary knows less than a tenth of the genes.
        """
        symbols = list(self.tokens)
        index = match_genes(genes, symbols, aliases=aliases_of(adata, self.names))
        require_overlap(index, genes, symbols, where="vocab.json")
        return rows_of(index, self.vectors[list(self.tokens.values())])

    def provenance(self) -> dict[str, Any]:
        """Folder, hash of the weights, licence."""
        record = file_record(self.name, self.path / self.weights)
        return record | {EMBEDDINGS.licence: "MIT", EMBEDDINGS.kind: "input embedding"}

    def _vectors(self, state: dict[str, Any]) -> np.ndarray:
        state = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
        if _TABLE not in state or state[_TABLE].ndim != 2:
            raise ValueError(f"{self.weights} has no {_TABLE}; it is no scGPT checkpoint. Found {list(state)[:3]}.")
        values = state[_TABLE].float().numpy().astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.weights} has values in {_TABLE} that are not finite.")
        if _SCALE not in state or _SHIFT not in state:
            return values
        centred = values - values.mean(axis=1, keepdims=True)
        unit = centred / np.sqrt(centred.var(axis=1, keepdims=True) + _EPSILON)
        return unit * state[_SCALE].float().numpy() + state[_SHIFT].float().numpy()
