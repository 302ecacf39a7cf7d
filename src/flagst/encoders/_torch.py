"""What encoders with a torch network share: normalised batches, devices, precision. torch is imported late."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from flagst._checks import require_one_of
from flagst._keys import NETWORK
from flagst.encoders._base import encode_in_batches, remedy_of_nan

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
#: Mean and standard deviation of red, green, blue (0 to 1) in ImageNet, which most networks expect.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: The same of CLIP, for models of image and text.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class TorchEncoder:
    """An :class:`ImageEncoder` with one copy of a network per device. Several threads share the devices.

    Subclasses pass the network, and may override :meth:`_tensor` and :meth:`_vectors`.

    Parameters
    ----------
    network
        Maps (n_patches, 3, patch_px, patch_px) float32, normalised, to (n_patches, n_features). A module is set to
        evaluation and moved to the device; further devices get copies.
    record
        What :meth:`params` says besides the normalisation.
    name, patch_px, patch_um, mean, std, licence, device, precision, batch_size
        See :class:`flagst.encoders.CallableEncoder`.
    """

    version = "1"

    def __new__(cls, *args, **kwargs):
        """Keep the arguments: networks, devices and locks cannot be pickled."""
        encoder = super().__new__(cls)
        encoder._arguments = args, kwargs
        return encoder

    def __reduce__(self) -> tuple:
        """Make the encoder again from its arguments in another process, which reads the weights itself."""
        args, kwargs = self._arguments
        return partial(type(self), *args, **kwargs), ()

    def __init__(
        self,
        network: Callable,
        *,
        name: str,
        record: dict[str, Any],
        patch_px: int = 224,
        patch_um: float | Sequence[float] = 112.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        licence: str = "unknown",
        device: str | Sequence[str] | None = None,
        precision: str = "auto",
        batch_size: int = 32,
    ):
        require_one_of(precision, PRECISIONS, name="precision")
        if patch_px < 1 or batch_size < 1:
            raise ValueError(f"patch_px and batch_size must be 1 or more; got {patch_px!r} and {batch_size!r}.")
        self.name, self.precision, self.licence = name, precision, str(licence)
        self.patch_px, self.batch_size = int(patch_px), int(batch_size)
        self.patch_um = tuple(float(side) for side in np.atleast_1d(patch_um))
        self._mean, self._std = _three(mean, "mean"), _three(std, "std")
        if min(self._std) <= 0:
            raise ValueError(f"std must be positive; got {self._std}.")
        self._record = record
        self.devices = find_devices(device)
        # A thread takes a network, uses it and puts it back, so that no two threads use one device.
        self._free: SimpleQueue = SimpleQueue()
        for i, place in enumerate(self.devices):
            self._free.put((_placed(network, place, copy=i > 0), place))
        self.n_features = self._probe()

    @property
    def feature_names(self) -> list[str]:
        """Names of the features of one patch."""
        return [f"{self.name}_{i}" for i in range(self.n_features)]

    def params(self) -> dict[str, Any]:
        """Return the settings that change the vectors: weights, pooling, normalisation.

        Device and precision are not among them, because they change the vectors by rounding only.

        Returns
        -------
        Plain str, and lists of float for the colours.

        Examples
        --------
        >>> encoder = flagst.encoders.CallableEncoder(lambda x: x.mean((2, 3)), name="colour", mean=(0, 0, 0))
        >>> encoder.params()["mean"]
        [0.0, 0.0, 0.0]
        """
        return self._record | {NETWORK.mean: list(self._mean), NETWORK.std: list(self._std)}

    @property
    def dtypes(self) -> list[str]:
        """Number types that the devices compute in, such as ``["float16"]``."""
        return sorted({self._dtype(device) for device in self.devices})

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Encode patches. Several threads may call this at the same time.

        Parameters
        ----------
        patches
            ``(n_patches, patch_px, patch_px, 3)`` uint8, red, green, blue.

        Returns
        -------
        ``(n_patches, n_features)`` float32.

        Raises
        ------
        ValueError
            ``patches`` has another shape or dtype.

        Examples
        --------
        >>> encoder = flagst.encoders.CallableEncoder(lambda x: x.mean((2, 3)), name="colour", patch_px=64)
        >>> encoder.encode(np.zeros((2, 64, 64, 3), np.uint8)).shape
        (2, 3)
        """
        return encode_in_batches(self, patches, self.batch_size)

    def _tensor(self, patches: np.ndarray, device: "torch.device") -> "torch.Tensor":
        """Input of the network: (n_patches, 3, patch_px, patch_px) float32 on ``device``."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(device).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (self._mean, self._std))
        return pixels.sub_(mean).div_(std)

    def _vectors(self, network: Callable, pixels: "torch.Tensor") -> "torch.Tensor":
        """(n_patches, n_features) from the normalised patches."""
        return network(pixels)

    def _encode_batch(self, patches: np.ndarray) -> np.ndarray:
        import torch

        network, device = self._free.get()
        try:
            dtype = self._dtype(device)
            half = nullcontext() if dtype == "float32" else torch.autocast(device.type, dtype=getattr(torch, dtype))
            with torch.inference_mode(), half:
                vectors = self._vectors(network, self._tensor(patches, device))
                return torch.as_tensor(vectors).float().cpu().numpy()
        finally:
            self._free.put((network, device))

    def _dtype(self, device: "torch.device") -> str:
        import torch

        if self.precision != "auto":
            return self.precision
        if device.type != "cuda":
            return "float32"
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"

    def _probe(self) -> int:
        """Length of a vector, from one grey patch. This refuses a wrong network at once, not after hours."""
        vectors = self._encode_batch(np.full((1, self.patch_px, self.patch_px, 3), 128, np.uint8))
        if vectors.ndim != 2 or len(vectors) != 1:
            raise ValueError(
                f"Encoder {self.name!r} must give one vector per patch, (n_patches, n_features); for one patch it "
                f"gave {vectors.shape}."
            )
        if not np.isfinite(vectors).all():
            raise ValueError(
                f"Encoder {self.name!r} gives NaN or infinite values for a grey patch. {remedy_of_nan(self)}"
            )
        return vectors.shape[1]


def find_devices(device: str | Sequence[str] | None) -> list["torch.device"]:
    """Devices by name; ``None`` is the GPU if there is one, otherwise the CPU."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    names = [device] if isinstance(device, str) else list(device)
    if not names:
        raise ValueError("device must name one device or more; got none.")
    try:
        places = [torch.device(name) for name in names]
    except RuntimeError as error:
        raise ValueError(f"device must name torch devices such as 'cpu' or 'cuda:0'; got {device!r}.") from error
    if any(place.type == "cuda" for place in places) and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch finds no CUDA device here. Leave it out to use the CPU.")
    return places


def _placed(network: Callable, device: "torch.device", *, copy: bool) -> Callable:
    import torch

    if not isinstance(network, torch.nn.Module):
        return network
    return (deepcopy(network) if copy else network).to(device).eval().requires_grad_(False)


def _three(values: Sequence[float], name: str) -> tuple[float, float, float]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be three numbers, for red, green and blue; got {values!r}.")
    return numbers
