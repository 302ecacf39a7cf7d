"""From the tokens of a vision transformer to one vector."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: The class token; the mean of the patch tokens; both, concatenated.
TOKEN_POOLINGS = ("cls", "mean", "cls_mean")


def pool_tokens(tokens: "torch.Tensor", pooling: str, *, n_prefix: int, has_class: bool) -> "torch.Tensor":
    """Pool (n_patches, n_tokens, width) to (n_patches, width), or twice that width for ``"cls_mean"``.

    ``n_prefix`` tokens come before the patch tokens: the class token, if the network has one, and the registers. Raises
    a ``ValueError`` when these are no tokens, or when a class token is needed and missing.
    """
    import torch

    if tokens.ndim != 3:
        raise ValueError(f"pooling {pooling!r} is for vision transformers; this network gives {tuple(tokens.shape)}.")
    if pooling != "mean" and not has_class:
        raise ValueError(f"pooling {pooling!r} needs a class token, which this network does not have; use 'mean'.")
    if pooling == "cls":
        return tokens[:, 0]
    mean = tokens[:, n_prefix:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)
