"""Threads for small sections."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Up to so many spots, matrices are so small that threads wait for each other longer than they work.
SMALL = 512


@contextmanager
def threads_for(n_spots: int) -> Iterator[None]:
    """One torch thread while ``n_spots`` is small; the former number afterwards."""
    before = torch.get_num_threads()
    if n_spots <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
