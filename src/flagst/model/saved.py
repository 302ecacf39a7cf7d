"""What a saved model's file may hold: read without running it, before scvi-tools reads it."""

import pickle
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flagst._files import guarded

#: Functions and types by which plain values, arrays, tensors and tables are put together again.
_PARTS = {
    "builtins": {"bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "range", "set", "slice"},
    "collections": {"OrderedDict", "defaultdict"},
    "_codecs": {"encode"},
    "numpy": {"dtype", "ndarray"},
    "torch": {"Size", "device", "float16", "bfloat16", "float32", "float64", "int32", "int64", "bool", "uint8"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas._libs.arrays": {"__pyx_unpickle_NDArrayBacked"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager"},
    # as pandas 3 calls and stores them, with pyarrow or without
    "pandas": {"DataFrame", "Index", "RangeIndex", "StringDtype"},
    "pandas.arrays": {"ArrowStringArray", "StringArray"},
    "pyarrow.lib": {"_restore_array", "py_buffer", "type_for_alias"},
}
for _numpy in ("numpy.core", "numpy._core"):
    _PARTS |= {f"{_numpy}.multiarray": {"_reconstruct", "scalar"}, f"{_numpy}.numeric": {"_frombuffer"}}


class _Unpickler(pickle.Unpickler):
    """Makes what flagst saves: the parts above, and its own dataclasses."""

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
        if name in _PARTS.get(module, ()):
            return super().find_class(module, name)
        if module.split(".")[0] == "flagst":
            found = getattr(import_module(module), name, None)
            if isinstance(found, type) and is_dataclass(found) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no model of flagst holds")


def require_own_file(path: Path) -> None:
    """Raise a ``ValueError`` for a file that holds anything but what a model of flagst consists of.

    A pickle can name any function to be called when it is read. Here only those are that put plain values, arrays,
    tensors and tables together; at any other the reading stops.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Something else is in it, or it is broken; the file and what it asked for are named.
    """
    import torch

    reader = SimpleNamespace(__name__="flagst", Unpickler=_Unpickler)  # what torch wants of a module like pickle

    def read() -> None:
        torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)

    guarded(path, read)
