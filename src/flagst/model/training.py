"""One run of the trainer: windows in, averaged weights and losses out."""

import math
from tempfile import TemporaryDirectory

import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from flagst._keys import TENSOR
from flagst.model.alignment_targets import Alignment
from flagst.sampling.threads import threads_for
from flagst.settings import Settings
from flagst.train.quiet import quiet_libraries
from flagst.train.ranks import allow_unused, is_distributed

#: Decay of the average per step of one network. It is updated once per ``n_networks`` steps.
EMA_DECAY = 0.985
#: What ``early_stopping=True`` of scvi-tools' trainer looks at here.
MONITOR = "denoising_loss_validation"


def check_training(settings: Settings, trainer_kwargs: dict) -> None:
    """Check the arguments of ``train`` before anything is fitted.

    Raises
    ------
    TypeError
        An argument that scvi-tools' trainer does not have.
    ValueError
        ``early_stopping`` without cross-fitted networks or with several ranks.
    """
    from inspect import signature

    from lightning.pytorch import Trainer as LightningTrainer
    from scvi.train import Trainer

    if trainer_kwargs.get("early_stopping") and not (settings.cross_fit and settings.diffusion):
        raise ValueError("early_stopping=True needs networks with tissue that they do not see. Use cross_fit=True.")
    if trainer_kwargs.get("early_stopping") and is_distributed(trainer_kwargs.get("strategy")):
        raise ValueError("early_stopping=True works in one process only; with strategy='ddp' pass max_epochs.")
    known = {"log_save_dir", *signature(Trainer.__init__).parameters, *signature(LightningTrainer.__init__).parameters}
    unknown = sorted(set(trainer_kwargs) - known)
    if unknown:
        raise TypeError(
            f"train() has no argument {unknown}. Spots are trained in windows of neighbours: their size and number are "
            "in datasplitter_kwargs, see flagst.train.WindowSplitter, the optimiser's settings in plan_kwargs."
        )


def train_denoiser(
    model,
    training: list[dict[str, Tensor]],
    validation: list[dict[str, Tensor]],
    *,
    alignment: Alignment | None,
    max_epochs: int | None,
    plan_kwargs: dict,
    datasplitter_kwargs: dict,
    **trainer_kwargs,
) -> None:
    """Train ``model.module``; its weights become the averaged ones.

    Parameters
    ----------
    model
        A FLAG model: its hooks, module, settings and seed.
    training, validation
        Windows, see :func:`flagst.model.training_windows.split_windows`.
    alignment
        See :func:`flagst.model.alignment_targets.build_alignment`; ``None`` for no alignment.
    max_epochs
        ``None`` makes ``settings_.max_steps`` optimiser steps; with several ranks, that many windows are seen.
    plan_kwargs, datasplitter_kwargs, **trainer_kwargs
        For the training plan, the splitter and scvi-tools' trainer.

    Writes
    ------
    ``model.module`` and ``model.history_``.

    Raises
    ------
    ValueError
        Several devices without a strategy that is made for them.
    """
    complete = {} if alignment is None or alignment.held is None else {"complete": alignment.add}
    splitter = model._data_splitter_cls(training, validation, **complete, **datasplitter_kwargs)
    if max_epochs is None:
        max_epochs = math.ceil(model.settings_.max_steps / splitter.steps_per_epoch)
    model.is_trained_, model.history_ = False, None  # or scvi-tools appends to the last run's history
    largest = max(len(part[TENSOR.state]) for part in training)
    # processes that end after training hand their losses over in a file
    with torch.random.fork_rng(), quiet_libraries(), threads_for(largest), TemporaryDirectory() as folder:
        torch.manual_seed(model.seed_)
        if is_distributed(trainer_kwargs.get("strategy")):
            trainer_kwargs["strategy"] = allow_unused(trainer_kwargs["strategy"])
            trainer_kwargs.setdefault("log_save_dir", folder)
        runner = model._train_runner_cls(
            model,
            training_plan=model._training_plan_cls(model.module, **plan_kwargs),
            data_splitter=splitter,
            max_epochs=max_epochs,
            callbacks=[*trainer_kwargs.pop("callbacks", [])],  # scvi-tools appends its own
            **{"check_val_every_n_epoch": 1, "early_stopping_monitor": MONITOR} | trainer_kwargs,
        )
        n_ranks = runner.trainer.world_size
        if n_ranks > 1 and not is_distributed(trainer_kwargs.get("strategy")):
            raise ValueError(
                f"{n_ranks} devices need a strategy that is made for them; got {trainer_kwargs.get('strategy')!r}. "
                "Pass strategy='ddp' in a script or 'ddp_notebook' in a notebook, or devices=1."
            )
        runner.trainer.callbacks.insert(0, AverageWeights(len(model.module.networks), n_ranks))
        if alignment is not None:
            # without held-out windows the controls are to be seen in training, or nowhere
            model.module.attach_alignment(alignment.make_head, controls=not validation)
        runner()
    # with it the trainer, and so the model, could not be pickled
    runner.trainer.callbacks = [c for c in runner.trainer.callbacks if not isinstance(c, AverageWeights)]
    model.module.detach_alignment()
    model.history_ = {name: frame.astype(np.float64) for name, frame in (model.history_ or {}).items()}


class AverageWeights(WeightAveraging):
    """Exponential moving average of the weights, over the same share of a training for any number of ranks.

    Lightning's ``EMAWeightAveraging`` goes through the weights one by one; hundreds of small ones are averaged at once
    here, with the same result.
    """

    def __init__(self, n_networks: int, n_ranks: int):
        self.every = max(1, round(n_networks / n_ranks))
        decay = EMA_DECAY ** (self.every * n_ranks / n_networks)
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every so many optimiser steps."""
        return step_idx is not None and step_idx % self.every == 0


def plain_history(history: dict) -> dict[str, list[float]]:
    """Losses as lists, one number per epoch, NaN where nothing was logged."""
    n_epochs = max((int(frame.index.max()) + 1 for frame in history.values() if len(frame)), default=0)
    return {name: frame.iloc[:, 0].reindex(range(n_epochs)).tolist() for name, frame in history.items()}
