"""dev.py: needs nothing but Python, sets up once, and is what the README and CI say."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_ROOMS = ("metrics", "tl", "pl", "pp", "io", "datasets", "encoders", "gfm", "baselines", "model")


@pytest.fixture
def dev(tmp_path, monkeypatch):
    """dev.py as a module, working on a folder of its own, with its commands recorded instead of run."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    module.commands = []
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def run(command):
        module.commands.append(command)
        if "venv" in command:
            (tmp_path / ".venv" / "bin").mkdir(parents=True)

    monkeypatch.setattr(module, "run", run)
    return module


def test_standard_library_only():
    tree = ast.parse((ROOT / "dev.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


def test_sets_up_once_and_again_when_the_project_changed(dev, monkeypatch, tmp_path):
    dev.set_up("3.11", sys.executable)
    assert [c[1:3] for c in dev.commands] == [["-m", "venv"], ["-m", "pip"]]
    monkeypatch.setattr(dev, "version_of", lambda python: "3.11")
    assert dev.set_up("3.11", sys.executable) == tmp_path / ".venv" / "bin" / "python"
    assert len(dev.commands) == 2
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    dev.set_up("3.11", sys.executable)
    assert [c[1:3] for c in dev.commands[2:]] == [["-m", "pip"]]


def test_failed_installation_is_repeated(dev, monkeypatch):
    monkeypatch.setattr(dev, "version_of", lambda python: "3.11")

    def fail(command):
        raise SystemExit(1)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(dev, "run", fail)
        (dev.ROOT / ".venv").mkdir()
        dev.set_up("3.11", sys.executable)
    dev.set_up("3.11", sys.executable)
    assert [c[1:3] for c in dev.commands] == [["-m", "pip"]]


def test_interpreters_are_tried_not_trusted(dev, tmp_path):
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert dev.version_of(shim) is None and dev.version_of(tmp_path / "absent") is None
    assert dev.version_of(sys.executable) == "{}.{}".format(*sys.version_info[:2])


def test_find_prints_an_interpreter():
    version = "{}.{}".format(*sys.version_info[:2])
    command = [sys.executable, str(ROOT / "dev.py"), "--python", version, "--find"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(found).exists()


def test_environment_is_clean(dev, monkeypatch):
    for name in dev.FOREIGN:
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("FLAGST_DATA_DIR", "kept")
    assert not set(dev.FOREIGN) & set(dev.clean_environment())
    assert dev.clean_environment()["FLAGST_DATA_DIR"] == "kept"


FILES = {
    "__init__.py": '"""Package."""\n\n__version__ = "1"\n',
    "_keys.py": "A = 1\n",
    "first/__init__.py": "from flagst.first.one import C\n\n__all__ = ['C']\n",
    "first/one.py": (
        '"""Owns one.\n\nTwo lines."""\n\n# comment\nimport os\nfrom typing import TYPE_CHECKING\n\n'
        "from flagst._keys import A\nfrom flagst.first.two import g\n\n"
        "if TYPE_CHECKING:\n    from flagst.first import two\n\n\n"
        'class C:\n    """Class."""\n\n    @property\n    def size(self):\n        """Size."""\n\n'
        '        # why\n        text = """a\n\n        b"""\n        return text, g(A), os, two\n'
    ),
    "first/two.py": "def g(x):\n    from flagst.first import one\n\n    return one\n",
    "second/three.py": "import flagst._keys\nfrom flagst.first.one import C\n",
}


@pytest.fixture
def source(dev, tmp_path, monkeypatch):
    """A package with one of everything that is counted."""
    for name, text in FILES.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(text)
    monkeypatch.setattr(dev, "SOURCE", tmp_path / "source")


def shape_rows(text):
    return {line.split("  ")[0]: line.split() for line in text.splitlines()[4:]}


def test_shape_counts_lines_and_imports(dev, source, capsys):
    assert dev.shape() == 0
    said = capsys.readouterr().out
    rows = shape_rows(said)
    assert rows["(top level)"][2:] == ["2", "2", "0", "no", "__init__.py", "3", "none", "0"]
    # of two files that import each other: the statement for types and the lazy one count, that of __init__ does not
    assert rows["first"] == ["first", "3", "18", "3", "yes", "first/one.py", "27", "C.size", "6"]
    assert rows["second"][1:5] == ["1", "2", "0", "no"]
    assert rows["total"] == ["total", "6", "22", "3"]
    assert said.splitlines()[-1] == "Circle in first: flagst.first.one -> flagst.first.two -> flagst.first.one"


def test_circles_are_found(dev):
    assert dev.find_circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert dev.find_circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    assert dev.find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_shape_of_the_source_needs_no_environment():
    command = [sys.executable, str(ROOT / "dev.py"), "shape"]
    rows = shape_rows(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    numbers = [list(map(int, row[1:4])) for name, row in rows.items() if name in PUBLIC_ROOMS]
    assert len(numbers) == len(PUBLIC_ROOMS) and all(n_files > 0 and n_lines > 0 for n_files, n_lines, _ in numbers)
    assert int(rows["total"][1]) == len(list((ROOT / "src" / "flagst").rglob("*.py")))


@pytest.mark.parametrize(("used", "other", "environment"), [("3.11", "3.12", ".venv"), ("3.12", "3.11", ".venv-3.12")])
@pytest.mark.parametrize("has_other", [True, False])
@pytest.mark.parametrize("was_there", [True, False])
def test_ci_says_which_pythons_it_used(tmp_path, used, other, environment, has_other, was_there):
    """Run beside a dev.py that records its arguments instead of following them."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    interpreter = tmp_path / "interpreter"
    interpreter.write_text(f"#!/bin/sh\necho {used}\n")
    interpreter.chmod(0o755)
    (tmp_path / "dev.py").write_text(
        "import os, sys\n"
        "open('calls', 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"if sys.argv[1:] == ['--find']: print({str(interpreter)!r})\n"
        f"if '--find' in sys.argv and {other!r} in sys.argv and not {has_other}: sys.exit(3)\n"
        f"if sys.argv[1:] == ['demo']: os.makedirs({environment!r}, exist_ok=True)\n"
    )
    if was_there:
        (tmp_path / environment).mkdir()
    result = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, check=True)
    ran = [call for call in (tmp_path / "calls").read_text().splitlines() if "--find" not in call]
    assert ran == ["demo", "test"] + [f"--python {other} test -m not slow --ignore tests/benchmarks"] * has_other
    # room for the second environment, but never at the cost of one that somebody works in
    assert (tmp_path / environment).exists() == (was_there or not has_other)
    last = result.stdout.splitlines()[-1]
    if has_other:
        assert last.endswith(f"tests passed on Python {used}, without slow ones and benchmarks on Python {other}")
    else:
        assert last.endswith(f"passed on Python {used}; there is no Python {other} here")


def test_ci_runs_the_commands_of_the_readme():
    section = (ROOT / "README.md").read_text().split("## Two commands")[1].split("```")[1]
    commands = re.findall(r"^(python3 dev\.py \w+)", section, re.MULTILINE)
    assert commands == ["python3 dev.py demo", "python3 dev.py test"]
    assert re.findall(r"^(python3 dev\.py \w+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE) == commands
