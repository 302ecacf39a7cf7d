"""Image features kept in a folder, block by block, so that an extraction goes on where it stopped."""

import hashlib
import json
import logging
import os
import re
import threading
from pathlib import Path

import numpy as np

from flagst._keys import FEATURES
from flagst.data.measured import plain
from flagst.data.patches import Block, Level, thumbnail
from flagst.encoders import ImageEncoder
from flagst.pp._stain import Stain

logger = logging.getLogger("flagst")

# Images up to this side are compared pixel by pixel, larger ones by every second, third, ... pixel.
_FINGERPRINT_PX = 4096


class FeatureCache:
    """Blocks of features of one encoder with one set of settings.

    A block is one ``.npy`` file, written under another name first: what bears its name is whole. Files that are not
    read as expected are written anew.

    Parameters
    ----------
    folder
        Made when it is missing; several encoders and any number of sections share one.
    encoder
        Its name, version and parameters make the name of the encoder's own folder.
    """

    def __init__(self, folder: str | os.PathLike, encoder: ImageEncoder):
        settings = {
            FEATURES.encoder: encoder.name,
            FEATURES.version: encoder.version,
            FEATURES.params: plain(encoder.params()),
        }
        text = json.dumps(settings, sort_keys=True)
        name = re.sub(r"[^\w.-]", "_", encoder.name)
        self.folder = Path(folder).expanduser() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "settings.json"
        if not about.is_file():
            self._write(about, lambda file: file.write(text.encode()))

    def key(self, image: str, block: Block, stain: Stain | None) -> str:
        """Name of a block: changes with the image, the places and size of the patches, and the colours applied."""
        level = (block.level.pixels.shape, block.level.factor_x, block.level.factor_y)
        colours = None if stain is None else (*map(float, stain.background), float(stain.strength))
        parts = (image, tuple(map(str, level)), float(block.step), block.out_px, colours)
        return hashlib.sha256(repr(parts).encode() + block.corners.astype("<i8").tobytes()).hexdigest()

    def load(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """Features of a block, (n_patches, n_features) float32; ``None`` when they are not there."""
        path = self.folder / f"{key}.npy"
        if not path.is_file():
            return None
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            values = None
        if values is None or values.shape != shape or values.dtype != np.float32 or not np.isfinite(values).all():
            logger.warning("%s is damaged; its patches are encoded again.", path)
            return None
        return values

    def store(self, key: str, values: np.ndarray) -> None:
        """Keep the features of a block."""
        self._write(self.folder / f"{key}.npy", lambda file: np.save(file, values, allow_pickle=False))

    def _write(self, path: Path, write) -> None:
        # of its own to process and thread: two runs may share the folder
        draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)


def fingerprint(levels: list[Level]) -> str:
    """Changes with an image's sizes and pixels; of images beyond 4,096 px some pixels are left out."""
    digest = hashlib.sha256(repr([tuple(int(n) for n in level.pixels.shape) for level in levels]).encode())
    digest.update(thumbnail(levels, longest=_FINGERPRINT_PX).tobytes())
    return digest.hexdigest()
