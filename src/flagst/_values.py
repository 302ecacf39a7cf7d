"""Values as JSON and arrays, and back: what a saved model is written with.

What JSON has is written as it is. Everything else is an object with a tag:

===========================================  =====================================================================
``{"@array": name}``                         the array of that name
``{"@array": name, "transposed": true}``     its transpose, of an array that lies in memory column by column
``{"@numpy": dtype, "value": number}``       a numpy number
``{"@float": "nan"}``                        a number that is not finite
``{"@tuple": [...]}``                        a tuple
``{"@class": name, "fields": {...}}``        a dataclass
===========================================  =====================================================================

A key of a dict that begins with ``@`` is written with a second one.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np


def encode(value: Any, arrays: dict[str, np.ndarray], name: str, *, classes: tuple[type, ...]) -> Any:
    """A value as JSON has it.

    Parameters
    ----------
    value
        Plain values, numpy numbers and arrays, and lists, tuples, dicts and dataclasses of them.
    arrays
        Its arrays are added here, each under its place in the value: ``name/key/0``.
    name
        What the value is called.
    classes
        The dataclasses that may be written.

    Raises
    ------
    TypeError
        Any other value.
    """

    def part(item: Any, key: Any) -> Any:
        return encode(item, arrays, f"{name}/{key}", classes=classes)

    if isinstance(value, str):
        return str(value)  # also of numpy's own kind of text
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, np.number | np.bool_):
        return {"@numpy": value.dtype.name, "value": part(value.item(), "value")}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"@float": repr(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # sums over an array depend on its layout in their last digits
        transposed = value.flags.f_contiguous and not value.flags.c_contiguous
        arrays[name] = np.array(value.T if transposed else value, order="C")
        return {"@array": name} | ({"transposed": True} if transposed else {})
    if isinstance(value, list):
        return [part(item, i) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"@tuple": [part(item, i) for i, item in enumerate(value)]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {f"@{key}" if key.startswith("@") else key: part(item, key) for key, item in value.items()}
    if type(value) in classes:
        of_fields = {field.name: part(getattr(value, field.name), field.name) for field in fields(value)}
        return {"@class": type(value).__name__, "fields": of_fields}
    raise TypeError(f"A saved model cannot hold {name}, a {type(value).__name__}.")


def decode(value: Any, arrays: Mapping[str, np.ndarray], *, classes: tuple[type, ...]) -> Any:
    """What :func:`encode` was given.

    Raises
    ------
    ValueError
        An unknown tag or class, a class with other fields, or an array that is not there.
    """

    def part(item: Any) -> Any:
        return decode(item, arrays, classes=classes)

    if isinstance(value, list):
        return [part(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith("@") and not key.startswith("@@")), None)
    if tag is None:
        return {key[1:] if key.startswith("@@") else key: part(item) for key, item in value.items()}
    held = value[tag]
    if tag == "@array":
        if held not in arrays:
            raise ValueError(f"the array {held} is missing")
        return arrays[held].T if value.get("transposed") else arrays[held]
    if tag == "@class":
        return _instance(held, part(value["fields"]), classes)
    if tag == "@tuple":
        return tuple(part(held))
    if tag == "@float":
        return float(held)
    if tag == "@numpy":
        return np.dtype(held).type(part(value["value"]))
    raise ValueError(f"the tag {tag!r} is unknown")


def _instance(name: str, parts: dict, classes: tuple[type, ...]) -> Any:
    cls = next((known for known in classes if known.__name__ == name), None)
    if cls is None:
        raise ValueError(f"the class {name!r} is unknown")
    expected = [field.name for field in fields(cls)]
    if set(parts) != set(expected):
        raise ValueError(f"a {name} has the fields {sorted(parts)}; expected {sorted(expected)}")
    return cls(**parts)
