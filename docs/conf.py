"""Sphinx configuration. Builds without network: no intersphinx, notebooks rendered as committed."""

import shutil
from pathlib import Path

import flagst

HERE = Path(__file__).resolve().parent

project = "flagst"
author = "The flagst developers"
copyright = author
release = version = flagst.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path: list[str] = []

html_theme = "furo"
html_title = f"flagst {release}"
html_static_path = ["_static"]
html_copy_source = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# the notebooks are executed by the tests; here they are shown as committed
nb_execution_mode = "off"
nb_output_stderr = "remove"

autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
# the text of a section that is listed here stays text; napoleon makes every line of "Returns" a value of its own
napoleon_custom_sections = ["Writes", "Source", "Returns", "Yields"]


def copy_notebooks() -> None:
    """Bring the notebooks from ``tutorials/`` under the documentation's root."""
    target = HERE / "tutorials"
    for stale in target.glob("*.ipynb"):
        stale.unlink()
    for notebook in sorted((HERE.parent / "tutorials").glob("*.ipynb")):
        shutil.copyfile(notebook, target / notebook.name)


copy_notebooks()
