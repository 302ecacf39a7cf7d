"""Progress bars of long predictions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Bars:
    """Opens progress bars, or none at all.

    Parameters
    ----------
    shown
        Whether there are any.
    """

    def __init__(self, *, shown: bool):
        self.shown = shown

    @contextmanager
    def open(self, total: int, name: str, unit: str, *, start: int = 0) -> Iterator[Callable[..., None]]:
        """A bar for ``total`` units, ``start`` of which were done before; gives what to call for every step."""
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=name, unit=unit, initial=start, disable=not self.shown) as bar:
            yield lambda n=1: bar.update(n)
