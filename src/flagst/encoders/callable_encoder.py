"""An image encoder from any function or torch module."""

import hashlib
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

from flagst._keys import NETWORK
from flagst.encoders._torch import IMAGENET_MEAN, IMAGENET_STD, TorchEncoder

if TYPE_CHECKING:
    import torch


class CallableEncoder(TorchEncoder):
    """Image encoder from a function that maps a batch of patches to one vector per patch.

    Parameters
    ----------
    function
        Called with ``(n_patches, 3, patch_px, patch_px)`` float32, normalised with ``mean`` and ``std``; returns
        ``(n_patches, n_features)``. A :class:`torch.nn.Module` is copied, set to evaluation and moved to the device.
        Its weights and layers are hashed, but not the code of your own ``forward``: change ``version`` when that
        changes. Any other function is identified by ``name`` and ``version`` only.
    name
        Written next to the features. By default the name of the function or module.
    version
        Change it when the same patch gets other numbers.
    patch_px
        Side of a patch, pixels.
    patch_um
        Side of a patch in the tissue, micrometres; one per scale.
    mean, std
        Three numbers each, for red, green and blue in colours from 0 to 1. By default those of ImageNet; (0, 0, 0) and
        (1, 1, 1) leave the colours unmodified.
    licence
        Licence of the weights, for the record.
    device
        ``"cuda"``, ``"cpu"``, or several devices that share the patches, such as ``["cuda:0", "cuda:1"]``. By default
        the GPU if there is one; the CPU for a function that is not a module.
    precision
        ``"auto"`` (half precision on a GPU, float32 on the CPU), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    batch_size
        Number of patches that go through the network at once.

    Raises
    ------
    TypeError
        ``function`` cannot be called, or is a class.
    ValueError
        A setting is out of range; the function has no name; it does not give one finite vector per patch.

    Examples
    --------
    >>> encoder = flagst.encoders.CallableEncoder(lambda x: x.mean((2, 3)), name="colour", patch_px=64, patch_um=100)
    >>> encoder.encode(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 3)
    >>> encoder.feature_names
    ['colour_0', 'colour_1', 'colour_2']
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
        record = {}
        if isinstance(function, torch.nn.Module):
            function = deepcopy(function)
            record[NETWORK.sha256] = sha256_of_weights(function)
            record[NETWORK.structure] = sha256_of_layers(function)
            name = name or type(function).__name__
        else:
            device = "cpu" if device is None else device
            name = name or getattr(function, "__name__", None)
        if name in (None, "<lambda>"):
            raise ValueError("A function without a name needs name=, which is written next to the features.")
        self.version = str(version)
        super().__init__(
            function,
            name=name,
            patch_px=patch_px,
            patch_um=patch_um,
            mean=mean,
            std=std,
            licence=licence,
            record=record,
            device=device,
            precision=precision,
            batch_size=batch_size,
        )


def sha256_of_weights(network: "torch.nn.Module") -> str:
    """SHA-256 of the names and values of a network's weights and buffers, whatever their device."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor):
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + raw.numpy().tobytes())
    return digest.hexdigest()


def sha256_of_layers(network: "torch.nn.Module") -> str:
    """SHA-256 of a network's layers and their settings, for layers without weights such as activations."""
    text = f"{type(network).__qualname__}\n{network!r}"
    return hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", text).encode()).hexdigest()
