"""Choices of a model are those that the networks, the diffusion and the regression know."""

import pytest

from flagst.diffusion import PROCESSES, SOLVERS
from flagst.nn.network import DENOISERS
from flagst.regression.stage import REGRESSIONS
from flagst.settings import CHOICES, PRESETS, resolve


@pytest.mark.parametrize(
    ("name", "known"),
    [("process", PROCESSES), ("solver", SOLVERS), ("denoiser", DENOISERS), ("regression", {*REGRESSIONS, None})],
)
def test_choices_are_what_there_is(name, known):
    assert set(CHOICES[name]) == set(known)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_allowed(preset):
    assert resolve(preset, target=None, gfm="coexpression") == PRESETS[preset]
