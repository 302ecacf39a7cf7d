"""Mouse olfactory bulb: train on one section, test on the other, for FLAG and every baseline.

    python benchmarks/mob.py --data-dir DIR

With one training section FLAG is cross-fitted over four spatial blocks of it. The folder is that of
``flagst.datasets.mob``. Below the table, for every baseline (at each of its structures), the structures at which FLAG
has no lower PCC and higher GSC and SSC: means over both directions and all seeds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import _table
from her2st import KEYS, METHODS, STRUCTURES, collect, jobs_of, prepare, settings

from flagst.datasets._mob import SECTIONS


def better_at(records: list[dict]) -> list[tuple[str, list[float]]]:
    """Each baseline with the structures at which FLAG has no lower PCC and higher GSC and SSC."""
    rows = {key: _table.summarise(group) for key, group in _table.groups(records).items()}
    flag = {structure: row for (method, structure), row in rows.items() if method == "FLAG"}
    found = []
    for (method, structure), row in rows.items():
        if method == "FLAG":
            continue
        better = [
            dial
            for dial, ours in flag.items()
            if ours["pcc"] >= row["pcc"] and ours["gsc"] > row["gsc"] and ours["ssc"] > row["ssc"]
        ]
        found.append((method if structure is None else f"{method} at {structure:g}", better))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="folder of the two sections; default: the one FLAGST_DATA_DIR names")
    parser.add_argument("--target", default="log2", choices=("log2", "lognorm"))
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--structures", nargs="+", type=float, default=[*STRUCTURES[:1], 0.1, *STRUCTURES[1:]])
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of FLAG")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one record per run")
    options, start = parser.parse_args(arguments), time.perf_counter()
    options.dataset, options.features, options.export, options.preset = "mob", None, None, "default"
    options.splits = [{"train": [a], "test": b} for a, b in (SECTIONS, SECTIONS[::-1])]
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        ready = prepare(options, Path(folder))
        records = collect(jobs_of(options, ready["files"]), Path(folder), n_processes=options.jobs)
    changed = f", {settings(options.set)}" if options.set else ""
    print(
        f"{records[0]['n_genes']} genes, target {options.target}, seeds {' '.join(map(str, options.seeds))}{changed}\n"
    )
    print(_table.main_table(records), end="\n\n")
    print(_table.replicate_line(ready["replicates"]))
    if covered := _table.coverage_line(records):
        print(covered)
    print("\nStructures at which FLAG has no lower PCC and higher GSC and SSC")
    for baseline, better in better_at(records):
        print(f"  {baseline:28s} {', '.join(f'{dial:g}' for dial in better) or 'none'}")
    print(f"Wall time {time.perf_counter() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([{key: record[key] for key in KEYS} for record in records], indent=1) + "\n")


if __name__ == "__main__":
    main()
