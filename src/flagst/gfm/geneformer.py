"""Gene vectors of a Geneformer checkpoint, and its dictionaries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_counts, require_key
from flagst._files import load_json, load_weights
from flagst._keys import EMBEDDINGS
from flagst.gfm._files import file_record, load_pickle, require_one_version
from flagst.gfm.names import aliases_of, match_genes, require_overlap, rows_of
from flagst.gfm.tokens import RankTokeniser

if TYPE_CHECKING:
    from anndata import AnnData

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_EMBEDDING = "embeddings.word_embeddings.weight"
_DICTIONARIES = {
    "tokens": "token_dictionary",
    "medians": "gene_median_dictionary",
    "symbols": "gene_name_id_dict",
}


class Geneformer:
    """Gene vectors of a Geneformer folder, V1 or V2: the input embedding of each gene's token.

    Parameters
    ----------
    path
        Folder with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``.
    dictionaries
        Folder with ``token_dictionary*``, ``gene_median_dictionary*`` and ``gene_name_id_dict*`` as ``.pkl`` or
        ``.json`` (V2 has ``_gc104M`` in the names); ``None`` for ``path``. Pickles are read without running anything
        they hold.
    names
        Dict from gene to Ensembl identifier, or a column of ``adata.var`` that holds it. Symbols are known without.

    Raises
    ------
    FileNotFoundError
        A file is missing; it is named.
    ValueError
        A file is broken, of another kind, or dictionary and weights do not go together; the file is named.
    ImportError
        ``model.safetensors`` without safetensors.

    Source
    ------
    Theodoris et al., Nature 2023; huggingface.co/ctheodoris/Geneformer.
    """

    name = "geneformer"

    def __init__(
        self,
        path: str | Path,
        *,
        dictionaries: str | Path | None = None,
        names: str | Mapping[str, str] | None = None,
    ):
        self.path, self.names = Path(path), names
        self.config = load_json(self.path / "config.json")
        if not isinstance(self.config, dict) or self.config.get("model_type") != "bert":
            raise ValueError(f"config.json of {self.path.name} is not that of a BERT model, as Geneformer's are.")
        folder = self.path if dictionaries is None else Path(dictionaries)
        found = {part: _dictionary(folder, stem) for part, stem in _DICTIONARIES.items()}
        self.symbols: dict[str, str] = found["symbols"]
        length = int(self.config.get("max_position_embeddings", 2048))
        self.tokeniser = RankTokeniser(found["tokens"], found["medians"], length)
        self.weights = next((name for name in _WEIGHTS if (self.path / name).is_file()), None)
        if self.weights is None:
            raise FileNotFoundError(f"{self.path} has neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}.")
        self.vectors = self._vectors(load_weights(self.path / self.weights))

    def encode(self, adata: "AnnData", genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`flagst.gfm.GeneEncoder.encode`. Symbols and Ensembl identifiers are looked for.

        Raises
        ------
        ValueError
            The dictionary knows less than a tenth of the genes.
        """
        ensembl, index = self._match(adata, genes)
        return rows_of(index, self.vectors[[self.tokeniser.tokens[name] for name in ensembl]])

    def tokenise(self, adata: "AnnData", *, layer: str | None = None) -> list[np.ndarray]:
        """Tokens of every spot, of its whole transcriptome: see :class:`flagst.gfm.RankTokeniser`."""
        ensembl, index = self._match(adata, [str(gene) for gene in adata.var_names])
        if layer is not None:
            require_key(adata.layers, layer, where="adata.layers", hint="Name the layer of the raw counts.")
        counts = adata.X if layer is None else adata.layers[layer]
        require_counts(counts, where="adata.X" if layer is None else f"layer {layer!r}")
        return self.tokeniser(counts, [ensembl[i] if i >= 0 else None for i in index])

    def provenance(self) -> dict[str, Any]:
        """Folder, hash of the weights, licence."""
        record = file_record(self.name, self.path / self.weights)
        return record | {EMBEDDINGS.licence: "Apache-2.0", EMBEDDINGS.kind: "input embedding"}

    def _match(self, adata: "AnnData", genes: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Ensembl identifiers that have a token, and which of them each gene is."""
        ensembl = [name for name in self.tokeniser.tokens if not name.startswith("<")]
        index = match_genes(genes, ensembl, aliases=self._aliases(adata, genes))
        require_overlap(index, genes, ensembl, where=f"The token dictionary of {self.path.name}")
        return ensembl, index

    def _aliases(self, adata: "AnnData", genes: Sequence[str]) -> dict[str, str]:
        """Ensembl identifiers of genes: as given, else by symbol in any case."""
        given = aliases_of(adata, self.names)
        symbols = list(self.symbols)
        index = match_genes(genes, symbols)
        return {gene: self.symbols[symbols[i]] for gene, i in zip(genes, index, strict=True) if i >= 0} | given

    def _vectors(self, state: dict[str, Any]) -> np.ndarray:
        name = next((key for key in state if key.endswith(_EMBEDDING)), None)
        if name is None:
            raise ValueError(f"{self.weights} has no {_EMBEDDING}; it is no Geneformer checkpoint.")
        values = state[name].float().numpy()
        require_one_version(self.tokeniser.tokens.values(), values, "The token dictionary", self.weights)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.weights} has gene embeddings that are not finite.")
        return values


def _dictionary(folder: Path, stem: str) -> dict:
    """A dictionary as ``.json`` or ``.pkl``, the one with the shortest name where there are several."""
    paths = sorted(folder.glob(f"{stem}*.json")) + sorted(folder.glob(f"{stem}*.pkl"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no {stem}*.pkl or {stem}*.json. Pass dictionaries=, their folder.")
    path = min(paths, key=lambda p: len(p.stem))
    held = load_json(path) if path.suffix == ".json" else load_pickle(path)
    if not isinstance(held, dict) or not held:
        raise ValueError(f"{path.name} is no dictionary.")
    return held
