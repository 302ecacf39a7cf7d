"""Set up flagst on a machine that has Python and git, then run something; needs the standard library only.

``python3 dev.py demo`` runs the demo, ``python3 dev.py test`` the tests. Both share one environment in
``.venv`` (``.venv-3.12`` for Python 3.12), made when it is missing and installed into again when
``pyproject.toml`` changed. ``python3 dev.py shape`` counts lines and imports of the source, without an environment.
"""

import argparse
import ast
import hashlib
import io
import os
import subprocess
import sys
import time
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "src" / "flagst"
TOP = "(top level)"
VERSIONS = ("3.11", "3.12")
OLDEST = (3, 11)
EXTRAS = "test,docs"
STAMP = "flagst-installed"
#: Settings of other environments that would leak into ours.
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")
HEARTBEAT_S = 30

#: Command -> arguments of the environment's Python; what the user adds comes last and wins.
COMMANDS = {
    "setup": None,
    "demo": ["-m", "flagst", "demo", "--out", "out/demo"],
    # two processes; files stay together, as fixtures of a file are made once per process
    "test": ["-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"],
    "docs": ["-m", "sphinx", "-W", "-b", "html", "docs", "docs/_build/html"],
    "tutorials": ["tutorials/execute.py"],
    "shape": None,
}


