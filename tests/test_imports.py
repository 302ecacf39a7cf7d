"""The arrows between rooms, read from the source, and what an import leaves in memory."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flagst
from flagst import _keys

ROOT = Path(flagst.__file__).parent

HEAVY = {
    "anndata", "lightning", "matplotlib", "scanpy", "scvi", "sklearn", "spatialdata", "squidpy",
    "torch", "torch_geometric",
}  # fmt: skip
BASE = {"settings", "_keys", "_checks", "_files", "_values", "_weights"}
CORE = {"nn", "diffusion", "metrics", "regression"}
PUBLIC = {"metrics", "data", "model", "pp", "tl", "pl", "io", "datasets", "encoders", "gfm", "baselines"}

#: Room -> (rooms of flagst it may import, heavy packages it may import), besides itself and the base.
#: Imports inside functions count: a forbidden direction stays forbidden when it is lazy.
#: Blocks under ``if TYPE_CHECKING`` do not: they never run.
ARROWS = {
    "_keys": (set(), set()),
    "_checks": (set(), set()),
    "_files": (set(), {"torch"}),
    "_values": (set(), set()),
    "_weights": (set(), set()),
    "settings": (set(), set()),
    "__init__": (PUBLIC, set()),
    "__main__": ({"cli"}, set()),
    "cli": (PUBLIC, {"anndata", "matplotlib", "spatialdata"}),
    "nn": (set(), {"torch", "torch_geometric"}),
    "diffusion": (set(), {"torch"}),
    "metrics": (set(), set()),
    "regression": (set(), set()),
    "module": ({"nn", "diffusion"}, {"torch", "scvi"}),
    "train": (set(), {"torch", "scvi", "lightning"}),
    "data": (set(), {"torch", "anndata", "spatialdata"}),
    "sampling": ({"data", "diffusion", "metrics", "regression"}, {"torch", "anndata"}),
    "model": (
        {"baselines", "data", "gfm", "metrics", "module", "nn", "pp", "regression", "sampling", "train"},
        {"anndata", "lightning", "scvi", "torch"},
    ),
    "baselines": ({"data", "metrics", "regression", "sampling"}, set()),
    "encoders": ({"data"}, {"torch"}),
    "gfm": (set(), {"torch", "anndata"}),
    "pp": ({"data", "encoders", "gfm"}, {"anndata", "scanpy", "spatialdata"}),
    "io": ({"data"}, {"anndata", "spatialdata"}),
    "datasets": ({"io"}, set()),
    "tl": ({"data", "metrics", "model"}, {"anndata", "scanpy", "sklearn"}),
    "pl": ({"data", "metrics", "tl"}, {"matplotlib"}),
}

#: Rooms whose whole list of third-party packages is fixed.
ONLY = {
    "nn": {"torch", "torch_geometric"},
    "diffusion": {"torch"},
    "metrics": {"numpy", "scipy"},
    "regression": {"numpy"},
    "_keys": set(),
}

FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of everything a file imports anywhere, except under ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno} uses a relative import"
            names.add(node.module)
            # "from flagst import metrics" imports a room; "from flagst.metrics import pcc" a name in it.
            if node.module == "flagst":
                names.update(f"flagst.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return names


def rooms_imported(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imported(path) if name.startswith("flagst.")}
    return {"model" if name == "FLAG" else name for name in names} - {"__version__"}


def packages_imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)} - {"flagst"} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_the_right_way(path):
    room = room_of(path)
    assert room in ARROWS, f"room {room!r} has no row in ARROWS: say what it may import"
    rooms, heavy = ARROWS[room]
    wrong = rooms_imported(path) - rooms - BASE - {room}
    assert not wrong, f"{room} must not import flagst.{sorted(wrong)}"
    wrong = (packages_imported(path) & HEAVY) - heavy
    assert not wrong, f"{room} must not import {sorted(wrong)}"
    if room in ONLY:
        wrong = packages_imported(path) - ONLY[room]
        assert not wrong, f"{room} imports {sorted(ONLY[room])} only; found {sorted(wrong)}"


def test_every_arrow_is_used():
    """An arrow that no file follows any more is one that nobody has to keep in mind."""
    rooms, heavy = {room: set() for room in ARROWS}, {room: set() for room in ARROWS}
    for path in FILES:
        rooms[room_of(path)] |= rooms_imported(path) - BASE - {room_of(path)}
        heavy[room_of(path)] |= packages_imported(path) & HEAVY
    for room, arrows in ARROWS.items():
        if room not in {"__init__", "cli"}:  # both are to reach everything public
            assert (rooms[room], heavy[room]) == arrows, room


def imports_by_module(root: Path = ROOT) -> dict[str, set[str]]:
    """Each module of flagst -> the modules of its own room that it imports."""
    modules = {".".join(("flagst", *path.relative_to(root).with_suffix("").parts)): path for path in root.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    found = {}
    for module, path in modules.items():
        names = imported(path)
        # "from flagst.data import graph" imports a module, "from flagst.data.graph import knn" a name in one
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                parts = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
                names |= parts
                if len(parts) == len(node.names):
                    names.discard(node.module)
        room = module.split(".")[1:2]
        found[module] = {name for name in names & set(modules) if name.split(".")[1:2] == room} - {module}
    return found


def circle_of(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one repeated at the end; empty without a circle."""
    done: set[str] = set()

    def follow(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in done:
            for name in sorted(arrows[module]):
                if circle := follow(name, [*way, module]):
                    return circle
            done.add(module)
        return []

    return next((circle for module in sorted(arrows) if (circle := follow(module, []))), [])


def test_imports_inside_a_room_have_no_circle():
    """Imports inside functions count, and so does the ``__init__.py`` of a room."""
    assert not circle_of(imports_by_module()), " -> ".join(circle_of(imports_by_module()))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from flagst.room.second import name", "from flagst.room import first"),
        ("import flagst.room.second", "def f():\n    from flagst.room.first import name"),
        ("from flagst.room import name", ""),  # the __init__.py imports "first"
    ],
)
def test_circles_are_found(tmp_path, first, second):
    room = tmp_path / "room"
    room.mkdir()
    (room / "__init__.py").write_text("from flagst.room.first import name\n")
    (room / "first.py").write_text(first)
    (room / "second.py").write_text(second)
    circle = circle_of(imports_by_module(tmp_path))
    assert len(circle) == 3 and circle[0] == circle[-1] and "flagst.room.first" in circle
    (room / "first.py").write_text("")
    assert circle_of(imports_by_module(tmp_path)) == []


