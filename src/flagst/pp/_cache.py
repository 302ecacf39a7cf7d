"""Image features in a folder, block by block, so that a run that was stopped can continue."""

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np

from flagst._files import drafted, file_name
from flagst._keys import FEATURES
from flagst.data.measured import plain
from flagst.data.patches import Block, Level
from flagst.encoders import ImageEncoder
from flagst.pp._stain import Stain

logger = logging.getLogger("flagst")

#: Increase it if data/patches.py or pp/_stain.py produce other pixels of the same image: old files are then not used.
FORMAT = 1
# Of an image with longer sides, only every second, third, ... pixel of a row and column is compared.
_FINGERPRINT_PX = 4096
_ROWS_AT_ONCE = 1024


class FeatureCache:
    """Blocks of features of one encoder with one set of settings.

    A block is one ``.npy`` file. It is written under a temporary name first, so a file with the final name is complete.
    A file that cannot be read as expected is written again.

    Parameters
    ----------
    folder
        Created if missing. Several encoders and any number of sections can share it.
    encoder
        Its name, version, parameters and, for a network, its data type determine the name of its own folder.
    elsewhere
        Whether other machines compute the features. If the data type is ``"auto"``, their devices choose it.
    """

    def __init__(self, folder: str | os.PathLike, encoder: ImageEncoder, *, elsewhere: bool = False):
        dtypes = list(getattr(encoder, "dtypes", ()))
        if elsewhere and getattr(encoder, "precision", None) == "auto":
            dtypes = ["auto"]
        settings = {
            FEATURES.encoder: encoder.name,
            FEATURES.version: encoder.version,
            FEATURES.params: plain(encoder.params()),
            "dtypes": dtypes,
        }
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.folder = Path(folder).expanduser() / f"{file_name(encoder.name)}-{digest[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "settings.json"
        if not about.is_file():
            with drafted(about) as draft:
                draft.write_text(text, encoding="utf-8")

    def key(self, image: str, block: Block, stain: Stain | None) -> str:
        """Name of a block. It depends on the image, the positions and size of the patches, and the stain.

        Parameters
        ----------
        image
            :func:`fingerprint` of the level that the block is cut from.
        block
            Patches.
        stain
            Stain normalisation of the patches, if any.
        """
        level = (block.level.pixels.shape, block.level.factor_x, block.level.factor_y)
        colours = None if stain is None else (*map(float, stain.background), float(stain.strength))
        parts = (FORMAT, image, tuple(map(str, level)), float(block.step), block.out_px, colours)
        return hashlib.sha256(repr(parts).encode() + block.corners.astype("<i8").tobytes()).hexdigest()

    def load(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """Features of a block, (n_patches, d_encoder) float32; ``None`` if there are none."""
        path = self.folder / f"{key}.npy"
        if not path.is_file():
            return None
        try:
            values = np.load(path, allow_pickle=False)
        except Exception:  # noqa: BLE001  a damaged header can raise any error
            values = None
        if values is None or values.shape != shape or values.dtype != np.float32 or not np.isfinite(values).all():
            logger.warning("%s is damaged. Its patches are encoded again.", path)
            return None
        return values

    def store(self, key: str, values: np.ndarray) -> None:
        """Save the features of a block."""
        with drafted(self.folder / f"{key}.npy") as draft, draft.open("wb") as file:
            np.save(file, values, allow_pickle=False)


def fingerprint(level: Level) -> str:
    """A hash of the size and the pixels of one resolution of an image; beyond 4,096 px, of some of the pixels.

    It does not depend on whether the image is in memory, or on the size of its chunks.
    """
    pixels = level.pixels
    _, height, width = (int(n) for n in pixels.shape)
    stride = max(1, -(-max(height, width) // _FINGERPRINT_PX))
    digest = hashlib.sha256(repr((height, width, stride)).encode())
    # some rows of whole chunks at a time: a large image does not fit into memory
    chunk = int(getattr(pixels, "chunksize", pixels.shape)[1])
    at_once = chunk * max(1, _ROWS_AT_ONCE // chunk)
    for top in range(0, height, at_once):
        rows = np.asarray(pixels[:, top + -top % stride : top + at_once : stride, ::stride])
        digest.update(np.ascontiguousarray(np.moveaxis(rows, 0, 2)))
    return digest.hexdigest()
