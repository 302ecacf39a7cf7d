"""Docstrings of the public API: what they must say, and examples that run.

Counted are the functions and classes in ``__all__`` of every room, and the public methods with a body that such a
class defines or has from a class of ours. Not counted: properties, attributes (of dataclasses too), constants,
dunders, abstract methods, and overrides without a docstring, which have that of the method they override.

- Shapes: of everything that takes, holds or returns arrays, as annotations, names of parameters or the text say.
- Raises: of everything whose body, or a private helper of the same module that it calls, has a ``raise`` or calls a
  ``require_*`` or ``check_*`` helper.
- Examples: of everything, except methods that another library calls (``forward``): their class has the example.
"""

import copy
import doctest
import importlib.util
import re
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import public_api
import pytest
import spatialdata
from public_api import CRITERIA, ROOMS, THRESHOLDS, Item, documented, examples, public_items, room

import flagst

MODULES = {name: module for name in ROOMS if (module := room(name))}
EXAMPLES = dict(pair for module in MODULES.values() for pair in examples(module))
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def require_share(items: list[Item], criterion: str) -> None:
    n, missing = documented(items, criterion)
    share, wanted = 1 - len(missing) / max(n, 1), THRESHOLDS[criterion]
    text = f"{share:.1%} of {n} public objects have {criterion}; wanted {wanted:.0%}. Missing:\n"
    assert share >= wanted, text + "\n".join(missing)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", MODULES)
def test_docstrings_of_room(name, criterion):
    require_share(public_items(MODULES[name]), criterion)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_docstrings_of_package(criterion):
    require_share([item for module in MODULES.values() for item in public_items(module)], criterion)


PROBE = '''
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

__all__ = ["LIMIT", "Base", "Child", "Record", "Library", "bad_shape", "checks", "indirect", "scale", "plain", "np"]
LIMIT = 3

def scale(values: np.ndarray, factor: float) -> np.ndarray:
    """Scale.

    Parameters
    ----------
    values
        (n_spots, 2) float64.

    Raises
    ------
    ValueError
        Always.

    Examples
    --------
    >>> 1 + 1
    2
    """
    raise ValueError(factor)

def bad_shape(x: np.ndarray):
    """Words (symbol, name) and calls f(a and b) are no shapes, ``Raises`` in the text is no section."""
    raise ValueError(x)

def checks(x):
    """Checks."""
    require_key(x, "a")

def indirect(x):
    """Its helper raises."""
    _helper(x)

def plain(x: int) -> int:
    """Nothing to say."""
    return x

def _helper(x):
    _deeper(x)
    raise KeyError(x)

def _deeper(x):
    raise KeyError(x)

def public_but_not_listed():
    pass

class Base(ABC):
    """Base."""

    def __init__(self, graph):
        self._look(graph)

    def _look(self, graph):
        raise ValueError(graph)

    @abstractmethod
    def fit(self, x):
        """Abstract: no body."""

    def todo(self):
        """No body either."""
        raise NotImplementedError

    @property
    def width(self):
        """Width.

        >>> 2
        2
        """
        return 1

    def shared(self):
        """Shared."""
        return 1

    @classmethod
    def make(cls) -> "Base":
        """Make."""
        return cls(1)

class Child(Base):
    """Child."""

    def fit(self, x):
        return x

    def shared(self):
        """Its own."""
        return 2

@dataclass
class Record:
    """A record."""

    values: np.ndarray  # (n_genes,) float64

class Library(OrderedDict):
    """Implements what another library calls."""

    def update(self, x: "Tensor") -> None:
        """Called by others, (n, 2)."""

        def inner():
            pass

        inner()
'''


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """Items of a module with one of everything, by name."""
    path = tmp_path / "probe_of_docstrings.py"
    path.write_text(PROBE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    monkeypatch.setattr(public_api, "OURS", {path.stem})
    spec.loader.exec_module(module)
    return module


def test_walker_finds_what_is_public(probe):
    names = [item.name.removeprefix(f"{probe.__name__}.") for item in public_items(probe)]
    assert names == [
        "Base", "Base.shared", "Base.make", "Child", "Child.shared", "Record", "Library", "Library.update",
        "bad_shape", "checks", "indirect", "scale", "plain",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("criterion", "asked", "missing"),
    [
        ("shapes", 5, ["Base", "bad_shape"]),  # beside scale, Record, Library.update
        ("Raises", 5, ["Base", "bad_shape", "checks", "indirect"]),
        ("Examples", 12, None),
    ],
)
def test_walker_sees_what_is_missing(probe, criterion, asked, missing):
    n, names = documented(public_items(probe), criterion)
    names = [name.removeprefix(f"{probe.__name__}.") for name in names]
    assert n == asked
    if missing is None:
        assert len(names) == asked - 1 and "scale" not in names
    else:
        assert names == missing


def test_walker_says_who(probe):
    with pytest.raises(AssertionError, match=r"20.0% of 5 .*\n.*\.Base\n(.*\n)*.*\.indirect"):
        require_share(public_items(probe), "Raises")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("``(n_spots, n_genes)`` float32", True),
        ("(n,)", True),
        ("Axes (n_sections * n_genes, 2), or (..., 1)", True),
        ("(n_steps + 1,)", True),
        ("uint8 (height, width, 3)", True),
        ("losses (per epoch, and more)", False),
        ("f(a)", False),
        ("(symbol, name)", False),
        ("(see 3)", False),
    ],
)
def test_walker_knows_a_shape(text, expected):
    def documented_function():
        pass

    documented_function.__doc__ = text
    assert public_api.has_shapes(Item("probe", documented_function)) == expected


