"""Training and prediction give the numbers that are on record in ``golden.npz``."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
#: Absolute, in units of the target (values are 0 to about 8). Rounding is allowed for: another number of threads moved
#: nothing, linear algebra for older processors (SSE4.2 instead of AVX2) moved values by up to 5e-6.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def numbers():
    spec = importlib.util.spec_from_file_location("make_golden", HERE / "make_golden.py")
    make_golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_golden)
    return make_golden.compute()


@pytest.mark.parametrize("target", ["lognorm", "log2"])
def test_numbers_are_those_on_record(numbers, target):
    with np.load(HERE / "golden.npz") as golden:
        expected = {name: golden[name] for name in golden.files if name.startswith(target)}
    assert set(expected) == {name for name in numbers if name.startswith(target)}
    apart = {name: float(np.abs(numbers[name] - values).max()) for name, values in expected.items()}
    assert max(apart.values()) <= TOLERANCE, apart


def test_the_record_says_where_it_comes_from():
    provenance = json.loads((HERE / "golden.json").read_text())
    assert {"commit", "python", "numpy", "torch"} <= set(provenance)
