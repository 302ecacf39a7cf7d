"""A small convolutional network, trained so that two views of a patch get similar vectors. torch is imported late."""

from typing import TYPE_CHECKING

import numpy as np

from flagst.encoders._torch import find_devices

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Channels of the convolutions; each halves the side. The last is the length of the vector.
WIDTHS = (32, 64, 128, 256)
#: Mean and standard deviation of red, green and blue, 0 to 1; after stain normalisation most pixels are near white.
MEAN, STD = (0.75, 0.75, 0.75), (0.2, 0.2, 0.2)
N_STEPS, LEAST_PATCHES = 400, 64
_BATCH, _CROP, _PROJECTION = 128, 5 / 7, 512
_RATE, _DECAY = 2e-3, 1e-4
# A view has up to this share less or more stain, drawn for each colour.
_STAIN = 0.15
# Weights of the three parts of the loss.
_LIKENESS, _SPREAD, _COVARIANCE = 25.0, 25.0, 1.0


def make_network() -> "nn.Module":
    """(n_patches, 3, side, side) to (n_patches, 256): strided convolutions, then the mean over the patch."""
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
    """Train a network on patches, without expression: variance-invariance-covariance regularisation.

    A view of a patch is a crop of 5/7 of its side, turned by a multiple of 90 degrees, mirrored, and with up to 15 %
    less or more stain per colour. ``patches`` are (n_patches, side, side, 3) uint8, of any scales. ``seed`` sets the
    weights, the order and the views; the global random state stays unmodified. Each step takes 128 patches. The
    ``device`` is by default the GPU if there is one; the network comes back on the CPU, set to evaluation.

    Raises a ``ValueError`` for fewer than 64 patches or fewer than one step, and a ``RuntimeError`` when the loss
    becomes NaN or infinite.

    Source
    ------
    Bardes et al., ICLR 2022.
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
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
        body = make_network()
        head = nn.Sequential(
            nn.Linear(WIDTHS[-1], _PROJECTION),
            nn.BatchNorm1d(_PROJECTION),
            nn.ReLU(),
            nn.Linear(_PROJECTION, _PROJECTION),
        )
    # channels last takes half the time on a CPU
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
    """Difference of two (n, d) sets of vectors, lack of variance in each, and covariance of their entries.

    25 times the mean squared difference; and of each set 25 times the mean of ``1 - sd`` over entries whose standard
    deviation is below 1, and the sum of the squared covariances of different entries, divided by ``d``.
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
    """A random view of each patch (n, 3, side, side), 0 to 1, normalised for the network; all share crop and turn."""
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
