"""Output in a terminal: steps, tables of scores, and warnings of flagst only."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: Loggers whose messages are hidden: they report devices, tips and column names.
CHATTY = ("lightning", "lightning.pytorch", "lightning.fabric", "scvi", "spatialdata", "ome_zarr")
#: Column of a table of scores -> its name in the output.
SCORES = {
    "pcc": "PCC",
    "mse": "MSE",
    "gsc": "GSC",
    "ssc": "SSC",
    "moran_pred": "Moran's I",
    "moran_true": "measured",
    "pcc_depth_only": "PCC of depth",
}


@contextmanager
def quiet(*, verbose: bool) -> Iterator[None]:
    """Show only warnings of flagst; with ``verbose`` all logs and warnings."""
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.INFO if verbose else logging.WARNING)
    logging.getLogger("flagst").setLevel(logging.INFO if verbose else logging.WARNING)
    with warnings.catch_warnings():
        if verbose:
            yield
            return
        warnings.simplefilter("ignore")
        # warnings are matched by the module of the caller, which is flagst's command line
        warnings.filterwarnings("default", category=UserWarning, module=r"flagst(\.|$)")
        # without the line of code that a warning comes from
        warnings.showwarning = lambda message, *_, **__: logging.getLogger("flagst").warning("%s", message)
        once = _Once()
        logging.getLogger("flagst").addFilter(once)
        try:
            yield
        finally:
            logging.getLogger("flagst").removeFilter(once)


class _Once(logging.Filter):
    """Show every text once: some messages are both logged and given as a warning."""

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self.seen
        self.seen.add(text)
        return new


def hush() -> None:
    """Silence loggers that set their own level on import. Call it after importing the model."""
    if logging.getLogger("flagst").getEffectiveLevel() > logging.INFO:
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)


def interactive() -> bool:
    """Whether the output is a terminal. Progress bars are not written to log files."""
    return sys.stderr.isatty()


class Steps:
    """Print numbered steps with their duration in seconds."""

    def __init__(self, n_steps: int):
        self.n_steps, self.number, self.start = n_steps, 0, time.perf_counter()

    @contextmanager
    def __call__(self, text: str) -> Iterator[None]:
        self.number += 1
        print(f"[{self.number}/{self.n_steps}] {text} ...", flush=True)
        start = time.perf_counter()
        yield
        print(f"      {time.perf_counter() - start:.1f} s", flush=True)

    def seconds(self) -> float:
        """Seconds since this object was made."""
        return time.perf_counter() - self.start


def scores_table(rows: "pd.DataFrame") -> str:
    """Format a table of scores, with the columns of :func:`flagst.tl.evaluate` and an index of names."""
    table = rows[[score for score in SCORES if score in rows]].rename(columns=SCORES).rename_axis(None)
    return table.to_string(float_format=lambda value: f"{value:.3f}")
