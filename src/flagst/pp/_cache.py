"""Image features kept in a folder, block by block, so that an extraction goes on where it stopped."""

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

#: Raised when data/patches.py or pp/_stain.py give other pixels of the same image: what was kept is then not taken.
FORMAT = 1
# Levels up to this side are compared pixel by pixel, larger ones by every second, third, ... pixel of a row or column.
_FINGERPRINT_PX = 4096
_ROWS_AT_ONCE = 1024


class FeatureCache:
    """Blocks of features of one encoder with one set of settings.

    A block is one ``.npy`` file, written under another name first: what bears its name is whole. Files that are not
    read as expected are written anew.

    Parameters
    ----------
    folder
        Made when it is missing; several encoders and any number of sections share one.
    encoder
        Its name, version, parameters and, of a network, the type it computes in make the name of its own folder.
    elsewhere
        Whether it is made anew on other machines, whose devices choose the type where it is left to them.
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
        """Name of a block: changes with the image, the places and size of the patches, and the colours applied.

        Parameters
        ----------
        image
            :func:`fingerprint` of the level that the block is cut from.
        block
            Patches.
        stain
            Applied to them.
        """
        level = (block.level.pixels.shape, block.level.factor_x, block.level.factor_y)
        colours = None if stain is None else (*map(float, stain.background), float(stain.strength))
        parts = (FORMAT, image, tuple(map(str, level)), float(block.step), block.out_px, colours)
        return hashlib.sha256(repr(parts).encode() + block.corners.astype("<i8").tobytes()).hexdigest()

    def load(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """Features of a block, (n_patches, n_features) float32; ``None`` when they are not there."""
        path = self.folder / f"{key}.npy"
        if not path.is_file():
            return None
        try:
            values = np.load(path, allow_pickle=False)
        except Exception:  # noqa: BLE001  what numpy makes of a damaged header raises anything
            values = None
        if values is None or values.shape != shape or values.dtype != np.float32 or not np.isfinite(values).all():
            logger.warning("%s is damaged; its patches are encoded again.", path)
            return None
        return values

    def store(self, key: str, values: np.ndarray) -> None:
        """Keep the features of a block."""
        with drafted(self.folder / f"{key}.npy") as draft, draft.open("wb") as file:
            np.save(file, values, allow_pickle=False)


def fingerprint(level: Level) -> str:
    """Changes with the size and pixels of one resolution of an image; beyond 4,096 px some pixels are left out.

    The same whether the image is in memory or in chunks of any size.
    """
    pixels = level.pixels
    _, height, width = (int(n) for n in pixels.shape)
    stride = max(1, -(-max(height, width) // _FINGERPRINT_PX))
    digest = hashlib.sha256(repr((height, width, stride)).encode())
    # in whole chunks, some rows at a time: a large image does not fit into memory
    chunk = int(getattr(pixels, "chunksize", pixels.shape)[1])
    at_once = chunk * max(1, _ROWS_AT_ONCE // chunk)
    for top in range(0, height, at_once):
        rows = np.asarray(pixels[:, top + -top % stride : top + at_once : stride, ::stride])
        digest.update(np.ascontiguousarray(np.moveaxis(rows, 0, 2)))
    return digest.hexdigest()