def test_base_imports_no_room():
    for name in BASE:
        assert rooms_imported(ROOT / f"{name}.py") <= BASE


def test_settings_import_checks_only():
    assert rooms_imported(ROOT / "settings.py") == {"_checks"}


def test_reader_of_imports_sees_what_it_should(tmp_path):
    """The checker itself: lazy and plain imports count, type-only ones do not."""
    path = tmp_path / "probe.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport numpy as np\nfrom flagst import metrics\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from flagst.model import FLAG\n    import scvi.data\n"
    )
    assert packages_imported(path) == {"numpy", "scvi"}
    assert rooms_imported(path) == {"metrics", "model"}


def modules_after(statement: str) -> tuple[set[str], float]:
    """Top-level modules in memory after a statement in a fresh interpreter, and the seconds it took."""
    program = (
        f"import sys, time; start = time.perf_counter(); {statement}; seconds = time.perf_counter() - start; "
        "print(seconds, *{name.split('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, *names = result.stdout.split()
    return set(names), float(seconds)


def test_importing_the_package_is_light():
    runs = [modules_after("import flagst") for _ in range(5)]
    assert not runs[0][0] & HEAVY
    assert min(seconds for _, seconds in runs) < 0.5


@pytest.mark.parametrize("room", ["metrics", "pl", "baselines"])
def test_plots_metrics_and_baselines_leave_torch_out(room):
    names, _ = modules_after(f"import flagst.{room}")
    assert not names & {"torch", "torch_geometric", "scvi", "lightning"}
    if room == "metrics":
        assert not names & HEAVY


@pytest.mark.parametrize("room", ["pp", "tl", "io", "datasets"])
def test_public_rooms_import_without_torch(room):
    if not (ROOT / room / "__init__.py").exists():
        pytest.skip(f"flagst.{room} is not there")
    names, _ = modules_after(f"import flagst.{room}")
    assert not names & {"torch", "scvi", "lightning"}


def slot_names() -> set[str]:
    """Slot names of ours that mean nothing else: a string equal to one is surely a slot."""
    groups = (_keys.OBSM, _keys.VAR, _keys.VARM, _keys.LAYERS, _keys.OBS, _keys.UNS, _keys.LIBRARY)
    values = {value for group in groups for value in vars(group).values()}
    # Ordinary words, also used as column names, arguments and the name of the logger.
    return values - {"flagst", "spatial", "section", "patient", "region", "cluster", "images", "hires"}


def docstrings(tree: ast.AST) -> set[int]:
    """Ids of the constants that are docstrings."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, holders) and node.body)
    return {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}


def test_slot_names_are_written_once():
    """No string equal to a slot name outside ``_keys.py``, default arguments included."""
    found = []
    for path in FILES:
        if path.name == "_keys.py":
            continue
        tree = ast.parse(path.read_text())
        skipped = docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in slot_names() and id(node) not in skipped:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}")
    assert not found, "use flagst._keys instead of\n" + "\n".join(found)
