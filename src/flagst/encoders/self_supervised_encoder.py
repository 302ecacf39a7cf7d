"""An image encoder that is fitted on the user's own images, without a download and without expression."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flagst._checks import require_lengths
from flagst._files import drafted, guarded, load_weights
from flagst._keys import NETWORK
from flagst._weights import fit_weights
from flagst.encoders._base import require_patches
from flagst.encoders._torch import TorchEncoder
from flagst.encoders._vicreg import MEAN, N_STEPS, STD, fit_network, make_network
from flagst.encoders.callable_encoder import sha256_of_weights
from flagst.encoders.handcrafted import Handcrafted

if TYPE_CHECKING:
    from torch import nn

# Key and format of the settings, which are JSON in the metadata of the file.
_METADATA, _FORMAT = "flagst", "self-supervised encoder 1"


class SelfSupervisedEncoder(TorchEncoder):
    """A small network that was fitted on your own images, together with the handcrafted features.

    :func:`flagst.pp.fit_encoder` makes one from sections, and this class reads the file that :meth:`save` wrote. The
    network has four strided convolutions, whose 256 channels are averaged over a patch. It was trained without
    expression, so that two views of a patch get similar vectors.

    Parameters
    ----------
    path
        File that :meth:`save` wrote. Nothing in it is run.
    device, precision, batch_size
        See :class:`flagst.encoders.CallableEncoder`.

    Raises
    ------
    FileNotFoundError
        ``path`` is missing, or there is no such file.
    ValueError
        The file is broken, or was not written by :meth:`save`; a setting is out of range.

    Source
    ------
    VICReg: Bardes et al., ICLR 2022.

    Examples
    --------
    >>> patches = np.random.default_rng(0).integers(0, 256, (64, 112, 112, 3)).astype(np.uint8)
    >>> encoder = flagst.encoders.SelfSupervisedEncoder.fit(patches, n_steps=1, device="cpu")
    >>> encoder.save("encoder.safetensors")
    >>> flagst.encoders.SelfSupervisedEncoder("encoder.safetensors", device="cpu").n_features
    374
    """

    name = "self-supervised"

    def __init__(
        self,
        path: "str | Path | _Fitted | None" = None,
        *,
        device: str | Sequence[str] | None = None,
        precision: str = "auto",
        batch_size: int = 64,
    ):
        if path is None:
            raise FileNotFoundError(
                f"The encoder {self.name!r} needs the file that its save() wrote: path=. "
                "flagst.pp.fit_encoder makes one from sections of yours."
            )
        fitted = path if isinstance(path, _Fitted) else _read(Path(path).expanduser())
        self._fitted = fitted
        self._beside = Handcrafted() if fitted.with_handcrafted else None
        record = {
            NETWORK.sha256: sha256_of_weights(fitted.network),
            NETWORK.handcrafted: "none" if self._beside is None else self._beside.version,
        }
        super().__init__(
            fitted.network,
            name=self.name,
            patch_px=Handcrafted.patch_px,
            patch_um=fitted.patch_um,
            mean=MEAN,
            std=STD,
            licence="your own",
            record=record,
            device=device,
            precision=precision,
            batch_size=batch_size,
        )

    @classmethod
    def fit(
        cls,
        patches: np.ndarray,
        *,
        patch_um: float | Sequence[float] = Handcrafted.patch_um,
        with_handcrafted: bool = True,
        n_steps: int = N_STEPS,
        seed: int = 0,
        device: str | None = None,
        progress: bool = False,
    ) -> "SelfSupervisedEncoder":
        """Fit the network on patches; :func:`flagst.pp.fit_encoder` cuts them from sections.

        Parameters
        ----------
        patches
            ``(n_patches, 112, 112, 3)`` uint8, red, green, blue, 64 patches or more. Patches of all scales together, in
            the colours that the encoder will see.
        patch_um
            Sides of the patches in the tissue, micrometres, one per scale, for the record.
        with_handcrafted
            Put the handcrafted features before those of the network.
        n_steps
            Steps of the optimiser, with 128 patches each.
        seed
            Seed of weights, order and views.
        device
            Device of the training and of the encoder; by default the GPU if there is one.
        progress
            Show a progress bar.

        Returns
        -------
        The encoder.

        Raises
        ------
        ValueError
            ``patches`` has another shape or dtype, there are fewer than 64 patches, or a setting is out of range.
        RuntimeError
            The training diverged.

        Examples
        --------
        >>> encoder = flagst.encoders.SelfSupervisedEncoder.fit(patches, n_steps=400)  # doctest: +SKIP
        >>> encoder.encode(patches[:2]).shape  # doctest: +SKIP
        (2, 374)
        """
        require_patches(patches, Handcrafted.patch_px)
        scales = require_lengths(patch_um, name="patch_um")
        network = fit_network(patches, n_steps=n_steps, seed=seed, device=device, progress=progress)
        return cls(_Fitted(network, tuple(scales), bool(with_handcrafted)), device=device)

    @property
    def feature_names(self) -> list[str]:
        """Names of the features of one patch."""
        beside = [] if self._beside is None else self._beside.feature_names
        return [*beside, *(f"network_{i}" for i in range(self.n_features - len(beside)))]

    def save(self, path: str | Path) -> None:
        """Write the encoder to a safetensors file; an older file of this name is replaced.

        Parameters
        ----------
        path
            File name that ends in ``.safetensors``.

        Raises
        ------
        ValueError
            The file name has another suffix.

        Examples
        --------
        >>> encoder = flagst.pp.fit_encoder(sdata)  # doctest: +SKIP
        >>> encoder.save("encoder.safetensors")  # doctest: +SKIP
        """
        from safetensors.torch import save_file

        path = _require_suffix(Path(path).expanduser())
        network, patch_um, with_handcrafted = self._fitted
        about = {"format": _FORMAT, "patch_um": patch_um, "with_handcrafted": with_handcrafted}
        weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        with drafted(path) as draft:
            save_file(weights, draft, metadata={_METADATA: json.dumps(about)})

    def _encode_batch(self, patches: np.ndarray) -> np.ndarray:
        vectors = super()._encode_batch(patches)
        return vectors if self._beside is None else np.hstack([self._beside.encode(patches), vectors])


class _Fitted(NamedTuple):
    """The network, the sides of its patches, and whether handcrafted features come before its own."""

    network: "nn.Module"
    patch_um: tuple[float, ...]
    with_handcrafted: bool


def _read(path: Path) -> _Fitted:
    """What ``save`` wrote."""
    import torch

    about = guarded(_require_suffix(path), lambda: _about(path))
    with torch.random.fork_rng(devices=[]):  # the random weights are replaced below
        network = make_network()
    fit_weights(network, load_weights(path), file=path.name, model="the network of a self-supervised encoder")
    return _Fitted(network, **about)


def _about(path: Path) -> dict[str, Any]:
    """Settings in the metadata of a file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
    if about.get("format") != _FORMAT:
        raise ValueError("it was not written by SelfSupervisedEncoder.save")
    return {"patch_um": tuple(map(float, about["patch_um"])), "with_handcrafted": bool(about["with_handcrafted"])}


def _require_suffix(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise ValueError(f"The file of an encoder ends in .safetensors; got {path.name}.")
    return path
