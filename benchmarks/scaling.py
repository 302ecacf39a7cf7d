"""Seconds and memory of a prediction against spots and genes, features given, written to a zarr store.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --spots 1000 10000 --genes 200 --threads 1

One model per number of genes, trained for a few steps on small random sections, predicts random features on a hex
grid: cost does not depend on what features mean. Every prediction runs in a process of its own, whose peak memory is
given whole and without what it holds before the prediction begins (libraries, the model, the features). ``slope`` is
that of a straight line through the logarithms: 1 is linear. The trainings run in processes of their own, too: three
sections of 234 spots, a few steps of the diffusion, everything else as always. The last table is arithmetic: what
10,000 slides of 20,000 spots come to at these rates.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

D_IMAGE = 60
PITCH = 100.0
#: Spots of each of the three training sections.
TRAIN_SPOTS = 234
#: Slides of an archive, and spots of one of them.
SLIDES, SLIDE_SPOTS = 10_000, 20_000


def hex_grid(n_spots: int) -> np.ndarray:
    """Positions ``(n_spots, 2)`` float64 of a hex grid that is about square, 100 apart."""
    n_columns = int(np.ceil(np.sqrt(n_spots)))
    row, column = np.divmod(np.arange(n_spots), n_columns)
    return PITCH * np.stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2], axis=1)


def section(name: str, n_spots: int, seed: int):
    """A table of one section without genes: positions and random features."""
    import anndata

    adata = anndata.AnnData(obsm={"spatial": hex_grid(n_spots)}, shape=(n_spots, 0))
    adata.obsm["X_image"] = np.random.default_rng(seed).normal(size=(n_spots, D_IMAGE)).astype(np.float32)
    adata.obs_names = [f"{name}_{i}" for i in range(n_spots)]
    adata.obs["section"] = name
    adata.uns["flagst"] = {"params": {"um_per_px": {name: 1.0}, "layout": {name: "hex"}}}
    return adata


def trained(n_genes: int, *, max_steps: int):
    """A model of so many genes, trained for a moment."""
    import anndata

    import flagst

    rng = np.random.default_rng(0)
    loadings = 0.3 * rng.normal(size=(D_IMAGE, n_genes))
    parts = []
    for seed, name in enumerate("ABC"):
        empty = section(name, TRAIN_SPOTS, seed)
        counts = rng.poisson(np.exp(np.clip(0.5 * empty.obsm["X_image"] @ loadings, -3, 3))).astype(np.float32)
        counts[seed::3] += 1  # no gene without a count
        obs = empty.obs.assign(total_counts=counts.sum(axis=1) + 1)
        parts.append(anndata.AnnData(counts, obs=obs, obsm=dict(empty.obsm)))
    adata = anndata.concat(parts)
    adata.var_names = [f"gene_{i}" for i in range(n_genes)]
    adata.uns["flagst"] = {"params": {"um_per_px": dict.fromkeys("ABC", 1.0), "layout": dict.fromkeys("ABC", "hex")}}
    flagst.FLAG.setup_anndata(adata)
    model = flagst.FLAG(adata, gfm=None, max_steps=max_steps)  # alignment has no part in predictions
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model


def train(n_genes: int, max_steps: int, out: str, threads: int) -> dict:
    """Save a model; seconds and memory of its training in this process, the making of its sections included."""
    import torch

    torch.set_num_threads(threads)
    start = time.perf_counter()
    trained(n_genes, max_steps=max_steps).save(out)
    return {"genes": n_genes, "seconds": time.perf_counter() - start, "peak_mb": memory("VmHWM")}


def predict(model: str, query: str, out: str, threads: int) -> dict:
    """Seconds, memory and disk of one prediction in this process."""
    import torch

    import flagst
    from flagst.data.reading import read_spots

    torch.set_num_threads(threads)
    model = flagst.FLAG.load(model)
    spots = read_spots(query, spatial_key="spatial", image_key="X_image")
    held, start = memory("VmRSS"), time.perf_counter()
    model.predict_to_zarr(spots, out, progress=False)
    seconds, peak = time.perf_counter() - start, memory("VmHWM")
    written = sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file()) / 1024**2
    return {"seconds": seconds, "peak_mb": peak, "more_mb": peak - held, "written_mib": written}


def memory(name: str) -> float:
    """Memory of this process in MB: ``VmRSS`` now, ``VmHWM`` at most. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}: memory is read on Linux only.")


