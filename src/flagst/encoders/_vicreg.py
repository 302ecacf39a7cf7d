"""A small convolutional network, trained so that two views of a patch are described alike; torch is imported late."""

from typing import TYPE_CHECKING

import numpy as np

from flagst.encoders._torch import find_devices

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Channels of the convolutions; each halves the side. The last is the length of the vector.
WIDTHS = (32, 64, 128, 256)
#: Of red, green and blue, 0 to 1, which are brought to 0 and 1; after stain normalisation most pixels are near white.
MEAN, STD = (0.75, 0.75, 0.75), (0.2, 0.2, 0.2)
N_STEPS, LEAST_PATCHES = 400, 64
_BATCH, _CROP, _PROJECTION = 128, 5 / 7, 512
_RATE, _DECAY = 2e-3, 1e-4
# Stains of a view are up to this much weaker or stronger, each colour by itself.
_STAIN = 0.15
# Weights of the three parts of the loss.
_LIKENESS, _SPREAD, _COVARIANCE = 25.0, 25.0, 1.0


def make_network() -> "nn.Module":
    """(n_patches, 3, side, side) to (n_patches, 256): strided convolutions, averaged over the patch."""
    from torch import nn

    layers: list[nn.Module] = []
    before = 3
    for width in WIDTHS:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def fit_network(
    patches: np.ndarray, *, n_steps: int, seed: int, device: str | None = None, progress: bool = False
) -> "nn.Module":
    """Train a network on patches alone: variance-invariance-covariance regularisation (Bardes et al., ICLR 2022).

    Views of a patch are a crop of 5/7 of its side, turned by a multiple of 90 degrees, mirrored, and with each colour's
    stain up to 15 % weaker or stronger.

    Parameters
    ----------
    patches
        (n_patches, side, side, 3) uint8, of any scales.
    n_steps
        Steps of the optimiser, on 128 patches each.
    seed
        Of weights, order and views; the global random state is left alone.
    device
        By default the GPU where there is one.
    progress
        Show a progress bar.

    Returns
    -------
    The network on the CPU, set to evaluation.

    Raises
    ------
    ValueError
        Fewer than 64 patches, or steps below 1.
    RuntimeError
        The loss became NaN or infinite.
    """
    import torch
    from torch import nn
    from tqdm.auto import tqdm

    if len(patches) < LEAST_PATCHES:
        raise ValueError(f"An encoder is fitted on {LEAST_PATCHES} patches or more; got {len(patches)}.")
    if n_steps < 1:
        raise ValueError(f"n_steps must be 1 or more; got {n_steps!r}.")
    (place,) = find_devices(device)
    pixels = torch.from_numpy(np.ascontiguousarray(patches)).permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs, as torch.manual_seed would
        body = make_network()
        head = nn.Sequential(
            nn.Linear(WIDTHS[-1], _PROJECTION),
            nn.BatchNorm1d(_PROJECTION),
            nn.ReLU(),
            nn.Linear(_PROJECTION, _PROJECTION),
        )
    # channels last: half the time on a CPU
    body, head = body.to(place, memory_format=torch.channels_last), head.to(place)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=n_steps)
    for _ in tqdm(range(n_steps), unit="step", desc="image encoder", disable=not progress):
        chosen = pixels[torch.randint(len(pixels), (_BATCH,), generator=generator)].float().div_(255)
        first, second = (
            head(body(_view(chosen, generator).to(place, memory_format=torch.channels_last))) for _ in range(2)
        )
        loss = vicreg_loss(first, second)
        if not torch.isfinite(loss):
            raise RuntimeError("Fitting the encoder diverged: its loss is not finite.")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return body.cpu().eval().requires_grad_(False)


def vicreg_loss(first: "torch.Tensor", second: "torch.Tensor") -> "torch.Tensor":
    """How unlike two (n, d) descriptions are, how little each varies, and how much its entries correlate.

    25 times the mean squared difference, and of each description 25 times the average of ``1 - sd`` over entries whose
    standard deviation is below 1, and the sum of squared covariances of different entries over ``d``.
    """
    import torch
    from torch.nn.functional import mse_loss, relu

    loss = _LIKENESS * mse_loss(first, second)
    for described in (first, second):
        covariance = torch.cov(described.T)
        spread = (covariance.diagonal() + 1e-4).sqrt()
        others = covariance.square().sum() - covariance.diagonal().square().sum()
        loss = loss + _SPREAD * relu(1 - spread).mean() + _COVARIANCE * others / described.shape[1]
    return loss


def _view(patches: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """A random view of each patch (n, 3, side, side), 0 to 1, as the network takes it; one crop and turn for all."""
    import torch

    def whole(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    side = patches.shape[-1]
    crop = max(1, round(_CROP * side))
    top, left = whole(side - crop + 1), whole(side - crop + 1)
    view = torch.rot90(patches[:, :, top : top + crop, left : left + crop], whole(4), (2, 3))
    if whole(2):
        view = view.flip(3)
    strength = 1 + _STAIN * (2 * torch.rand(len(view), 3, 1, 1, generator=generator) - 1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (view.clamp(min=1 / 255) ** strength - mean) / std
