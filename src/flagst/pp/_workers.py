"""Encode blocks of patches on the workers of a dask cluster."""

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

# one encoder is loaded at a time: two copies of a network may not fit into memory
_making = Lock()


def encode_block(encoder: ImageEncoder, block: Block, stain: Stain | None) -> np.ndarray:
    """Features of one block of patches.

    Parameters
    ----------
    encoder
        Called with some of the patches at a time.
    block
        Patches and the level to read them from.
    stain
        Stain to normalise; ``None`` leaves the colours unmodified.

    Returns
    -------
    (n_patches, d_encoder) float32, in the order of ``block.rows``.
    """
    out = np.empty((len(block.rows), encoder.n_features), dtype=np.float32)
    for members, patches in crop_block(replace(block, rows=np.arange(len(block.rows)))):
        out[members] = encoder.encode(patches if stain is None else stain.apply(patches))
    return out


class Workers:
    """:func:`encode_block` on the workers of a cluster. Several threads may call it at the same time.

    The encoder is sent once and unpacked once per worker. If a worker is lost, another one repeats its work.

    Parameters
    ----------
    client
        Connected to the cluster.
    encoder
        An encoder that can be pickled.

    Raises
    ------
    TypeError
        The encoder cannot be pickled.
    """

    def __init__(self, client: "Client", encoder: ImageEncoder):
        self.client = client
        self.encoder = client.submit(bytes, _pack(encoder), pure=False)

    def __call__(self, block: Block, stain: Stain | None) -> np.ndarray:
        """Features of one block, (n_patches, d_encoder) float32. Waits for the worker."""
        import cloudpickle

        # as bytes, because the scheduler would compute a dask array among the arguments
        task = cloudpickle.dumps((_cut_out(block), stain))
        return self.client.submit(_encode_there, self.encoder, task, pure=False).result()


def require_client(client: "Client") -> None:
    """Raise a ``TypeError`` unless ``client`` is a synchronous client of a dask cluster."""
    if not (hasattr(client, "submit") and hasattr(client, "nthreads")) or getattr(client, "asynchronous", False):
        raise TypeError(
            f"client must be a dask.distributed.Client that is not asynchronous; got {type(client).__name__}. Start "
            "one with Client(LocalCluster()); it comes with pip install 'flagst[distributed]'."
        )


class _Part:
    """A part of a level's pixels, indexed like the whole level."""

    def __init__(self, pixels: object, region: tuple[slice, slice, slice]):
        self.shape, self.region = tuple(pixels.shape), region
        self.pixels = pixels[region]
        if hasattr(self.pixels, "dask"):
            import dask

            (self.pixels,) = dask.optimize(self.pixels)  # drops the other chunks from the graph
        else:
            self.pixels = np.ascontiguousarray(self.pixels)

    def __getitem__(self, region: tuple[slice, slice, slice]) -> object:
        assert region == self.region
        return self.pixels


def _cut_out(block: Block) -> Block:
    """The same block, with only the part of the image that it reads."""
    return replace(block, level=replace(block.level, pixels=_Part(block.level.pixels, read_region(block))))


def _pack(encoder: ImageEncoder) -> bytes:
    """The encoder and its parameters, pickled."""
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
            f"Encoder {encoder.name!r} has other settings or weights on a worker than on the sending machine. Its "
            "files must be the same on all machines."
        )
    return encoder


def _encode_there(packed: bytes, task: bytes) -> np.ndarray:
    """The task of a worker."""
    with _making:
        encoder = _unpack(packed)
    return encode_block(encoder, *pickle.loads(task))
