"""FLAG and every baseline on HER2ST sections: accuracy, gene structure, spatial structure, cost.

    python benchmarks/her2st.py --data-dir DIR --rotate C2 C3 C4 C5
    python benchmarks/her2st.py --data-dir DIR --train C2 C3 C4 C5 --test B4

The rotation trains on all sections but one and tests on that one, in turn. C2 to C5 are neighbouring
sections of one patient; B4 is of another patient. Defaults only; part of them was chosen by looking at these
sections, as ``docs/benchmarks/choices.md`` says. Every method runs in a process of its own with one thread,
``--jobs`` of them at a time; FLAG in one process per split and seed.

``seconds`` is one fit and one prediction of the test section; ``peak MB`` the largest resident memory of the
method's process, imports included. Leads over the best baseline come with a standard error over compact blocks of
the test sections (jackknife), because seeds say nothing of how much another piece of tissue would change them.
``--encoders DIR`` takes, for each split, the encoder that ``fitted_encoders.py --save DIR`` fitted on its training
sections. ``--features FILE`` needs torch, torch_geometric and numpy only; see
``_features_only.py`` for the file, and ``--export FILE`` to write one.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _table
from _processes import run_job

METHODS = ("Mean", "KNN", "Ridge", "DepthOracle", *_table.NOISE_BASELINES, "FLAG")
FEATURES_ONLY = ("Ridge", "FLAG")
STRUCTURES = (0.0, 0.2, 0.35, 0.5, 0.7, 1.0)
ROTATION = ("C2", "C3", "C4", "C5")
KEYS = (
    "method", "structure", "target", "seed", "test", "n_genes", "pcc", "pcc50", "mse", "gsc", "ssc",
    "moran_pred", "moran_true", "seconds", "peak_mb",
)  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line to options; ``splits`` is a list of ``{"train", "test"}``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", help="sections, each tested in turn")
    parser.add_argument("--train", nargs="+", metavar="S", help="training sections of a single split")
    parser.add_argument("--test", metavar="S", help="test section of a single split")
    parser.add_argument("--target", default="log2", choices=("log2", "lognorm"))
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all")
    parser.add_argument("--structures", nargs="+", type=float, default=list(STRUCTURES))
    parser.add_argument("--preset", default="default", choices=("default", "paper"), help="of FLAG")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of FLAG; with --features max_steps only",
    )
    parser.add_argument("--at-pcc", type=float, help="PCC at which samplers are compared")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one record per run")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the npz for --features")
    parser.add_argument("--features", type=Path, metavar="FILE", help="npz instead of images; Ridge and FLAG only")
    parser.add_argument("--device", default="cpu", help="with --features: cpu or cuda")
    parser.add_argument(
        "--encoders",
        type=Path,
        metavar="DIR",
        help="fitted image encoders, TEST.safetensors; default: handcrafted features",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args(arguments)
    options.splits = splits_of(parser, options)
    if options.features and (options.preset != "default" or options.export):
        parser.error("--features trains the default FLAG, and reads a file: no --preset, no --export")
    if options.encoders and (options.features or options.export):
        parser.error("--encoders makes features of its own: no --features, no --export")
    allowed = FEATURES_ONLY if options.features else METHODS
    options.methods = options.methods or list(allowed)
    if not set(options.methods) <= set(allowed):
        parser.error(f"--features runs {', '.join(FEATURES_ONLY)} only")
    return options


def splits_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[dict]:
    """``{"train", "test"}`` of every split that ``--rotate``, or ``--train`` and ``--test``, ask for."""
    if (options.train is None) != (options.test is None):
        parser.error("--train and --test go together")
    if options.train and options.rotate:
        parser.error("give either --rotate or --train and --test")
    if options.rotate and len(set(options.rotate)) < 2:
        parser.error("--rotate needs at least two sections")
    if options.test and options.test in options.train:
        parser.error(f"{options.test} is both a training and the test section")
    if options.train:
        return [{"train": options.train, "test": options.test}]
    rotate = list(dict.fromkeys(options.rotate or ROTATION))
    return [{"train": [s for s in rotate if s != test], "test": test} for test in rotate]


def jobs_of(options: argparse.Namespace, files: dict[str, str]) -> list[dict]:
    """What the worker processes do, long jobs first so that no core idles at the end."""
    common = {"target": options.target, "structures": options.structures, "settings": settings(options.set)}
    if options.features:
        common |= {"kind": "features", "features": str(options.features.resolve()), "device": options.device}
    else:
        common |= {"kind": "method", "preset": options.preset}
    splits = [split | {"file": files.get(split["test"])} for split in options.splits]
    jobs = []
    for method in sorted(options.methods, key=lambda method: method != "FLAG"):
        job = common | {"method": method}
        if method == "FLAG":
            jobs += [job | {"splits": [split], "seeds": [seed]} for split in splits for seed in options.seeds]
        else:
            jobs.append(job | {"splits": splits, "seeds": options.seeds})
    return jobs


def settings(pairs: list[str]) -> dict:
    """``NAME=VALUE`` with VALUE as JSON where it is JSON, else a string."""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def collect(jobs: list[dict], folder: Path, *, n_processes: int) -> list[dict]:
    """Run all jobs; records sorted as methods are listed, then by structure, seed and test section.

    A job with a ``"name"`` has its records under that name.
    """

    def records_of(job: dict) -> list[dict]:
        start, name = time.perf_counter(), job.get("name", job["method"])
        done = run_job(job, folder)
        what = name + (f" {job['splits'][0]['test']} seed {job['seeds'][0]}" if job["method"] == "FLAG" else "")
        print(f"  {what}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        return [record | {"method": name, "peak_mb": done["peak_mb"]} for record in done["result"]]

    with ThreadPoolExecutor(n_processes) as pool:
        futures = [pool.submit(records_of, job) for job in jobs]
        try:
            records = [record for future in futures for record in future.result()]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    order = {method: i for i, method in enumerate(METHODS)}
    names = {job.get("name", job["method"]): order[job["method"]] for job in jobs}
    records.sort(key=lambda r: (names[r["method"]], r["structure"] or 0, r["seed"], r["test"]))
    return records


def prepare(options: argparse.Namespace, folder: Path) -> dict:
    """Features and panels in a process of their own."""
    job = {
        "kind": "prepare",
        "dataset": getattr(options, "dataset", "her2st"),
        "folder": str(folder),
        "n_jobs": options.jobs,
        "encoders": str(options.encoders.resolve()) if getattr(options, "encoders", None) else None,
        "export": str(options.export.resolve()) if options.export else None,
        **{name: getattr(options, name) for name in ("data_dir", "splits", "target", "n_genes")},
    }
    done = run_job(job, folder)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in done["result"]["seconds"].items())
    print(f"Prepared from a cold cache: {seconds}; peak {done['peak_mb']:.0f} MB", flush=True)
    return done["result"]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    start, options = time.perf_counter(), parse(arguments)
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        ready = {"files": {}, "replicates": []} if options.features else prepare(options, Path(folder))
        records = collect(jobs_of(options, ready["files"]), Path(folder), n_processes=options.jobs)
    for split in options.splits:
        print(f"train {' '.join(split['train'])}, test {split['test']}")
    print(f"{records[0]['n_genes']} genes, target {options.target}, seeds {' '.join(map(str, options.seeds))}\n")
    print(_table.main_table(records), end="\n\n")
    at = options.at_pcc or _table.AT_PCC[options.target]
    for part in (_table.equal_pcc_table(records, at), _table.lead_lines(records, at)):
        print(part, end="\n\n" if part else "")
    if ready["replicates"]:
        print(_table.replicate_line(ready["replicates"]))
    for line in (_table.coverage_line(records), _table.residual_line(records)):
        if line:
            print(line)
    print(f"Wall time {time.perf_counter() - start:.0f} s")
    if options.json:
        lines = [json.dumps({key: record[key] for key in KEYS}) for record in records]
        options.json.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
