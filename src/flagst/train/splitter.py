"""Batches: a batch is one window of one section."""

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class _Windows(Dataset):
    """A list of windows, gone through ``n_repeats`` times per epoch."""

    def __init__(self, windows: list[dict[str, Tensor]], n_repeats: int = 1):
        self.windows, self.n_repeats = windows, n_repeats

    def __len__(self) -> int:
        return len(self.windows) * self.n_repeats

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.windows[index % len(self.windows)]


class WindowSplitter(pl.LightningDataModule):
    """Loaders over prepared training and validation windows.

    Parameters
    ----------
    training, validation
        Windows from :func:`flagst.data.inputs.window`. No window crosses sections.
    windows_per_epoch
        An epoch goes through the training windows as often as it takes to see at least so many:
        one pass over few sections would be few steps.
    """

    def __init__(
        self,
        training: list[dict[str, Tensor]],
        validation: list[dict[str, Tensor]],
        *,
        windows_per_epoch: int = 24,
    ):
        super().__init__()
        self.training, self.validation = training, validation
        self.n_repeats = max(1, round(windows_per_epoch / max(len(training), 1)))

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch on one device."""
        return len(self.training) * self.n_repeats

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Windows(self.training, self.n_repeats), batch_size=None, shuffle=True)

    def val_dataloader(self) -> DataLoader | list:
        if not self.validation:
            return []
        return DataLoader(_Windows(self.validation), batch_size=None, shuffle=False)
