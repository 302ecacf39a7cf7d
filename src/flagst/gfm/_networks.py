"""Networks of other libraries with the weights of a checkpoint, or not at all."""

from typing import TYPE_CHECKING, Any

from flagst._weights import bare_names, fit_weights

if TYPE_CHECKING:
    from torch import nn


def bert_network(config: dict[str, Any], state: dict[str, Any], *, weights: str, depth: int) -> "nn.Module":
    """Transformers' ``BertModel`` up to a layer.

    Built from the settings and filled here, because loading by name would invent what a file lacks, and could ask
    the hub.

    Parameters
    ----------
    config
        Of ``config.json``.
    state
        Tensors by name, with or without ``bert.`` before them.
    weights
        Name of their file, for the message.
    depth
        Layers that are evaluated.

    Returns
    -------
    The network, ready to be evaluated; ``last_hidden_state`` is that of layer ``depth``, 0 for the input.

    Raises
    ------
    ImportError
        Transformers is not installed.
    ValueError
        Settings that are not of a BERT model, or weights that do not go with them.
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
    except Exception as error:  # settings of another kind raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"config.json does not describe a BERT model: {reason}") from error
    # older files keep the numbers 0, 1, 2, ... as if they were weights
    state = {name: x for name, x in bare_names(state).items() if not name.endswith("position_ids")}
    state = {name.removeprefix("bert."): x for name, x in state.items()}  # beside it are heads that it is trained with
    whole = ("embeddings.", "encoder.")
    fit_weights(
        network, state, file=weights, model="a network as in config.json", spare=lambda name: not name.startswith(whole)
    )
    network.encoder.layer = network.encoder.layer[:depth]
    return network.eval().requires_grad_(False)
