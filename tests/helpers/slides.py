"""Models and layers for tests of large sections."""

import numpy as np
import torch


def shaken(model, make):
    """Trained, with weights far from their zeros, as after long training: neighbours take part in every evaluation."""
    model.train(**make.QUICK)
    generator = torch.Generator().manual_seed(0)
    for weight in model.module.parameters():
        weight.data += 0.15 * torch.randn(weight.shape, generator=generator)
    return model


def layers_of(table):
    return {name: np.asarray(values) for name, values in table.layers.items() if name is not None}


def assert_close(found, expected, *, atol=1e-4):
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=atol, err_msg=name)
