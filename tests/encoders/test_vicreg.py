"""The small network and its training: what the loss asks for, what views are, what a seed fixes."""

import numpy as np
import pytest
import torch

from flagst.encoders import _vicreg


@pytest.fixture
def patches():
    """(80, 28, 28, 3) uint8: tissue of two stains and many colours, coarse and fine grained."""
    rng = np.random.default_rng(0)
    grain = [np.kron(rng.normal(0, 25, (40, 28 // side, 28 // side)), np.ones((side, side))) for side in (1, 4)]
    colour = np.where(rng.random((80, 1, 1, 1)) < 0.5, (190, 120, 180), (220, 170, 200)) + rng.normal(
        0, 15, (80, 1, 1, 3)
    )
    return np.clip(colour + np.concatenate(grain)[..., None], 0, 255).astype(np.uint8)


def fit(patches, **kwargs):
    return _vicreg.fit_network(patches, **({"n_steps": 2, "seed": 0, "device": "cpu"} | kwargs))


def test_the_loss_is_its_three_parts():
    """Against sums over entries, written out."""
    first, second = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = 25 * sum(float((a - b) ** 2) for a, b in zip(first.flatten(), second.flatten(), strict=True)) / 18
    for z in (first.numpy(), second.numpy()):
        covariance = [
            [float(((z[:, i] - z[:, i].mean()) * (z[:, j] - z[:, j].mean())).sum() / 5) for i in range(3)]
            for j in range(3)
        ]
        expected += 25 * sum(max(0.0, 1 - (covariance[i][i] + 1e-4) ** 0.5) for i in range(3)) / 3
        expected += sum(covariance[i][j] ** 2 for i in range(3) for j in range(3) if i != j) / 3
    assert float(_vicreg.vicreg_loss(first, second)) == pytest.approx(expected, rel=1e-9)


def test_the_loss_prefers_descriptions_that_agree_spread_out_and_share_nothing():
    good = 1.1 * torch.randn(4096, 4, generator=torch.Generator().manual_seed(0))
    loss = _vicreg.vicreg_loss
    assert loss(good, good) < 0.1
    assert loss(good, good.roll(1, 0)) > 25  # views of different patches
    assert loss(good * 0, good * 0) > 20  # all patches alike
    assert loss(good[:, [0, 0, 0, 0]], good[:, [0, 0, 0, 0]]) > 3  # one entry four times


def test_a_view_is_a_crop_turned_and_stained():
    """Of grey levels that tell where they come from."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    patch = ((10 + x + 28 * y) / 1000).expand(2, 3, 28, 28)
    turns, stains = set(), []
    for _ in range(40):
        view = _vicreg._view(patch, generator) * 0.2 + 0.75
        assert view.shape == (2, 3, 20, 20)
        # an exponent per patch and colour: the ratio of logarithms to those of some crop, turned
        logs = view[0, 0].log()
        candidates = {
            (top, left, k, flip): torch.rot90(patch[0, 0, top : top + 20, left : left + 20], k).flip(1 if flip else ())
            for top in range(9)
            for left in range(9)
            for k in range(4)
            for flip in (False, True)
        }
        ratios = {place: logs / value.log() for place, value in candidates.items()}
        place = min(ratios, key=lambda place: float(ratios[place].std()))
        assert ratios[place].std() < 1e-3
        turns.add(place[2:])
        stains += (view.log() / candidates[place].log()).mean((2, 3)).flatten().tolist()
    assert len(turns) == 8
    assert 0.84 < min(stains) < 0.88 and 1.12 < max(stains) < 1.16


def test_a_seed_fixes_the_network_and_leaves_the_global_state_alone(patches, monkeypatch):
    state, seeded = torch.random.get_rng_state(), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    first, again, other = fit(patches), fit(patches), fit(patches, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state) and not seeded
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first[0].weight, other[0].weight)
    assert not first.training and not first[0].weight.requires_grad


def test_training_makes_views_alike_and_patches_differ(patches):
    """Among descriptions of other patches the nearest is that of the other view, more often than before training."""

    def found(network):
        generator = torch.Generator().manual_seed(1)
        pixels = torch.from_numpy(patches).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            a, b = (network(_vicreg._view(pixels, generator)) for _ in range(2))
        a, b = ((z - z.mean(0)) / (z.std(0) + 1e-6) for z in (a, b))
        return float((torch.cdist(a, b).argmin(1) == torch.arange(len(a))).float().mean())

    assert found(fit(patches, n_steps=30)) > found(fit(patches, n_steps=1)) + 0.3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"patches": 63}, "64 patches or more; got 63"), ({"n_steps": 0}, "n_steps must be 1 or more; got 0")],
)
def test_settings_out_of_range(patches, kwargs, message):
    n_patches = kwargs.pop("patches", 80)
    with pytest.raises(ValueError, match=message):
        fit(patches[:n_patches], **kwargs)


def test_a_loss_that_is_not_finite_is_an_error(patches, monkeypatch):
    monkeypatch.setattr(_vicreg, "vicreg_loss", lambda a, b: (a - b).sum() * float("nan"))
    with pytest.raises(RuntimeError, match="diverged"):
        fit(patches)
