"""Any function or module of yours as an image encoder."""

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

from flagst._keys import NETWORK
from flagst.encoders._torch import IMAGENET_MEAN, IMAGENET_STD, TorchEncoder

if TYPE_CHECKING:
    import torch


class CallableEncoder(TorchEncoder):
    """Encoder from a function that takes a batch of patches and gives a vector for each.

    Parameters
    ----------
    function
        Called with (n_patches, 3, patch_px, patch_px) float32, normalised with ``mean`` and ``std``; gives
        (n_patches, n_features). A :class:`torch.nn.Module` is copied, set to evaluation and moved to the device, and
        its weights are hashed; of any other function only ``name`` and ``version`` say which one it is.
    name
        Written beside the features. By default the function's own.
    version
        Change it whenever the same patch gives other numbers.
    patch_px
        Side of the patches, pixels.
    patch_um
        Side of the patches, micrometres, one per scale.
    mean, std
        Of red, green and blue, colours from 0 to 1. By default those of ImageNet; (0, 0, 0) and (1, 1, 1) leave
        colours as they are.
    licence
        Of the weights, for the record.
    device
        ``"cuda"``, ``"cpu"``, or several (``["cuda:0", "cuda:1"]``), which then share the patches. By default the GPU
        where there is one; for functions that are no module, the CPU.
    precision
        ``"auto"`` (half precision on a GPU, float32 on the CPU), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    batch_size
        Patches that go through the network at once.

    Raises
    ------
    ValueError
        Settings out of range, a function without a name, or one that does not give one finite vector per patch.

    Example
    -------
    >>> import numpy as np
    >>> from flagst.encoders import CallableEncoder
    >>> encoder = CallableEncoder(lambda x: x.mean((2, 3)), name="colour", patch_px=64, patch_um=100)
    >>> encoder.encode(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 3)
    """

    def __init__(
        self,
        function: Callable[["torch.Tensor"], "torch.Tensor"],
        *,
        name: str | None = None,
        version: str = "1",
        patch_px: int = 224,
        patch_um: float | Sequence[float] = 112.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        licence: str = "unknown",
        device: str | Sequence[str] | None = None,
        precision: str = "auto",
        batch_size: int = 32,
    ):
        import torch

        if not callable(function) or isinstance(function, type):
            raise TypeError(f"function must be called with patches; got {function!r}.")
        record = {NETWORK.licence: licence}
        if isinstance(function, torch.nn.Module):
            function = deepcopy(function)
            record[NETWORK.sha256] = sha256_of_weights(function)
            name = name or type(function).__name__
        else:
            device = "cpu" if device is None else device
            name = name or getattr(function, "__name__", None)
        if name in (None, "<lambda>"):
            raise ValueError("A function without a name needs name=, which is written beside the features.")
        self.version = str(version)
        super().__init__(
            function,
            name=name,
            patch_px=patch_px,
            patch_um=patch_um,
            mean=mean,
            std=std,
            record=record,
            device=device,
            precision=precision,
            batch_size=batch_size,
        )


def sha256_of_weights(network: "torch.nn.Module") -> str:
    """SHA-256 of a network's weights and buffers with their names, wherever they are kept."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor):
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + raw.numpy().tobytes())
    return digest.hexdigest()