def main() -> int:
    """Run one command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Set up flagst in .venv, then run a command in it.")
    parser.add_argument("--python", choices=VERSIONS, help="default: the version this script runs under, if supported")
    parser.add_argument("--find", action="store_true", help="only print the interpreter; fails when there is none")
    parser.add_argument("command", nargs="?", choices=tuple(COMMANDS), default="setup")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="passed on to the command")
    arguments = parser.parse_args()
    if arguments.command == "shape" and not arguments.find and sys.version_info >= OLDEST:
        return shape()
    version, interpreter = find_interpreter(arguments.python)
    if interpreter is None:
        say("no working Python {} on this machine".format(arguments.python or " or ".join(VERSIONS)))
        return 3
    if arguments.find:
        print(interpreter)
        return 0
    if arguments.command == "shape":  # under a Python that is too old to read the source
        return subprocess.call([interpreter, str(Path(__file__).resolve()), "shape"])
    python = set_up(version, interpreter)
    command = COMMANDS[arguments.command]
    if command is None:
        return 0
    say("running: python " + " ".join(command + arguments.rest))
    return subprocess.call([str(python), *command, *arguments.rest], cwd=str(ROOT), env=clean_environment())


def find_interpreter(wanted):
    """``(version, path)`` of an interpreter that really runs; the path is None where there is none."""
    running = "{}.{}".format(*sys.version_info[:2])
    if running in VERSIONS and wanted in (None, running):
        return running, getattr(sys, "_base_executable", None) or sys.executable
    for version in [wanted] if wanted else VERSIONS:
        # a name on the path may be a shim that fails, so ask each
        pyenv = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))) / "versions"
        candidates = [
            "python" + version,
            *sorted(map(str, pyenv.glob(version + ".*/bin/python")), reverse=True),
        ]
        for candidate in candidates:
            if version_of(candidate) == version:
                return version, candidate
    return wanted, None


def version_of(python):
    """``"3.11"`` for an interpreter that runs, else None."""
    program = "import sys; print('{}.{}'.format(*sys.version_info[:2]))"
    try:
        result = subprocess.run(
            [str(python), "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
        )
    except OSError:
        return None
    return result.stdout.decode().strip() if result.returncode == 0 else None


def set_up(version, interpreter):
    """Path of the environment's Python, with flagst and all it needs installed."""
    folder = ROOT / (".venv" if version == VERSIONS[0] else ".venv-" + version)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if version_of(python) != version:
        say("making {} with {}".format(folder.name, interpreter))
        run([str(interpreter), "-m", "venv", "--clear", str(folder)])
    stamp, wanted = folder / STAMP, fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted:
        say("{} is ready (Python {})".format(folder.name, version))
        return python
    say("installing flagst and all it needs into {}".format(folder.name))
    say("the first time this takes minutes and several GB")
    # bytecode is made when a module is first imported: most never is
    run([str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--editable", ".[{}]".format(EXTRAS)])
    stamp.write_text(wanted)
    return python


def fingerprint():
    """Changes with whatever makes another installation necessary."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), EXTRAS.encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def run(command):
    """Run a silent command, saying now and then that it still runs; exits when it fails."""
    start = time.time()
    process = subprocess.Popen(command, cwd=str(ROOT), env=clean_environment(), stdin=subprocess.DEVNULL)
    while True:
        try:
            status = process.wait(timeout=HEARTBEAT_S)
            break
        except subprocess.TimeoutExpired:
            say("still at it after {:.0f} s".format(time.time() - start))
    if status:
        say("failed with status {}: {}".format(status, " ".join(command)))
        sys.exit(status)
    say("done in {:.0f} s".format(time.time() - start))


def clean_environment():
    """The environment without settings that belong to another Python."""
    return {name: value for name, value in os.environ.items() if name not in FOREIGN}


def shape():
    """Print how large every room is, how its files hang together, and its largest file and function."""
    files = {}
    for path in sorted(SOURCE.rglob("*.py")):
        files[module_name(path)] = read_file(path)
    imports = {name: [resolve(node, files) for node in file["imports"]] for name, file in files.items()}
    row = "{:<13}{:>6}{:>7}{:>8}{:>8}  {:<34}{}".format
    print("Lines are code lines: without blank lines, comments and docstrings. Imports are statements by which one")
    print("file of a room imports another one, lazy ones and those for types included, those of its __init__ left out.")
    print("The largest file is counted with all its lines, the largest function by its code lines.\n")
    print(row("room", "files", "lines", "imports", "circle", "largest file", "largest function"))
    table, circles = [], []
    for room in sorted({file["room"] for file in files.values()}):
        inside = {name: file for name, file in files.items() if file["room"] == room}
        within = {name: [found & set(inside) for found in imports[name]] for name in inside}
        circle = find_circle({name: set().union(*found) - {name} for name, found in within.items()})
        counted = [found for name, found in within.items() if not inside[name]["init"] for found in found if found]
        numbers = [len(inside), sum(len(file["code"]) for file in inside.values()), len(counted)]
        table.append(numbers)
        largest = max(inside.values(), key=lambda file: file["n_lines"])
        functions = [function for file in inside.values() for function in file["functions"]]
        size, function = max(functions, default=(0, "none"))
        largest_file = "{} {}".format(largest["path"], largest["n_lines"])
        print(row(room, *numbers, "yes" if circle else "no", largest_file, "{} {}".format(function, size)))
        circles += ["Circle in {}: {}".format(room, " -> ".join(circle))] if circle else []
    totals = [sum(numbers[place] for numbers in table) for place in range(3)]
    print(row("total", *totals, "", "", "").rstrip())
    print("\n".join(circles), end="\n" if circles else "")
    return 0


def module_name(path):
    """``flagst.tl.markers`` of its file, ``flagst.tl`` of the ``__init__`` of that folder."""
    parts = ("flagst",) + path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_file(path):
    """What one file adds to the picture: numbers of its code lines, its imports and its functions with their size."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    code = code_lines(text, tree)
    parts = path.relative_to(SOURCE).parts
    return {
        "room": parts[0] if len(parts) > 1 else TOP,
        "path": "/".join(parts),
        "init": path.name == "__init__.py",
        "n_lines": len(text.splitlines()),
        "code": code,
        "imports": [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))],
        "functions": list(functions_with_size(tree, code, "")),
    }


def code_lines(text, tree):
    """Numbers of the lines that hold more than blanks, comments and docstrings."""
    documented = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                documented.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - documented


def functions_with_size(node, code, prefix):
    """``(code lines, name)`` of every function below a node; methods with the name of their class."""
    for child in ast.iter_child_nodes(node):
        inner = prefix + child.name + "." if isinstance(child, ast.ClassDef) else prefix
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([child.lineno] + [decorator.lineno for decorator in child.decorator_list])
            yield sum(first <= line <= child.end_lineno for line in code), prefix + child.name
        yield from functions_with_size(child, code, inner)


def resolve(node, names):
    """Modules among ``names`` that an import statement brings in."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & set(names)
    deep = {"{}.{}".format(node.module, alias.name) for alias in node.names}
    return (deep & set(names)) or ({node.module} & set(names))


def find_circle(edges):
    """Modules of one circle of imports, the first one repeated at the end; empty where there is none."""
    done = set()

    def visit(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        for other in sorted(edges[name]):
            circle = visit(other, [*path, name])
            if circle:
                return circle
        return []

    for name in sorted(edges):
        circle = visit(name, [])
        if circle:
            return circle
    return []


def say(text):
    """One progress line."""
    print("dev.py: " + text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