def test_walker_finds_examples(probe):
    assert [name.rpartition(".")[2] for name, _ in examples(probe)] == ["scale", "width"]


@pytest.fixture(scope="session")
def originals():
    """What examples start from, made once: three simulated sections, a model trained for a moment, a prediction."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata = flagst.datasets.simulated_sections(n_sections=3, n_spots=60, n_genes=20)
        flagst.pp.image_features(sdata)
        adata = sdata.tables["table"]
        flagst.FLAG.setup_anndata(adata)
        model = flagst.FLAG(adata, network={"d_context": 16, "denoiser_kwargs": {"width": 32, "n_blocks": 2}})
        model.train(
            max_epochs=1,
            accelerator="cpu",
            enable_progress_bar=False,
            datasplitter_kwargs={"windows_per_epoch": 4},
        )
        prediction = model.predict(adata.copy(), n_samples=20, return_std=True, quantiles=(0.05, 0.95))
    return {"sdata": sdata, "adata": adata, "model": model, "prediction": prediction}


def copies(originals: dict, text: str) -> dict:
    """What an example uses, and may change: ``adata`` is the table of ``sdata`` and the one that ``model`` has."""
    used = {name for name in originals if re.search(rf"\b{name}\b", text)}
    result = {}
    if "sdata" in used:
        result["sdata"] = spatialdata.deepcopy(originals["sdata"])
        result["adata"] = result["sdata"].tables["table"]
    elif used & {"adata", "model"}:
        result["adata"] = originals["adata"].copy()
    if "model" in used:
        result["model"] = copy.copy(originals["model"])
        result["model"].adata = result["adata"]
    if "prediction" in used:
        result["prediction"] = originals["prediction"].copy()
    return result


def test_examples_get_copies(originals):
    found = copies(originals, "sdata adata model prediction")
    assert set(found) == set(originals) and all(found[name] is not originals[name] for name in found)
    assert found["model"].adata is found["adata"] is found["sdata"].tables["table"]
    found["model"].predict()
    assert "flagst" in found["adata"].layers and "flagst" not in originals["adata"].layers
    assert set(copies(originals, "model = 1")) == {"adata", "model"}
    assert not copies(originals, "predictions")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name, originals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    text = EXAMPLES[name]
    namespace = copies(originals, text) | {"flagst": flagst, "np": np, "__name__": "__main__"}
    parsed = doctest.DocTestParser().get_doctest(text, namespace, name, None, 0)
    said = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(parsed, out=said.append)
    plt.close("all")
    if said:
        pytest.fail("".join(said), pytrace=False)
