"""dev.py: needs nothing but Python, sets up once, and is what the README and CI say."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
