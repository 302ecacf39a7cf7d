"""Blocks of patches on the workers of a dask cluster."""

import pickle
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from flagst.data.measured import plain
from flagst.data.patches import Block, crop_block, read_region
from flagst.encoders import ImageEncoder
from flagst.pp._stain import Stain

if TYPE_CHECKING:
    from distributed import Client

# one encoder is made at a time: a network that is made twice may not fit
_making = Lock()


def encode_block(encoder: ImageEncoder, block: Block, stain: Stain | None) -> np.ndarray:
    """Features of one block of patches.

    Parameters
    ----------
    encoder
        Called with some patches at a time.
    block
        Where to read.
    stain
        That colours are brought from; ``None`` leaves them.

    Returns
    -------
    (n_patches, n_features) float32, in the order of ``block.rows``.
    """
    out = np.empty((len(block.rows), encoder.n_features), dtype=np.float32)
    for members, patches in crop_block(replace(block, rows=np.arange(len(block.rows)))):
        out[members] = encoder.encode(patches if stain is None else stain.apply(patches))
    return out


class Workers:
    """:func:`encode_block` on the workers of a cluster; may be called from several threads at once.

    The encoder travels once and is unpacked once per worker. What is lost with a worker is computed again on
    another one, both blocks and the encoder.

    Parameters
    ----------
    client
        Connected to the cluster.
    encoder
        Must survive pickling.

    Raises
    ------
    TypeError
        An encoder that cannot be pickled.
    """

    def __init__(self, client: "Client", encoder: ImageEncoder):
        self.client = client
        self.encoder = client.submit(bytes, _pack(encoder), pure=False)

    def __call__(self, block: Block, stain: Stain | None) -> np.ndarray:
        """Features of one block, (n_patches, n_features) float32; waits for them."""
        import cloudpickle

        # bytes: a dask array among the arguments would be looked into by the scheduler
        task = cloudpickle.dumps((_cut_out(block), stain))
        return self.client.submit(_encode_there, self.encoder, task, pure=False).result()


def require_client(client: "Client") -> None:
    """Raise a ``TypeError`` for anything that is no client of a dask cluster to wait for."""
    if not (hasattr(client, "submit") and hasattr(client, "nthreads")) or getattr(client, "asynchronous", False):
        raise TypeError(
            f"client must be a dask.distributed.Client, and no asynchronous one; got {type(client).__name__}. Start "
            "one with Client(LocalCluster()); it comes with pip install 'flagst[distributed]'."
        )


class _Part:
    """Part of a level's pixels that is indexed like the whole."""

    def __init__(self, pixels: object, region: tuple[slice, slice, slice]):
        self.shape, self.region = tuple(pixels.shape), region
        self.pixels = pixels[region]
        if hasattr(self.pixels, "dask"):
            import dask

            (self.pixels,) = dask.optimize(self.pixels)  # leaves the other chunks behind
        else:
            self.pixels = np.ascontiguousarray(self.pixels)

    def __getitem__(self, region: tuple[slice, slice, slice]) -> object:
        assert region == self.region
        return self.pixels


def _cut_out(block: Block) -> Block:
    """The same block with no more of the image than it reads."""
    return replace(block, level=replace(block.level, pixels=_Part(block.level.pixels, read_region(block))))


def _pack(encoder: ImageEncoder) -> bytes:
    """An encoder and what it says of itself."""
    import cloudpickle

    try:
        return cloudpickle.dumps((encoder, plain(encoder.params())))
    except Exception as error:
        raise TypeError(
            f"Encoder {encoder.name!r} cannot be sent to workers: {error}. Pass one that can be pickled, such as those "
            "of flagst.encoders made from a local path, or leave client= out."
        ) from error


@lru_cache(maxsize=1)
def _unpack(packed: bytes) -> ImageEncoder:
    """The encoder on this worker."""
    encoder, params = pickle.loads(packed)
    if plain(encoder.params()) != params:
        raise ValueError(
            f"Encoder {encoder.name!r} has other settings or weights on a worker than where it was sent from. Its "
            "files must be the same on all machines."
        )
    return encoder


def _encode_there(packed: bytes, task: bytes) -> np.ndarray:
    """What a worker runs."""
    with _making:
        encoder = _unpack(packed)
    return encode_block(encoder, *pickle.loads(task))
