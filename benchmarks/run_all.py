"""Every table of the documentation: the command that prints it, and where it stands.

    python benchmarks/run_all.py --list
    python benchmarks/run_all.py --data-dir DIR --only her2st_log2

A table stands between the markers ``<!-- table: NAME -->`` and ``<!-- /table -->`` of its page: the command, then what
it printed and its wall time. Running a table rewrites what is between its markers and nothing else. ``--data-dir`` is
the folder that holds ``her2st`` and ``mob``; PATH stands for it in the documentation. Without ``--only`` all tables are
run, which takes hours.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: What stands in the place of a table that was not run yet.
NOT_RUN = "Not measured yet."


class Table(NamedTuple):
    """Name, page below ``docs/``, and command after ``python benchmarks/``."""

    name: str
    page: str
    command: str


HER2ST, ANOTHER, MOB, SIMULATED, GENES, ENCODERS, CHOICES = (
    f"benchmarks/{page}.md"
    for page in ("her2st", "another_patient", "olfactory_bulb", "simulated", "genes", "fitted_encoders", "choices")
)
ROTATION = "--data-dir PATH --rotate C2 C3 C4 C5"
TO_B4 = "--data-dir PATH --train C2 C3 C4 C5 --test B4"
TABLES: tuple[Table, ...] = (
    Table("her2st_log2", HER2ST, f"her2st.py {ROTATION}"),
    Table("her2st_lognorm", HER2ST, f"her2st.py {ROTATION} --target lognorm"),
    Table("her2st_no_matching", HER2ST, f"her2st.py {ROTATION} --methods FLAG --set match_moran=false"),
    Table("her2st_no_diffusion_log2", HER2ST, f"her2st.py {ROTATION} --methods FLAG --set diffusion=false"),
    Table(
        "her2st_no_diffusion_lognorm",
        HER2ST,
        f"her2st.py {ROTATION} --target lognorm --methods FLAG --set diffusion=false",
    ),
    Table("every_score", HER2ST, f"every_score.py {ROTATION} --figures docs/_static"),
    Table("another_patient_log2", ANOTHER, f"her2st.py {TO_B4} --at-pcc 0.6"),
    Table("another_patient_lognorm", ANOTHER, f"her2st.py {TO_B4} --target lognorm --at-pcc 0.1"),
    Table("other_patients", ANOTHER, "other_patients.py --data-dir PATH --train C2 C3 C4 C5"),
    Table(
        "out_of_distribution",
        ANOTHER,
        "out_of_distribution.py --data-dir PATH --train C2 C3 C4 --test C5 --other B4",
    ),
    Table("mob_log2", MOB, "mob.py --data-dir PATH"),
    Table("mob_lognorm", MOB, "mob.py --data-dir PATH --target lognorm"),
    Table("simulated", SIMULATED, "simulated.py --variants FLAG"),
    Table("simulated_ablations", SIMULATED, "simulated.py --max-steps 300"),
    Table("unmeasured_genes", GENES, f"unmeasured_genes.py {ROTATION}"),
    Table("gene_dimension_curse", GENES, "gene_dimension_curse.py --data-dir PATH --methods FLAG"),
    Table("fitted_encoders", ENCODERS, f"fitted_encoders.py {ROTATION}"),
    Table("fitted_encoders_another_patient", ENCODERS, f"fitted_encoders.py {TO_B4}"),
    Table("mean_choices", CHOICES, f"inner_folds.py {ROTATION} --mean"),
    Table(
        "network_evaluations",
        CHOICES,
        f"her2st.py {ROTATION} --structures 0.5 1 --evaluations 2 4 8 16 20 50 200",
    ),
    Table("scaling", "scaling.md", "scaling.py"),
    Table("image_features", "scaling.md", "image_features.py --pyramid 30000 --n-jobs 1 2"),
)


def block_pattern(name: str) -> re.Pattern:
    """The markers of a table and what stands between them."""
    return re.compile(rf"<!-- table: {name} -->\n.*?<!-- /table -->", re.DOTALL)


def block(table: Table, printed: str) -> str:
    """What :func:`rewrite` puts in the place of a table."""
    command = f"python benchmarks/{table.command}"
    printed = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    body = f"```bash\n{command}\n```\n\n```text\n{printed}\n```"
    return f"<!-- table: {table.name} -->\n{body}\n<!-- /table -->"


def rewrite(table: Table, printed: str, docs: Path = DOCS) -> None:
    """Put what a command printed between the markers of its table.

    Raises
    ------
    ValueError
        The page does not have the markers exactly once.
    """
    page = docs / table.page
    text, n_found = block_pattern(table.name).subn(lambda _: block(table, printed), page.read_text(encoding="utf-8"))
    if n_found != 1:
        raise ValueError(f"{page} has the markers of the table {table.name!r} {n_found} times; it must have them once.")
    page.write_text(text, encoding="utf-8")


def last_seconds(table: Table, docs: Path = DOCS) -> str:
    """Wall time of the table as it stands in the documentation; ``-`` where it was not run."""
    found = block_pattern(table.name).search((docs / table.page).read_text(encoding="utf-8"))
    seconds = re.search(r"^Wall time (\d+) s$", found[0], re.MULTILINE) if found else None
    return seconds[1] if seconds else "-"


def run(table: Table, data_dir: str | None) -> str:
    """What the command prints, and its wall time; progress stays on the error stream."""
    script, *arguments = shlex.split(table.command)
    if data_dir is None and "PATH" in arguments:  # the scripts find the data themselves
        at = arguments.index("--data-dir")
        del arguments[at : at + 2]
    arguments = [data_dir if argument == "PATH" else argument for argument in arguments]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return f"{done.stdout.strip()}\nWall time {time.perf_counter() - start:.0f} s"


def main(arguments: list[str] | None = None) -> None:
    """List the tables, or run some of them and rewrite them in the documentation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name, last seconds and command of every table")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[table.name for table in TABLES])
    parser.add_argument("--data-dir", metavar="DIR", help="folder that holds her2st and mob")
    options = parser.parse_args(arguments)
    for table in TABLES:
        if options.list:
            print(f"{table.name:32s} {last_seconds(table):>6s} s  python benchmarks/{table.command}")
        elif options.only is None or table.name in options.only:
            print(table.name, file=sys.stderr, flush=True)
            rewrite(table, run(table, options.data_dir))


if __name__ == "__main__":
    main()
