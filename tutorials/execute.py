"""Execute the tutorials and write their outputs; ``python3 dev.py tutorials [NAME ...]`` runs this."""

import argparse
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 900
#: Environment of the kernel: no bars, no colours, no display.
KERNEL = {"TQDM_DISABLE": "1", "NO_COLOR": "1", "TERM": "dumb", "PYTHONWARNINGS": "ignore"}
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def execute(path: Path, *, data_dir: Path | None = None) -> nbformat.NotebookNode:
    """Run a notebook in a fresh kernel and an empty folder.

    Parameters
    ----------
    path
        Notebook.
    data_dir
        Folder with real data, for notebooks that load some.

    Returns
    -------
    The executed notebook, without colours and without what libraries wrote to stderr.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = os.environ | KERNEL
    if data_dir is not None:
        environment["FLAGST_DATA_DIR"] = str(data_dir)
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                for holder, key in ((output, "text"), (output.get("data", {}), "text/plain")):
                    if key in holder:
                        holder[key] = ANSI.sub("", holder[key])
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    """Execute the notebooks named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Execute tutorials and write their outputs.")
    parser.add_argument("names", nargs="*", help="without suffix; default: all")
    parser.add_argument("--data-dir", type=Path, help="folder of HER2ST; default: $FLAGST_DATA_DIR, else download")
    arguments = parser.parse_args()
    for path in sorted(HERE.glob("*.ipynb")):
        if not arguments.names or path.stem in arguments.names:
            notebook = execute(path, data_dir=arguments.data_dir and arguments.data_dir.resolve())
            nbformat.write(notebook, path)
            print(f"executed {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