def in_own_process(name: str, *given) -> dict:
    """What a function of this file returns in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps([name, *given])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name}{given} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} {given}: {found['seconds']:.1f} s", file=sys.stderr)
    return found


def measure(spots: list[int], genes: list[int], *, threads: int, max_steps: int) -> tuple[list[dict], list[dict]]:
    """Trainings, and predictions: all numbers of spots with the fewest genes, all of genes with the second of spots."""
    few, some = min(genes), sorted(spots)[min(1, len(spots) - 1)]
    pairs = list(dict.fromkeys([(s, few) for s in sorted(spots)] + [(some, g) for g in sorted(genes)]))
    trainings, records = [], []
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        models = {n: str(Path(folder) / f"model_{n}") for n in sorted({g for _, g in pairs})}
        for n_genes, model in models.items():
            trainings.append(in_own_process("train", n_genes, max_steps, model, threads))
        for n_spots, n_genes in pairs:
            query, out = Path(folder) / f"slide_{n_spots}.h5ad", Path(folder) / "out.zarr"
            if not query.exists():
                section("slide", n_spots, 9).write_h5ad(query)
            found = in_own_process("predict", models[n_genes], str(query), str(out), threads)
            records.append({"spots": n_spots, "genes": n_genes, "threads": threads} | found)
            shutil.rmtree(out)
    return trainings, records


def slope(sizes: list[int], values: list[float]) -> float:
    """Of a straight line through the logarithms; NaN for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def table(records: list[dict]) -> str:
    """Markdown: one line per prediction, and the slopes along spots and along genes."""
    lines = [
        "| spots | genes | seconds | ms per spot | peak MB | of it for the prediction | written MiB |",
        "|--:" * 7 + "|",
    ]
    for r in records:
        per_spot = 1000 * r["seconds"] / r["spots"]
        lines.append(
            f"| {r['spots']:,} | {r['genes']:,} | {r['seconds']:.1f} | {per_spot:.2f} | {r['peak_mb']:.0f} "
            f"| {r['more_mb']:.0f} | {r['written_mib']:.0f} |"
        )
    few = min(r["genes"] for r in records)
    by_genes = [r for r in records if sum(o["spots"] == r["spots"] for o in records) > 1]
    lines += ["", "| slope along | seconds | peak MB | of it for the prediction |", "|:--|--:|--:|--:|"]
    for name, rows in (("spots", [r for r in records if r["genes"] == few]), ("genes", by_genes)):
        sizes = [r[name] for r in rows]
        slopes = [f"{slope(sizes, [r[key] for r in rows]):.2f}" for key in ("seconds", "peak_mb", "more_mb")]
        lines.append(f"| {name} | " + " | ".join(slopes) + " |")
    lines += [
        "",
        f"| genes | core hours for {SLIDES:,} slides of {SLIDE_SPOTS:,} spots | TiB written |",
        "|--:" * 3 + "|",
    ]
    for r in by_genes or records[:1]:
        times = SLIDES * SLIDE_SPOTS / r["spots"]
        hours, size = times * r["seconds"] * r["threads"] / 3600, times * r["written_mib"] / 1024**2
        lines.append(f"| {r['genes']:,} | {hours:,.0f} | {size:.1f} |")
    return "\n".join(lines)


def training_table(trainings: list[dict]) -> str:
    """Markdown: one line per training."""
    lines = ["| spots in training | genes | seconds | peak MB |", "|--:" * 4 + "|"]
    for r in trainings:
        lines.append(f"| {3 * TRAIN_SPOTS} | {r['genes']:,} | {r['seconds']:.0f} | {r['peak_mb']:.0f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run all predictions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", nargs="+", type=int, default=[1000, 10_000, 100_000, 300_000])
    parser.add_argument("--genes", nargs="+", type=int, default=[200, 1000, 5000, 15_000])
    parser.add_argument("--threads", type=int, default=2, help="of torch; those of BLAS are set by OMP_NUM_THREADS")
    parser.add_argument("--max-steps", type=int, default=20, help="of the trainings")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        name, *given = json.loads(options.child)
        print(json.dumps({"train": train, "predict": predict}[name](*given)))
        return
    trainings, records = measure(options.spots, options.genes, threads=options.threads, max_steps=options.max_steps)
    print(training_table(trainings) + "\n\n" + table(records))


if __name__ == "__main__":
    main()
