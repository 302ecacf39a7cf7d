"""Batches: a batch is one window of one section."""

from collections.abc import Callable
from functools import partial

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flagst._keys import TENSOR
from flagst.train.ranks import RankSampler

Window = dict[str, Tensor]


class _Windows(Dataset):
    """A list of windows, gone through ``n_repeats`` times per epoch."""

    def __init__(self, windows: list[Window], complete: Callable[[Window], Window] | None, n_repeats: int = 1):
        self.windows, self.complete, self.n_repeats = windows, complete, n_repeats

    def __len__(self) -> int:
        return len(self.windows) * self.n_repeats

    def __getitem__(self, index: int) -> Window:
        window = self.windows[index % len(self.windows)]
        return window if self.complete is None else self.complete(window)


class WindowSplitter(pl.LightningDataModule):
    """Loaders over prepared training and validation windows.

    Under a distributed strategy each rank gets its own part of the windows, see :class:`RankSampler`: an epoch sees
    the same windows as on one device, in as many times fewer optimiser steps as there are ranks.

    Parameters
    ----------
    training, validation
        Windows from :func:`flagst.data.windows.window`. No window crosses sections.
    windows_per_epoch
        An epoch goes through the training windows as often as it takes to see at least so many:
        one pass over few sections would be few steps.
    complete
        Called with a window and ``training=`` when it is its turn, for what would not fit in memory for all at once.

    Examples
    --------
    >>> import torch
    >>> from flagst.train import WindowSplitter
    >>> windows = [{"state": torch.zeros(5, 2)}] * 3
    >>> WindowSplitter(windows, [], windows_per_epoch=12).steps_per_epoch
    12
    """

    def __init__(
        self,
        training: list[Window],
        validation: list[Window],
        *,
        windows_per_epoch: int = 24,
        complete: Callable[..., Window] | None = None,
    ):
        super().__init__()
        self.training, self.validation, self.complete = training, validation, complete
        self.n_repeats = max(1, round(windows_per_epoch / max(len(training), 1)))

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch on one device."""
        return len(self.training) * self.n_repeats

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.training, self.n_repeats, shuffle=True)

    def val_dataloader(self) -> DataLoader | list:
        return self._loader(self.validation, 1, shuffle=False) if self.validation else []

    def _loader(self, windows: list[Window], n_repeats: int, *, shuffle: bool) -> DataLoader:
        complete = None if self.complete is None else partial(self.complete, training=shuffle)
        data = _Windows(windows, complete, n_repeats)
        # the trainer knows: a process group may be left over from a training that is done
        if self.trainer is None or self.trainer.world_size == 1:
            return DataLoader(data, batch_size=None, shuffle=shuffle)
        sampler = RankSampler(
            [int(window.get(TENSOR.network, 0)) for window in windows],
            n_repeats=n_repeats,
            n_ranks=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=shuffle,
        )
        return DataLoader(data, batch_size=None, sampler=sampler)
