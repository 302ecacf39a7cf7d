"""One section as arrays: what every model and baseline of flagst works on. Numpy only."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np

#: Nearest spots kept per spot: as many as the widest neighbourhood that is used.
N_NEIGHBOURS = 18


@dataclass(frozen=True)
class Section:
    """A section's spots, in the order of the AnnData they came from.

    Attributes
    ----------
    name
        Section name.
    spot_names
        ``(n_spots,)`` str, unique within the section.
    coords
        ``(n_spots, 2)`` float64, x then y; micrometres where the image's scale is known.
    image
        ``(n_spots, d_image)`` float32 image features.
    neighbours
        ``(n_spots, k)`` int64, nearest first, self excluded; ``k`` is 18 or one less than ``n_spots``.
    distances
        ``(n_spots, k)`` float64, in the unit of ``coords``.
    target
        ``(n_spots, n_genes)`` float32 in the unit of the target, or ``None`` without expression.
    depth
        ``(n_spots,)`` total counts over all genes, or ``None`` without expression.
    layout
        ``"square"``, ``"hex"``, ``"irregular"`` or ``"other"``: how many neighbours Moran's I is taken over.
    """

    name: str
    spot_names: np.ndarray
    coords: np.ndarray
    image: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray
    target: np.ndarray | None = None
    depth: np.ndarray | None = None
    layout: str = "other"

    def __len__(self) -> int:
        return len(self.coords)

    def nearest(self, k: int) -> np.ndarray:
        """``(n_spots, k)`` nearest spots, fewer columns where there are not so many."""
        return self.neighbours[:, :k]

    def around(self, k: int, rows: np.ndarray | None = None) -> np.ndarray:
        """``(n_rows, at most 1 + k)``: the spots of ``rows``, ``None`` for all, each before its ``k`` nearest."""
        rows = np.arange(len(self)) if rows is None else rows
        return np.column_stack([rows, self.nearest(k)[rows]])

    def sampled(self, n_spots: int) -> np.ndarray:
        """Rows, ascending, of at most ``n_spots`` spots: as good as random, and the same spots in any order."""
        return np.sort(self._by_digest[:n_spots])

    @cached_property
    def _by_digest(self) -> np.ndarray:
        digests = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in self.spot_names.tolist())
        return np.argsort(np.frombuffer(digests, dtype="<u8"), kind="stable")


def stack_targets(sections: list[Section]) -> np.ndarray:
    """Targets of all sections, ``(n_spots, n_genes)``."""
    return np.concatenate([section.target for section in sections])
