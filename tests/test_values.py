"""Values survive JSON and arrays as they were, and nothing else than values is written or read."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from flagst._values import decode, encode


@dataclass(frozen=True)
class Pair:
    left: object
    right: object


def round_trip(value):
    arrays = {}
    text = json.dumps(encode(value, arrays, "it", classes=(Pair,)), allow_nan=False)
    return decode(json.loads(text), arrays, classes=(Pair,))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1 + 0.2,
        float("inf"),
        "text",
        [1, (2, [3.5, None])],
        {"a": {"b": ()}, "@b": 1, "@@c": 2},
        np.float64(1 / 3),
        np.float32(1 / 3),
        np.float64("-inf"),
        np.int64(2**62),
        np.bool_(True),
        Pair(Pair(1, "x"), {"y": (1.5,)}),
    ],
)
def test_plain_values_come_back_as_they_were(value):
    found = round_trip(value)
    assert found == value and type(found) is type(value)


def test_not_a_number_comes_back():
    assert np.isnan(round_trip(float("nan"))) and isinstance(round_trip(np.float32("nan")), np.float32)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (3, 4), (2, 3, 4)])
def test_arrays_come_back_with_their_layout(dtype, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    for array in (values, np.asfortranarray(values)):
        found = round_trip(Pair([array], 0)).left[0]
        assert found.dtype == array.dtype and found.flags.c_contiguous == array.flags.c_contiguous
        np.testing.assert_array_equal(found, array)


def test_arrays_are_named_by_their_place():
    arrays = {}
    encode({"a": [Pair(np.zeros(2), np.ones(3))]}, arrays, "it", classes=(Pair,))
    assert set(arrays) == {"it/a/0/left", "it/a/0/right"}


def test_other_values_are_not_written():
    for value, kind in ((object(), "object"), ({1: 2}, "dict"), (np.array(["a"]), "ndarray"), (print, "builtin")):
        with pytest.raises(TypeError, match=f"cannot hold it/a, a {kind}"):
            encode({"a": value}, {}, "it", classes=(Pair,))
    with pytest.raises(TypeError, match="a Pair"):
        encode(Pair(1, 2), {}, "it", classes=())


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"@class": "Other", "fields": {}}, "the class 'Other' is unknown"),
        ({"@class": "Pair", "fields": {"left": 1}}, r"a Pair has the fields \['left'\]; expected \['left', 'right'\]"),
        ({"@import": "os"}, "the tag '@import' is unknown"),
        ({"@array": "b"}, "the array b is missing"),
    ],
)
def test_what_was_never_written_is_refused(written, message):
    with pytest.raises(ValueError, match=message):
        decode([written], {"a": np.zeros(1)}, classes=(Pair,))
