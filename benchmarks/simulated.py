"""FLAG where the truth is known: simulated sections, two draws of one truth, and ablations.

    python benchmarks/simulated.py

Trains on three simulated sections and tests on the fourth. The first rows score a second, independent draw
of counts from the held-out section's own truth against its first: what a perfect model would reach. ``redraw
of hidden programs`` also draws anew what the image does not show. Ablations take one part out of the
defaults. One process per variant and seed, one thread each; the seed is that of the model, the sections stay.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from _processes import run_job

VARIANTS = {
    "FLAG": {},
    "no graph": {"edges": False},
    "no graph encoder": {"network": {"n_layers": 0}},
    "no edge features": {"network": {"d_edge": 0}},
    "no joint denoising": {"joint": False},
    "no alignment": {"gfm": None},
    "no diffusion": {"diffusion": False},
    "no cross-fitting": {"cross_fit": False},
    "draws as they come": {"match_order": False},
    "noise as it comes": {"balance_noise": False},
    "gene tokens": {"denoiser": "gene", "network": {"denoiser_kwargs": {"width": 64, "n_blocks": 3, "align_block": 2}}},
}
#: Run only when asked for: a transformer over genes takes most of an hour.
SLOW = ("gene tokens",)
SCORES = ("pcc", "mse", "gsc", "ssc", "moran_pred", "moran_true")
STRUCTURES = (0.0, 0.5, 1.0)


def run(job: dict) -> list[dict]:
    """Rows of one variant and seed, or of the redraws."""
    import anndata

    import flagst

    adata = anndata.read_h5ad(job["file"])
    sections = adata.obs["section"].astype(str)
    held_out = sorted(sections.unique())[-1]
    train, test = adata[sections != held_out].copy(), adata[sections == held_out].copy()
    if job["variant"] is None:
        return _redraws(test, job)
    flagst.FLAG.setup_anndata(train)
    changes = VARIANTS[job["variant"]] | ({"max_steps": job["max_steps"]} if job["max_steps"] else {})
    model = flagst.FLAG(train, target=job["target"], seed=job["seed"], **changes)
    start = time.perf_counter()
    model.train(accelerator="cpu", enable_progress_bar=False)
    seconds = time.perf_counter() - start
    rows = []
    for structure in STRUCTURES:
        scores = flagst.tl.evaluate(model.predict(test, structure=structure, seed=job["seed"])).iloc[0]
        rows.append(_row(job, job["variant"], structure, scores, seconds))
    aligned = {name: frame.dropna() for name, frame in model.history_.items() if "align" in name}
    last = {name: float(frame.iloc[-1, 0]) for name, frame in aligned.items() if len(frame)}
    rows[-1]["alignment"] = last
    return rows


def _redraws(test, job: dict) -> list[dict]:
    """A second draw of counts against the first, with and without the hidden programs drawn anew."""
    from flagst.data.targets import to_target
    from flagst.datasets import redraw_counts
    from flagst.tl import evaluate

    rows = []
    for name, hidden in (("redraw", False), ("redraw of hidden programs", True)):
        counts = redraw_counts(test, job["seed"], hidden=hidden)
        total = np.asarray(counts.sum(axis=1)).ravel()
        test.layers["redraw"] = to_target(counts, total, job["target"])
        scores = evaluate(test, "redraw", target=job["target"]).iloc[0]
        rows.append(_row(job, name, None, scores, 0.0))
    return rows


def _row(job: dict, name: str, structure: float | None, scores, seconds: float) -> dict:
    kept = {score: float(scores[score]) for score in SCORES}
    return {"variant": name, "structure": structure, "seed": job["seed"], "seconds": seconds, **kept}


def prepare(folder: Path) -> Path:
    """Simulated sections with image features, as h5ad."""
    from flagst import datasets, pp

    sdata = datasets.simulated_sections()
    pp.image_features(sdata, progress=False)
    path = folder / "simulated.h5ad"
    sdata.tables["table"].write_h5ad(path)
    return path


def table(rows: list[dict]) -> str:
    """Mean and sd over seeds of every variant and structure."""
    lines = [f"{'variant':28s} {'structure':>9s}  " + "  ".join(f"{s:>14s}" for s in (*SCORES, "seconds"))]
    for key in dict.fromkeys((row["variant"], row["structure"]) for row in rows):
        of_key = [row for row in rows if (row["variant"], row["structure"]) == key]
        cells = []
        for score in (*SCORES, "seconds"):
            values = np.array([row[score] for row in of_key])
            sd = values.std(ddof=1) if len(values) > 1 else np.nan
            cells.append(f"{values.mean():.1f}" if score == "seconds" else f"{values.mean():.3f} ± {sd:.3f}")
        dial = "" if key[1] is None else f"{key[1]:g}"
        lines.append(f"{key[0]:28s} {dial:>9s}  " + "  ".join(f"{cell:>14s}" for cell in cells))
    return "\n".join(lines)


def alignment_lines(rows: list[dict]) -> str:
    """Alignment loss on held-out tissue at the end of training, beside its two controls."""
    logged = [row["alignment"] for row in rows if row.get("alignment")]
    names = dict.fromkeys(name for entry in logged for name in entry if name.endswith("_validation"))
    lines = []
    for name in names:
        values = np.array([entry[name] for entry in logged if name in entry])
        lines.append(f"{name}: {values.mean():.3f} ± {values.std(ddof=1) if len(values) > 1 else np.nan:.3f}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="lognorm", choices=["lognorm", "log2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=[v for v in VARIANTS if v not in SLOW], choices=list(VARIANTS))
    parser.add_argument("--max-steps", type=int, help="optimiser steps of every variant; default: the model's")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--json", type=Path, help="write one record per row and seed")
    options, start = parser.parse_args(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        common = {
            "kind": "simulated",
            "file": str(prepare(Path(folder))),
            "target": options.target,
            "max_steps": options.max_steps,
        }
        jobs = [common | {"variant": v, "seed": s} for v in (None, *options.variants) for s in options.seeds]
        with ThreadPoolExecutor(options.jobs) as pool:
            done = list(pool.map(lambda job: run_job(job, Path(folder)), jobs))
    rows = [row for answer in done for row in answer["result"]]
    print(table(rows), end="\n\n")
    print(alignment_lines([row for row in rows if row["variant"] == "FLAG"]))
    print(f"Wall time {time.perf_counter() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
