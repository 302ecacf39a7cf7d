"""Set up flagst on a machine that has Python and git, then run something; needs the standard library only.

``python3 dev.py demo`` runs the demo, ``python3 dev.py test`` the tests. Both share one environment in
``.venv`` (``.venv-3.12`` for Python 3.12), made when it is missing and installed into again when
``pyproject.toml`` changed.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VERSIONS = ("3.11", "3.12")
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
}


def main() -> int:
    """Run one command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Set up flagst in .venv, then run a command in it.")
    parser.add_argument("--python", choices=VERSIONS, help="default: the version this script runs under, if supported")
    parser.add_argument("--find", action="store_true", help="only print the interpreter; fails when there is none")
    parser.add_argument("command", nargs="?", choices=tuple(COMMANDS), default="setup")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="passed on to the command")
    arguments = parser.parse_args()
    version, interpreter = find_interpreter(arguments.python)
    if interpreter is None:
        say("no working Python {} on this machine".format(arguments.python or " or ".join(VERSIONS)))
        return 3
    if arguments.find:
        print(interpreter)
        return 0
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


def say(text):
    """One progress line."""
    print("dev.py: " + text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
