"""Library chatter kept out of the user's notebook; nothing global stays changed."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = (
    "lightning.pytorch",
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.accelerators.cuda",
    "scvi.data.fields._arraylike_field",  # says that it names the columns of obsm
)
#: Windows have no batch size, and validation may be empty: all on purpose.
MESSAGES = (
    r".*Trying to infer the `batch_size`.*",
    r".*does not have many workers.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*No `?val_dataloader`?.*",
    r".*`torch\.jit\.script` is deprecated.*",
    r".*The number of training batches.*",
    r".*Total length of `(list|DataLoader)` across ranks is zero.*",
    r".*Checkpoint directory.*",
    r"early_stopping was automatically disabled due to the use of DDP",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what training and registration say about themselves, and the warnings listed above."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
