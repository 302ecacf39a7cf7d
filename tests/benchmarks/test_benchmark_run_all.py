"""Tables of the documentation: each has one command, and rewriting one leaves the rest of its page alone."""

import ast
import re
import subprocess
import sys

import pytest
import run_all

SCRIPTS = sorted((run_all.ROOT / "benchmarks").glob("*.py"))
NAMES = [table.name for table in run_all.TABLES]


def markers():
    """Page and name of every marker in the documentation."""
    found = []
    for page in sorted(run_all.DOCS.rglob("*.md")):
        names = re.findall(r"<!-- table: (\w+) -->", page.read_text(encoding="utf-8"))
        found += [(str(page.relative_to(run_all.DOCS)), name) for name in names]
    return found


def test_every_marker_has_an_entry_and_every_entry_its_marker():
    assert sorted(markers()) == sorted((table.page, table.name) for table in run_all.TABLES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("table", run_all.TABLES, ids=NAMES)
def test_the_documentation_has_the_command_of_each_table(table):
    page = (run_all.DOCS / table.page).read_text(encoding="utf-8")
    found = run_all.block_pattern(table.name).search(page)[0]
    command, printed = re.fullmatch(
        r"<!-- table: \w+ -->\n```bash\n(.*?)\n```\n\n```text\n(.*)\n```\n<!-- /table -->", found, re.DOTALL
    ).groups()
    assert command == f"python benchmarks/{table.command}" and printed
    assert (run_all.ROOT / "benchmarks" / table.command.split()[0]).exists()
    assert found.count("<!--") == 2 and printed.count("```") == 0


def test_no_table_is_said_to_be_of_another_version():
    for page in run_all.DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(first|second|third|fourth|earlier)\W+\[?version", text), page


def test_only_what_is_between_the_markers_is_rewritten(tmp_path):
    first, second = (run_all.Table(name, "page.md", f"{name}.py --x") for name in ("one", "two"))
    empty = "<!-- table: {} -->\n<!-- /table -->"
    before = f"# Page\n\n{empty.format('one')}\n\nText \\1 between.\n\n{empty.format('two')}\n\nEnd.\n"
    page = tmp_path / "page.md"
    page.write_text(before, encoding="utf-8")
    run_all.rewrite(second, "a ± b\n\\g<0>\nWall time 7 s\n", tmp_path)
    after = page.read_text(encoding="utf-8")
    assert after == before.replace(empty.format("two"), run_all.block(second, "a ± b\n\\g<0>\nWall time 7 s"))
    assert "```bash\npython benchmarks/two.py --x\n```\n\n```text\na ± b\n\\g<0>\nWall time 7 s\n```" in after
    assert (run_all.last_seconds(first, tmp_path), run_all.last_seconds(second, tmp_path)) == ("-", "7")
    run_all.rewrite(second, "other", tmp_path)
    run_all.rewrite(second, "a ± b\n\\g<0>\nWall time 7 s\n", tmp_path)
    assert page.read_text(encoding="utf-8") == after
    for text in ("no marker", 2 * after):
        page.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="must have them once"):
            run_all.rewrite(second, "x", tmp_path)
        assert page.read_text(encoding="utf-8") == text


def test_a_command_runs_with_the_folder_of_the_data(monkeypatch):
    seen = []

    def run(command, **options):
        seen.append(command[2:])
        return subprocess.CompletedProcess(command, 0, stdout="printed\n")

    monkeypatch.setattr(run_all.subprocess, "run", run)
    table = run_all.Table("t", "p.md", 'inner_folds.py --data-dir PATH --choices defaults "no noise"')
    assert re.fullmatch(r"printed\nWall time \d+ s", run_all.run(table, "folder"))
    run_all.run(table, None)
    choices = ["--choices", "defaults", "no noise"]
    assert seen == [["--data-dir", "folder", *choices], choices]


def test_the_list_runs():
    command = [sys.executable, str(run_all.ROOT / "benchmarks" / "run_all.py"), "--list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(f"python benchmarks/{table.command}" in line for table, line in zip(run_all.TABLES, lines, strict=True))


def test_no_benchmark_imports_another_one():
    names = {path.stem for path in SCRIPTS} - {"common"}
    for path in SCRIPTS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not names & set(imported), f"{path.name} imports {names & set(imported)}"


def test_the_folder_stays_small():
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in SCRIPTS) <= 2500
