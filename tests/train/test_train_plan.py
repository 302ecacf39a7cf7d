"""Training plan and loaders: which losses are logged, how the learning rate moves, what an epoch is."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scvi.module.base import LossOutput

from flagst.module import FlagModule
from flagst.train import FlagTrainingPlan, WindowSplitter


def _window(seed, n_spots=6):
    generator = torch.Generator().manual_seed(seed)
    itself = torch.arange(n_spots)
    mix = torch.stack([itself.roll(1), itself])
    return {
        "image": torch.randn(n_spots, 4, generator=generator),
        "edge_index": torch.cat([mix, torch.stack([itself, itself])], dim=1),
        "edge_attr": torch.ones(2 * n_spots, 2),
        "mix_index": mix,
        "mix_weight": torch.ones(n_spots),
        "mean": torch.randn(n_spots, 5, generator=generator),
        "state": torch.randn(n_spots, 3, generator=generator),
        "expression": torch.randn(n_spots, 5, generator=generator),
        "core": torch.ones(n_spots, dtype=torch.bool),
    }


@pytest.fixture
def module():
    torch.manual_seed(0)
    return FlagModule(4, 5, 3, d_context=8, denoiser_kwargs={"width": 16, "n_blocks": 2, "align_block": 1})


class Recorder(Callback):
    def __init__(self):
        self.lr, self.norms = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.lr.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, *args):
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))))


def _run(module, splitter, *, max_epochs=4, **plan_kwargs):
    recorder = Recorder()
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[recorder],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    plan = FlagTrainingPlan(module, **plan_kwargs)
    trainer.fit(plan, splitter)
    return trainer, plan, recorder


@pytest.mark.filterwarnings("ignore")
def test_one_cycle_over_the_run(module):
    splitter = WindowSplitter([_window(0), _window(1)], [_window(2)], windows_per_epoch=10)
    trainer, plan, recorder = _run(module, splitter, lr=1e-2)
    assert len(recorder.lr) == trainer.global_step == 4 * splitter.steps_per_epoch == 40
    peak = max(range(40), key=recorder.lr.__getitem__)
    assert recorder.lr[peak] == pytest.approx(1e-2, rel=1e-2) and peak <= 5
    assert recorder.lr[-1] < 1e-4
    optimizer = trainer.optimizers[0]
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["eps"] == 1e-8


@pytest.mark.filterwarnings("ignore")
def test_losses_that_mean_something_are_logged(module):
    splitter = WindowSplitter([_window(0)], [_window(1)], windows_per_epoch=3)
    trainer, _, _ = _run(module, splitter, max_epochs=1)
    assert {"train_loss", "validation_loss", "denoising_loss_train", "denoising_loss_validation"} <= set(
        name.removesuffix("_epoch") for name in trainer.callback_metrics
    )
    assert not any("elbo" in name or "kl" in name for name in trainer.callback_metrics)


@pytest.mark.filterwarnings("ignore")
def test_gradients_are_clipped(module):
    splitter = WindowSplitter([_window(0)], [], windows_per_epoch=5)
    _, _, recorder = _run(module, splitter, max_epochs=1, gradient_clip=1e-3)
    assert max(recorder.norms) <= 1.01e-3


@pytest.mark.filterwarnings("ignore")
def test_the_loss_falls(module):
    splitter = WindowSplitter([_window(0), _window(1)], [], windows_per_epoch=40)
    module.eval()
    before = module(_window(0))[2].loss.item()
    _run(module, splitter, max_epochs=3, lr=1e-2)
    module.eval()
    assert module(_window(0))[2].loss.item() < before


@pytest.mark.parametrize(("n_windows", "n_repeats"), [(3, 8), (10, 2), (24, 1), (100, 1)])
def test_an_epoch_goes_through_few_windows_often(n_windows, n_repeats):
    splitter = WindowSplitter([_window(i) for i in range(n_windows)], [_window(0)])
    batches = list(splitter.train_dataloader())
    assert len(batches) == splitter.steps_per_epoch == n_windows * n_repeats
    first = sorted(float(batch["state"][0, 0]) for batch in batches)
    assert len(set(first)) == n_windows  # every window equally often
    assert all(first.count(value) == n_repeats for value in set(first))
    assert len(list(splitter.val_dataloader())) == 1


def test_training_windows_are_shuffled_and_validation_is_not():
    splitter = WindowSplitter([_window(i) for i in range(20)], [_window(i) for i in range(20)])
    torch.manual_seed(0)
    orders = [[float(b["state"][0, 0]) for b in splitter.train_dataloader()] for _ in range(2)]
    assert orders[0] != orders[1]
    expected = [float(_window(i)["state"][0, 0]) for i in range(20)]
    assert [float(b["state"][0, 0]) for b in splitter.val_dataloader()] == expected


def test_no_validation_has_no_loader():
    assert list(WindowSplitter([_window(0)], []).val_dataloader()) == []


def test_plan_ignores_hooks_made_for_variational_autoencoders(module):
    plan = FlagTrainingPlan(module)
    assert plan.train_metrics == {} and plan.val_metrics == {}
    assert plan.prepare_scib_autotune({}, "training") is None
    assert isinstance(module(_window(0))[2], LossOutput)


@pytest.mark.parametrize("n_steps", [1, 2, 9, 10, 11, 15, 20])
def test_short_runs_have_a_cycle_too(module, n_steps):
    splitter = WindowSplitter([_window(0)], [], windows_per_epoch=1)
    trainer, _, recorder = _run(module, splitter, max_epochs=n_steps, lr=1e-2)
    assert trainer.global_step == len(recorder.lr) == n_steps
    assert all(0 < lr <= 1e-2 for lr in recorder.lr)
    assert n_steps < 3 or recorder.lr[-1] < 2e-3
