"""The tutorials run, and what is committed is clean."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
#: Folders of some machine, and what a progress bar looks like.
NOISE = re.compile(r"/(?:home|root|tmp|work|Users|usr|opt|mnt)/|it/s|\d%\||\x1b\[")


def load_executor():
    spec = importlib.util.spec_from_file_location("execute", TUTORIALS / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook) -> list[str]:
    """All text that a reader sees in the outputs."""
    found = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            found += [
                output.get("text", ""),
                *(v for k, v in output.get("data", {}).items() if k.startswith("text/")),
            ]
    return found


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["her2st", "simulated"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs(path):
    """Executed from top to bottom, with figures, without errors, machine paths or progress bars."""
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    for text in texts(notebook):
        assert not NOISE.search(text), text
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) >= 3
    assert "What can go wrong" in notebook.cells[-1].source + "".join(c.source for c in notebook.cells[-6:])
    assert path.stat().st_size < 3_000_000


@pytest.mark.slow
def test_simulated_runs():
    executed = load_executor().execute(TUTORIALS / "simulated.ipynb")
    assert not any(NOISE.search(text) for text in texts(executed))


@pytest.mark.slow
def test_her2st_runs(her2st_dir):
    executed = load_executor().execute(TUTORIALS / "her2st.ipynb", data_dir=her2st_dir)
    assert not any(NOISE.search(text) for text in texts(executed))
