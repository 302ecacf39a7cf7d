"""Mouse olfactory bulb: train on one section, test on the other, for FLAG and every baseline.

    python benchmarks/mob.py --data-dir DIR

With one training section FLAG is cross-fitted over four spatial blocks of it. The folder is that of
``flagst.datasets.mob``. Below the table, for every baseline (at each of its structures), the structures at which FLAG
has no lower PCC and higher GSC and SSC: means over both directions and all seeds.
"""

import tempfile
from pathlib import Path

import common

SECTIONS = ["MOB1", "MOB2"]


def better_at(records: list[dict]) -> list[tuple[str, list[float]]]:
    """Each baseline with the structures at which FLAG has no lower PCC and higher GSC and SSC."""
    rows = {key: common.summarise(group) for key, group in common.groups(records).items()}
    flag = {structure: row for (method, structure), row in rows.items() if method == "FLAG"}
    found = []
    for (method, structure), row in rows.items():
        if method == "FLAG":
            continue
        better = [
            structure
            for structure, ours in flag.items()
            if ours["pcc"] >= row["pcc"] and ours["gsc"] > row["gsc"] and ours["ssc"] > row["ssc"]
        ]
        found.append((method if structure is None else f"{method} at {structure:g}", better))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    names = "data-dir", "cache", "target", "n-genes", "seeds", "methods", "structures", "set", "jobs"
    parser = common.parser(__doc__, *names, structures=sorted([*common.STRUCTURES, 0.1]))
    options = parser.parse_args(arguments)
    options.splits = common.rotation(SECTIONS)
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        ready = common.prepare(options, Path(folder), dataset="mob")
        jobs = common.jobs_of(options, ready["files"])
        records = common.collect(jobs, Path(folder), n_processes=options.jobs)
    print(common.main_table(records), common.replicate_line(ready["replicates"]), sep="\n\n")
    if covered := common.coverage_line(records):
        print(covered)
    print("\nStructures at which FLAG has no lower PCC and higher GSC and SSC")
    for baseline, better in better_at(records):
        print(f"  {baseline:28s} {', '.join(f'{structure:g}' for structure in better) or 'none'}")


if __name__ == "__main__":
    main()
