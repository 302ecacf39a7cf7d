"""The documentation: complete, and built without a warning."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import flagst

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ROOMS = [name for name in flagst.__all__ if name not in ("FLAG", "__version__")]
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class|method|data):: (\S+)", re.MULTILINE)


def documented() -> set[str]:
    """Dotted names with a directive on an API page."""
    return {name for page in (DOCS / "api").glob("*.md") for name in DIRECTIVE.findall(page.read_text())}


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_documented(room):
    public = {f"flagst.{room}.{name}" for name in import_module(f"flagst.{room}").__all__}
    missing = sorted(public - documented())
    assert not missing, f"add these to docs/api/{room}.md: {missing}"
    stale = sorted(name for name in documented() - public if name.startswith(f"flagst.{room}."))
    assert not stale, f"these are not public any more: {stale}"


def model_methods() -> set[str]:
    """Public methods of FLAG that flagst wrote, whichever of its classes holds them."""
    parts = [part for part in flagst.FLAG.__mro__ if part.__module__.split(".")[0] == "flagst"]
    members = {name: value for part in parts for name, value in vars(part).items() if not name.startswith("_")}
    return {name for name, value in members.items() if callable(value) or isinstance(value, classmethod)}


def test_model_methods_are_documented():
    methods = model_methods()
    assert {"train", "predict", "front", "load", "setup_anndata"} <= methods  # from four classes and a module
    page = (DOCS / "api" / "model.md").read_text()
    listed = re.search(r"autoclass:: flagst\.FLAG\n +:members: (.*)\n", page)[1].split(", ")
    assert len(listed) == len(set(listed))
    missing, stale = sorted(methods - set(listed)), sorted(set(listed) - methods)
    assert not missing, f"add these to docs/api/model.md: {missing}"
    assert not stale, f"FLAG has no such methods any more: {stale}"


def test_links_between_files_of_the_repository():
    """Every relative link of the pages that a code host shows leads somewhere."""
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / target).exists(), f"{page} links to {target}, which is not there"


def test_the_page_of_encoders_lists_the_recipes_as_they_are():
    page = (DOCS / "encoders.md").read_text()
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    expected = [
        [
            f"`{name}`",
            f"[{recipe.title}](https://huggingface.co/{recipe.hub})",
            str(recipe.n_features),
            f"{recipe.patch_px} px, {recipe.patch_um:g} µm",
            recipe.library,
            recipe.licence,
            "on request" if recipe.gated else "open",
        ]
        for name, recipe in flagst.encoders.RECIPES.items()
    ]
    assert [[cell.strip() for cell in row] for row in rows] == expected


def test_picture_is_small():
    assert (DOCS / "_static" / "overview.png").stat().st_size < 400_000


@pytest.mark.slow
def test_documentation_builds_without_warnings(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        tmp_path / "trees",
    ]
    result = subprocess.run([*map(str, command), str(DOCS), str(tmp_path / "html")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "flagst.FLAG" in (tmp_path / "html" / "api" / "model.html").read_text()
