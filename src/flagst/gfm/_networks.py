"""Networks with the weights of somebody else's checkpoint, or not at all."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def fill_network(
    network: "nn.Module", state: dict[str, Any], *, weights: str, settings: str, whole: tuple[str, ...]
) -> "nn.Module":
    """A network with the weights of a file, ready to be evaluated.

    Parameters
    ----------
    network
        As the settings describe it.
    state
        Tensors by name; what the network has no use for is left, outside ``whole``.
    weights, settings
        Names of the two files, for the message.
    whole
        Beginnings of names under which the file may hold nothing that the network lacks, such as further layers.

    Returns
    -------
    The network.

    Raises
    ------
    ValueError
        The two files are not of one model, or weights are not finite; the files are named.
    """
    import torch

    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ValueError(
            f"{weights} lacks {len(missing)} of the {len(wanted)} arrays of a network as in {settings}, first "
            f"{missing[0]}: they are not of one model."
        )
    for name, tensor in wanted.items():
        found = state[name]
        if found.shape != tensor.shape:
            raise ValueError(
                f"{weights} has {name} of shape {tuple(found.shape)}, by {settings} it is {tuple(tensor.shape)}: they "
                "are not of one model."
            )
        if not torch.isfinite(found).all():
            raise ValueError(f"{weights} has values in {name} that are not finite.")
    further = [name for name in state if name.startswith(whole) and name not in wanted]
    if further:
        raise ValueError(f"{weights} has {further[0]}, a network as in {settings} does not: they are not of one model.")
    network.load_state_dict({name: state[name] for name in wanted})
    return network.eval().requires_grad_(False)


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
    state = {name.removeprefix("bert."): x for name, x in state.items() if not name.endswith("position_ids")}
    fill_network(network, state, weights=weights, settings="config.json", whole=("embeddings.", "encoder."))
    network.encoder.layer = network.encoder.layer[:depth]
    return network
