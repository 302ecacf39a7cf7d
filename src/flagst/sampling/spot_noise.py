"""Noise that belongs to a spot, not to a batch."""

from hashlib import blake2b

import numpy as np

from flagst.data.sections import Section


def spot_noise(section: str, spot_names: np.ndarray, *, seed: int | str, widths: tuple[int, ...]) -> list[np.ndarray]:
    """Standard normal noise keyed by (seed, section, spot name).

    A spot gets the same numbers whatever else is predicted with it: order, tiling and batch size
    do not change a prediction. Nor does what comes after: the first numbers are the same for any further widths.

    Parameters
    ----------
    section, spot_names
        Names; ``spot_names`` is ``(n_spots,)``.
    seed
        Seed of the sample.
    widths
        Numbers per spot, one array each.

    Returns
    -------
    Arrays ``(n_spots, width)`` float32.
    """
    out = np.empty((len(spot_names), sum(widths)), dtype=np.float32)
    # one generator that is set to each spot's key: making one per spot takes five times as long
    bits = np.random.Philox(key=0)
    generator, start = np.random.Generator(bits), bits.state
    named = blake2b(f"{seed}\x1f{section}\x1f".encode(), digest_size=16)
    for row, name in zip(out, np.asarray(spot_names).tolist(), strict=True):
        key = named.copy()
        key.update(str(name).encode())
        start["state"]["key"] = np.frombuffer(key.digest(), dtype="<u8")
        bits.state = start
        generator.standard_normal(dtype=np.float32, out=row)
    return np.split(out, np.cumsum(widths)[:-1], axis=1)


def shared_noise(section: Section, around: np.ndarray, *, seed: int | str, width: int) -> np.ndarray:
    """Standard normal noise that neighbours have in common: independent noise summed up over a spot's surroundings.

    Parameters
    ----------
    section
        The whole section.
    around
        ``(n_rows, n_around)`` spots whose noise is summed up for each row, see
        :meth:`flagst.data.sections.Section.around`.
    seed
        Seed of the sample. The noise that is summed up is keyed as in :func:`spot_noise`.
    width
        Numbers per spot, independent of each other.

    Returns
    -------
    ``(n_rows, width)`` float32 of variance 1.
    """
    kept, place = np.unique(around, return_inverse=True)
    noise = spot_noise(section.name, section.spot_names[kept], seed=f"{seed}/shared", widths=(width,))[0]
    return noise[place.reshape(around.shape)].sum(axis=1) / np.float32(np.sqrt(around.shape[1]))
