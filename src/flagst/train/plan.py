"""Training plan: AdamW with a one-cycle learning rate, and the losses that mean something here."""

from collections import OrderedDict

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from scvi.train import TrainingPlan
from torch import Tensor

from flagst._keys import TENSOR


class FlagTrainingPlan(TrainingPlan):
    """scvi-tools' plan with defaults for a diffusion instead of a variational autoencoder.

    With several ranks, the gradient of each network is the mean over those windows of a step that are its own.

    Parameters
    ----------
    module
        A :class:`flagst.module.FlagModule`.
    lr
        Peak learning rate of the one-cycle schedule.
    weight_decay
        Of AdamW.
    gradient_clip
        Largest gradient norm of a network together with its alignment head.

    Examples
    --------
    >>> from flagst.train import FlagTrainingPlan
    >>> FlagTrainingPlan(model.module, lr=5e-4).lr
    0.0005
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        gradient_clip: float = 1.0,
        **kwargs,
    ):
        super().__init__(module, lr=lr, weight_decay=weight_decay, **kwargs)
        self.gradient_clip = gradient_clip

    def initialize_train_metrics(self) -> None:
        """No evidence lower bound here."""
        self.train_metrics = OrderedDict()

    def initialize_val_metrics(self) -> None:
        """No evidence lower bound here."""
        self.val_metrics = OrderedDict()

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict, mode: str) -> None:
        """Log the parts of the loss, mean over an epoch."""
        for name, value in loss_output.extra_metrics.items():
            self.log(
                f"{name}_{mode}",
                value.detach(),
                on_step=False,
                on_epoch=True,
                batch_size=loss_output.n_obs_minibatch,
                sync_dist=self.use_sync_dist,
            )

    def prepare_scib_autotune(self, loss_outputs: dict, stage: str) -> None:
        """Nothing to prepare: that hook reads a latent ``z`` this module does not return."""

    def configure_optimizers(self) -> dict:
        """AdamW, one cycle over all steps of the run."""
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        n_steps = max(int(self.trainer.estimated_stepping_batches), 2)
        # a rise of exactly one step divides by zero
        rise = max(0.1, 1.5 / n_steps)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=n_steps, pct_start=rise)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, *args, **kwargs) -> None:
        """Clip the gradient norm of every network by itself: with several ranks, a step may move some of them."""
        for number, network in enumerate(self.module.networks):
            heads = [] if self.module.alignment is None else self.module.alignment[number].parameters()
            torch.nn.utils.clip_grad_norm_([*network.parameters(), *heads], self.gradient_clip)

    def on_train_start(self) -> None:
        """Ranks start from one random state, and must not use the same noise for their windows."""
        if self.trainer.world_size > 1:
            seeds = torch.randint(2**31, (self.trainer.world_size,))
            torch.manual_seed(int(seeds[self.global_rank]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of one window; over the ranks it adds up to the mean of each network's windows.

        Parameters
        ----------
        batch
            Tensors of a window, such as the clean state ``(n_window_spots, d_state)``: see
            :func:`flagst.data.windows.window`.
        batch_idx
            Number of the step in its epoch.
        """
        loss = super().training_step(batch, batch_idx)
        if self.trainer.world_size == 1:
            return loss
        number = int(batch.get(TENSOR.network, 0))
        ranks = torch.zeros(len(self.module.networks), device=self.device)
        ranks[number] = 1
        # gradients are divided by the number of ranks afterwards, whether or not they worked on this network
        return loss * self.trainer.world_size / self.trainer.strategy.reduce(ranks, reduce_op="sum")[number]
