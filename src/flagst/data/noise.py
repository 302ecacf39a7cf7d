"""Noise that belongs to a spot, not to a batch."""

from hashlib import blake2b

import numpy as np


def spot_noise(
    section: str, spot_names: np.ndarray, *, seed: int | str, widths: tuple[int, ...]
) -> list[np.ndarray]:
    """Standard normal noise keyed by (seed, section, spot name).

    A spot gets the same numbers whatever else is predicted with it: order, tiling and batch size
    do not change a prediction.

    Parameters
    ----------
    section, spot_names
        Names; ``spot_names`` is ``(n_spots,)``.
    seed
        Seed of the draw.
    widths
        Numbers per spot, one array each.

    Returns
    -------
    Arrays ``(n_spots, width)`` float32.
    """
    out = np.empty((len(spot_names), sum(widths)), dtype=np.float32)
    for row, name in enumerate(spot_names):
        key = blake2b(f"{seed}\x1f{section}\x1f{name}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        out[row] = generator.standard_normal(out.shape[1], dtype=np.float32)
    return np.split(out, np.cumsum(widths)[:-1], axis=1)
