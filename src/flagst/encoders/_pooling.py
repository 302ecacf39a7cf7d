"""From the tokens of a vision transformer to one vector."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: class token; mean of the patch tokens; the two side by side.
TOKEN_POOLINGS = ("cls", "mean", "cls_mean")


def pool_tokens(tokens: "torch.Tensor", pooling: str, *, n_prefix: int) -> "torch.Tensor":
    """Pool tokens.

    Parameters
    ----------
    tokens
        (n_patches, n_tokens, width): class token, registers, patch tokens.
    pooling
        One of ``TOKEN_POOLINGS``.
    n_prefix
        Tokens before the patch tokens: the class token and the registers.

    Returns
    -------
    (n_patches, width), or (n_patches, 2 * width) for ``"cls_mean"``.

    Raises
    ------
    ValueError
        No tokens, or no class token where one is wanted.
    """
    import torch

    if tokens.ndim != 3:
        raise ValueError(f"pooling {pooling!r} is for vision transformers; this network gives {tuple(tokens.shape)}.")
    if pooling != "mean" and n_prefix == 0:
        raise ValueError(f"pooling {pooling!r} needs a class token, which this network has not; use 'mean'.")
    if pooling == "cls":
        return tokens[:, 0]
    mean = tokens[:, n_prefix:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)
