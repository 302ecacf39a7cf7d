"""Vectors from a Geneformer checkpoint: of genes, of genes in spots, and of spots."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_one_of
from flagst._files import load_json, load_weights, reason_of
from flagst._keys import EMBEDDINGS
from flagst._weights import WEIGHT_FILES, bare_names, fit_weights, require_finite_weights
from flagst.gfm._files import load_pickle, require_one_version, settings_digest
from flagst.gfm.names import match_genes
from flagst.gfm.spots import POOLINGS, Sequences, SpotModel, count_batches, pad
from flagst.gfm.tokens import RankTokeniser

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

_EMBEDDING = "embeddings.word_embeddings.weight"
_TOKENISED_AT_ONCE = 4096  # spots
_DICTIONARIES = ("token_dictionary", "gene_median_dictionary", "gene_name_id_dict")


class Geneformer(SpotModel):
    """Vectors from a Geneformer folder, V1 or V2.

    - Static, per gene: the input embedding of its token (:meth:`encode`).
    - Contextual, per spot and gene: the output of a layer at the token of the gene, by default the last layer but one.
    - Cell, per spot: the output of that layer at ``<cls>`` if the model has this token (V2), otherwise the mean over
      the tokens of genes (V1).

    The defaults are those of the published extractor. Contextual and cell vectors (:meth:`encode_spots`) need the
    library transformers, whose BERT gets the weights of the folder. Nothing is downloaded.

    Parameters
    ----------
    path
        Folder with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``.
    dictionaries
        Folder with ``token_dictionary*``, ``gene_median_dictionary*`` and ``gene_name_id_dict*`` as ``.pkl`` or
        ``.json`` (V2 has ``_gc104M`` in the names); ``None`` for ``path``. Nothing in a pickle is run.
    names
        Dict from gene to Ensembl identifier, or a column of ``adata.var`` with these identifiers. Symbols are known
        without it.
    hidden_layer
        Layer of contextual and cell vectors, with Python's indices: -1 is the last layer, 0 the input.
    pooling
        Vector of a spot: ``"cls"`` or ``"mean"``; ``None`` chooses by the version of the model, see above.
    licence
        Licence of the weights, for the record; by default that of the published weights.

    Raises
    ------
    FileNotFoundError
        A file is missing; the message names it.
    ValueError
        A file is broken or of another kind, dictionary and weights do not fit (the message names the file), or
        ``pooling`` is not possible.

    Source
    ------
    Theodoris et al., Nature 2023; huggingface.co/ctheodoris/Geneformer.

    Examples
    --------
    >>> encoder = flagst.gfm.Geneformer("Geneformer-V2-104M", dictionaries="geneformer")  # doctest: +SKIP
    >>> for rows, vectors, mask in encoder.encode_spots(adata, ["ERBB2", "GNAS"]):  # doctest: +SKIP
    ...     print(rows, vectors.shape, mask.mean())
    """

    name = "geneformer"

    def __init__(
        self,
        path: str | Path,
        *,
        dictionaries: str | Path | None = None,
        names: str | Mapping[str, str] | None = None,
        hidden_layer: int = -2,
        pooling: str | None = None,
        licence: str | None = "Apache-2.0",
    ):
        self.path, self.names, self.hidden_layer, self.licence = Path(path), names, hidden_layer, licence
        self.config = load_json(self.path / "config.json")
        if not isinstance(self.config, dict) or self.config.get("model_type") != "bert":
            raise ValueError(f"config.json of {self.path.name} is not that of a BERT model, as Geneformer's are.")
        folder = self.path if dictionaries is None else Path(dictionaries)
        tokens, medians, self.symbols = (_dictionary(folder, stem) for stem in _DICTIONARIES)
        self._read_tokens(tokens, f"The token dictionary of {self.path.name}")
        self.tokeniser = RankTokeniser(tokens, medians, int(self.config.get("max_position_embeddings", 2048)))
        self.pooling = pooling or ("cls" if "<cls>" in tokens else "mean")
        require_one_of(self.pooling, POOLINGS, name="pooling")
        if self.pooling == "cls" and "<cls>" not in tokens:
            raise ValueError("pooling='cls' needs <cls>, and the token dictionary has none: this is V1. Use 'mean'.")
        self.weights = next((name for name in WEIGHT_FILES if (self.path / name).is_file()), None)
        if self.weights is None:
            raise FileNotFoundError(f"{self.path} has neither {' nor '.join(WEIGHT_FILES)}.")
        self.vectors = self._vectors(load_weights(self.path / self.weights))

    def tokenise(self, adata: "AnnData", *, layer: str | None = None) -> list[np.ndarray]:
        """Turn the whole transcriptome of each spot into tokens; see :class:`flagst.gfm.RankTokeniser`.

        Parameters
        ----------
        adata
            Raw counts of the whole transcriptome.
        layer
            Layer of the counts; ``None`` for ``X``.

        Returns
        -------
        Per spot ``(n_tokens,)`` int64.

        Raises
        ------
        KeyError
            ``adata`` has no such layer.
        ValueError
            The values are not counts, or the dictionary knows less than a tenth of the genes.

        Examples
        --------
        >>> flagst.gfm.Geneformer("Geneformer-V2-104M").tokenise(adata)[0][:3]  # doctest: +SKIP
        """
        ensembl, batches = self._ensembl(adata), count_batches(adata, layer=layer, batch_size=_TOKENISED_AT_ONCE)
        return [cell for _, counts in batches for cell in self.tokeniser(counts, ensembl)]

    def _spot_settings(self) -> dict[str, Any]:
        return {
            EMBEDDINGS.kind: "hidden layer",
            EMBEDDINGS.hidden_layer: self._depth(),
            EMBEDDINGS.settings: settings_digest(self.config, self.tokeniser.tokens, self.tokeniser.medians),
        }

    def _open(self, adata: "AnnData", device: str) -> tuple[Callable, Callable[[Any], Sequences]]:
        ensembl, state = self._ensembl(adata), load_weights(self.path / self.weights)
        bert = _bert(self.config, state, weights=self.weights, depth=self._depth()).to(device)

        def network(tokens, present, _):
            return bert(input_ids=tokens, attention_mask=present.long()).last_hidden_state

        return network, lambda counts: self._sequences(counts, ensembl)

    def _depth(self) -> int:
        """The chosen layer, counted from the input, which is 0."""
        layers = self.config.get("num_hidden_layers")
        if not isinstance(layers, int) or not -layers - 1 <= self.hidden_layer <= layers:
            raise ValueError(f"hidden_layer is {self.hidden_layer}, and by config.json the model has {layers} layers.")
        return self.hidden_layer % (layers + 1)

    def _ensembl(self, adata: "AnnData") -> list[str | None]:
        """Ensembl identifier of every column of a table."""
        index, known = self._match(adata, [str(gene) for gene in adata.var_names]), list(self.tokens)
        return [known[i] if i >= 0 else None for i in index]

    def _sequences(self, counts, ensembl: list[str | None]) -> Sequences:
        """Spots as tokens, padded."""
        tokens, present = pad(self.tokeniser(counts, ensembl), self.marks.get("<pad>", 0))
        return Sequences(tokens, present, present & ~np.isin(tokens, list(self.marks.values())))

    def _aliases(self, adata: "AnnData", genes: Sequence[str]) -> dict[str, str]:
        """Ensembl identifiers of genes: as given, otherwise by symbol, in upper or lower case."""
        symbols, given = list(self.symbols), super()._aliases(adata, genes)
        index = match_genes(genes, symbols)
        return {gene: self.symbols[symbols[i]] for gene, i in zip(genes, index, strict=True) if i >= 0} | given

    def _vectors(self, state: dict[str, Any]) -> np.ndarray:
        name = next((key for key in state if key.endswith(_EMBEDDING)), None)
        if name is None:
            raise ValueError(f"{self.weights} has no {_EMBEDDING}; it is no Geneformer checkpoint.")
        values = state[name].float()
        require_one_version(self.tokeniser.tokens.values(), values, self.vocabulary, self.weights)
        require_finite_weights(self.weights, {_EMBEDDING: values})
        return values.numpy()


def _bert(config: dict[str, Any], state: dict[str, Any], *, weights: str, depth: int) -> "torch.nn.Module":
    """Transformers' ``BertModel`` up to layer ``depth``, 0 for the input; ``weights`` names the file in messages.

    The weights are put in here, because loading a model by its name would fill missing weights at random, and could
    ask the hub.
    """
    try:
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise ImportError(
            "Contextual and cell vectors of Geneformer need transformers: pip install 'flagst[encoders]'. "
            "Static vectors do not."
        ) from error
    try:
        network = BertModel(BertConfig.from_dict(config), add_pooling_layer=False)
    except Exception as error:  # wrong settings raise errors of any type
        raise ValueError(f"config.json does not describe a BERT model: {reason_of(error)}") from error
    state = {name.removeprefix("bert."): tensor for name, tensor in bare_names(state).items()}
    # Heads for training are left out, and the position numbers 0, 1, 2, ... that older files keep among the weights.
    state = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(("embeddings.", "encoder.")) and not name.endswith("position_ids")
    }
    fit_weights(network, state, file=weights, model="a network as in config.json")
    network.encoder.layer = network.encoder.layer[:depth]
    return network.eval().requires_grad_(False)


def _dictionary(folder: Path, stem: str) -> dict:
    """A dictionary as ``.json`` or ``.pkl``; of several the one with the shortest name."""
    paths = sorted(folder.glob(f"{stem}*.json")) + sorted(folder.glob(f"{stem}*.pkl"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no {stem}*.pkl or {stem}*.json. Pass dictionaries=, their folder.")
    path = min(paths, key=lambda p: len(p.stem))
    held = load_json(path) if path.suffix == ".json" else load_pickle(path)
    if not isinstance(held, dict) or not held:
        raise ValueError(f"{path.name} is not a dictionary.")
    return held
