"""Several processes that train one model: which window is whose, and what Lightning has to be told."""

from collections.abc import Iterator, Sequence

import numpy as np
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.utils.data import DistributedSampler

#: A window is of one network only, so that the parameters of the others have no gradient in a step.
_UNUSED = "_find_unused_parameters_true"
_NAMES = ("ddp", "ddp_fork", "ddp_notebook")


def is_distributed(strategy: str | Strategy | None) -> bool:
    """Whether a ``strategy`` of Lightning's trainer is one of its DDP ones."""
    return "ddp" in strategy if isinstance(strategy, str) else isinstance(strategy, DDPStrategy)


def allow_unused(strategy: str | Strategy) -> str | Strategy:
    """Name of the same strategy that takes parameters without a gradient; other names and objects as they are.

    Raises
    ------
    ValueError
        ``"ddp_spawn"``: what averages the weights cannot be sent to a process that starts anew.
    """
    if isinstance(strategy, str) and strategy.startswith("ddp_spawn"):
        raise ValueError(
            f"strategy={strategy!r} is not supported. Pass 'ddp' in a script, 'ddp_notebook' in a notebook."
        )
    return strategy + _UNUSED if strategy in _NAMES else strategy


class RankSampler(DistributedSampler):
    """Windows of one rank in an epoch; every rank computes the same order and takes its own part of it.

    In each pass over the windows networks come in turn: the windows of one step, one per rank, are spread over the
    networks as evenly as can be. Up to as many ranks as networks, a step so moves a network by one window, as on
    one device.

    Parameters
    ----------
    networks
        ``(n_windows,)`` the network each window belongs to.
    n_repeats
        Passes over the windows in an epoch.
    n_ranks, rank
        How many ranks there are, and which one this is. Where the windows of an epoch cannot be shared out evenly,
        the first ones of its order come twice.
    shuffle
        Another order in each epoch, the same on all ranks; without it the order is that of the windows.
    seed
        Of the order.

    Examples
    --------
    >>> from flagst.train import RankSampler
    >>> [list(RankSampler([0, 0, 1, 1], n_ranks=2, rank=rank, shuffle=False)) for rank in (0, 1)]
    [[0, 1], [2, 3]]
    """

    def __init__(
        self,
        networks: Sequence[int],
        *,
        n_repeats: int = 1,
        n_ranks: int,
        rank: int,
        shuffle: bool = True,
        seed: int = 0,
    ):
        self.networks, self.n_repeats = np.asarray(networks), n_repeats
        items = range(len(self.networks) * n_repeats)
        super().__init__(items, num_replicas=n_ranks, rank=rank, shuffle=shuffle, seed=seed)

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank: window ``i`` in pass ``p`` is ``p * n_windows + i``."""
        return iter(self.order()[self.rank :: self.num_replicas].tolist())

    def order(self) -> np.ndarray:
        """All ranks' indices, ``(n_steps * n_ranks,)`` int64, step after step.

        Examples
        --------
        >>> from flagst.train import RankSampler
        >>> RankSampler([0, 0, 1, 1], n_ranks=2, rank=0, shuffle=False).order()
        array([0, 2, 1, 3])
        """
        n_windows, rng = len(self.networks), np.random.default_rng([self.seed, self.epoch])
        passes = np.arange(n_windows * self.n_repeats).reshape(self.n_repeats, n_windows)
        turns = np.arange(self.networks.max() + 1)
        if self.shuffle:
            passes, turns = rng.permuted(passes, axis=1), rng.permutation(turns)
        order = passes.ravel()
        network = self.networks[order % n_windows]
        nth = np.empty(len(order), dtype=np.int64)
        for number in np.unique(network):
            nth[network == number] = np.arange((network == number).sum())
        order = order[np.lexsort((turns[network], nth))]
        return np.resize(order, self.total_size)
