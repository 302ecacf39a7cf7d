"""The documentation: complete, and built without a warning."""

import json
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


#: Pages that a reader sees as text.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts),
    *sorted((ROOT / "tutorials").glob("*.ipynb")),
]
#: What is not prose: blocks of code, formulas, comments, code in a line, targets of links and of sections.
NOT_PROSE = re.compile(
    r"^```.*?^```|^\$\$.*?^\$\$|<!--.*?-->|`[^`]*`|\]\([^)]*\)|^\([\w-]+\)=$", re.DOTALL | re.MULTILINE
)
#: Idioms, and the standard term for each.
IDIOMS = {
    r"spatial order\b|spatially ordered|\b(?:more|less|as|so|too|how) ordered": "spatial autocorrelation, or Moran's I",
    r"\b(?:a|an|the|full|each|every|one|of|its|drawn|same) draws?\b|\bdraws (?:are|have|of|on|with|from)\b": "sample",
    r"\bunlike tissue|tissue unlike|\bfamiliar\b": "out of distribution, or in distribution",
    r"\btrust(?:s|ed)?\b": "weight",
    r"\bspread\b": "standard deviation, noise scale or quantiles",
    r"\b(?:surer|more sure)\b": "overconfident",
    r"\bthe (?:whole )?(?:front|dial)\b": "the accuracy-structure curve, or structure",
    r"\byardsticks?\b": "reference values",
    r"\bas (?:they come|it comes|they came|it came)\b": "unmodified",
    r"\b(?:no|had a|has a) part in\b": "is not used for, or is used for",
    r"keeps? the biology": "preserves gene-gene correlation and spatial autocorrelation",
    r"told apart": "differences are at most so many standard errors",
    r"of an? earlier version": "a table of the present version",
}


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


def prose(text: str) -> str:
    """Markdown without what is not prose, on one line."""
    return " ".join(NOT_PROSE.sub(" ", text).split())


def markdown(page: Path) -> str:
    """The text of a page; of a notebook its cells of text."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_standard_terms(page):
    text = prose(markdown(page))
    found = [
        f"{text[max(hit.start() - 30, 0) : hit.end() + 30]!r}: write {term}"
        for idiom, term in IDIOMS.items()
        for hit in re.finditer(idiom, text, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def test_check_of_terms_reads_prose_alone():
    text = "```python\nyardsticks=1\n```\n[Moran](x.md#spatial-order) `trust` <!-- spread\nof --> $x$ plain\n"
    assert prose(text) == "[Moran $x$ plain"


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
