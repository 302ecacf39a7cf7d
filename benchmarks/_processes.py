"""Jobs in processes of their own, one thread each, with their peak memory."""

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

#: numba too: its pool shares OpenMP with torch, and sets torch's number of threads behind its back
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
#: Lets glibc keep the memory of large arrays instead of giving it back and clearing it anew: half the time of steps on
#: matrices of 5,000 genes, with peaks that say nothing.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}
#: Kind of job -> module and function that does it.
WORKERS = {
    "prepare": ("_prepare", "prepare"),
    "method": ("_methods", "run"),
    "features": ("_features_only", "run"),
    "simulated": ("simulated", "run"),
    "evaluations": ("network_evaluations", "run"),
    "every_score": ("every_score", "run"),
    "curse_prepare": ("gene_dimension_curse", "prepare"),
    "alignment_prepare": ("alignment", "prepare"),
    "alignment": ("alignment", "run"),
    "curse": ("gene_dimension_curse", "run"),
}


def run_job(job: dict, folder: Path, *, environment: dict[str, str] | None = None) -> dict:
    """Do a job in a fresh process with one thread, and further variables: its ``result`` and ``peak_mb``."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        task, answer = Path(place) / "task.json", Path(place) / "answer.json"
        task.write_text(json.dumps(job))
        threads = {name: "1" for name in THREADS}
        done = subprocess.run(
            [sys.executable, __file__, str(task), str(answer)],
            env=os.environ | threads | (environment or {}),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        if done.returncode:
            name = " ".join(str(job[key]) for key in ("kind", "method") if key in job)
            raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
        return json.loads(answer.read_text())


def work(task: str, answer: str) -> None:
    """The worker's side of :func:`run_job`."""
    job = json.loads(Path(task).read_text())
    module, function = WORKERS[job["kind"]]
    result = getattr(importlib.import_module(module), function)(job)
    Path(answer).write_text(json.dumps({"result": result, "peak_mb": peak_memory_mb()}))


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss of a new process starts at its parent's memory on Linux; this one starts at zero
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    # in bytes on macOS, in kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    work(*sys.argv[1:])
