"""Which rank gets which window."""

import numpy as np
import pytest
from torch.utils.data import DataLoader

from flagst.train import RankSampler
from flagst.train.ranks import allow_unused, is_distributed


def _parts(networks, n_ranks, *, epoch=0, **kwargs):
    """Per rank its indices, ``(n_ranks, n_steps)``."""
    samplers = [RankSampler(networks, n_ranks=n_ranks, rank=rank, **kwargs) for rank in range(n_ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    parts = [list(sampler) for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    return np.array(parts)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("n_ranks", "n_steps"), [(2, 12), (3, 8), (4, 6), (24, 1)])
def test_ranks_share_an_epoch_and_see_different_windows(n_ranks, n_steps, shuffle):
    parts = _parts(np.repeat([0, 1, 2], 4), n_ranks, n_repeats=2, shuffle=shuffle)
    assert parts.shape == (n_ranks, n_steps)
    assert sorted(parts.ravel()) == list(range(24))


def test_what_cannot_be_shared_out_evenly_comes_twice():
    parts = _parts([0] * 5, 3)
    assert parts.shape == (3, 2) and set(parts.ravel()) == set(range(5))
    assert _parts([0, 0], 5).shape == (5, 1)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_a_step_moves_a_network_by_one_window(n_ranks):
    networks = np.repeat([0, 1, 2], 4)
    for epoch in range(5):
        parts = _parts(networks, n_ranks, n_repeats=3, epoch=epoch)
        of_step = networks[parts % 12].T
        assert all(len(set(step)) == n_ranks for step in of_step)


def test_epochs_and_seeds_have_an_order_of_their_own():
    networks = np.repeat([0, 1], 10)
    first, again = _parts(networks, 2), _parts(networks, 2)
    np.testing.assert_array_equal(first, again)
    assert (first != _parts(networks, 2, epoch=1)).any() and (first != _parts(networks, 2, seed=1)).any()
    in_order = [_parts(networks, 2, epoch=epoch, shuffle=False) for epoch in (0, 1)]
    np.testing.assert_array_equal(*in_order)


def test_a_loader_takes_it():
    sampler = RankSampler([0, 1, 0, 1], n_ranks=2, rank=1)
    loader = DataLoader(list("abcd") * 1, batch_size=None, sampler=sampler)
    assert len(loader) == 2 and set(loader) == {"abcd"[i] for i in sampler}


def test_strategies_take_networks_without_a_gradient():
    assert allow_unused("ddp") == "ddp_find_unused_parameters_true"
    assert allow_unused("ddp_notebook") == "ddp_notebook_find_unused_parameters_true"
    assert allow_unused("ddp_find_unused_parameters_false") == "ddp_find_unused_parameters_false"
    assert is_distributed("ddp") and is_distributed("ddp_notebook_find_unused_parameters_true")
    assert not is_distributed("auto") and not is_distributed(None)
    with pytest.raises(ValueError, match="'ddp_spawn' is not supported. Pass 'ddp'"):
        allow_unused("ddp_spawn")
