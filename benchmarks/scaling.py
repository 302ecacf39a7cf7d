"""Seconds and memory of training and prediction against spots and genes, and what network evaluations cost.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --spots 1000 10000 --genes 200 --threads 1
    python benchmarks/scaling.py --network

One model per number of genes, trained for a few steps on small random sections, predicts random features on a hex
grid to a zarr store: cost does not depend on what features mean. Every prediction runs in a process of its own, whose
peak memory is given whole and without what it holds before the prediction begins (libraries, model, features).
``slope`` is that of a straight line through the logarithms: 1 is linear. The trainings run in processes of their own,
too: three sections of 234 spots, a few steps of the diffusion, everything else as always. The last table is arithmetic:
what 10,000 slides of 20,000 spots cost at these rates.

``--network`` times one sample of a section of 180 spots, without training. *Published* is what the publication does: a
token per gene and 8 samples of 201 evaluations, of which one sample is timed and counted eight times. The others take
one sample of 20 evaluations, of the same network and of the default one.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import common
import numpy as np

D_IMAGE = 60
PITCH = 100.0
#: Spots of each of the three training sections.
TRAIN_SPOTS = 234
#: Slides of an archive, and spots of one of them.
SLIDES, SLIDE_SPOTS = 10_000, 20_000
#: A token per gene, as published but smaller.
TOKENS = {"denoiser": "gene", "network": {"denoiser_kwargs": {"width": 128, "n_blocks": 4, "n_heads": 4}}}
#: Name, settings of the model, samples that are averaged, network evaluations of each.
SCHEDULES = (
    ("gene tokens, published", TOKENS | {"solver": "heun", "n_steps": 101}, 8, 201),
    ("gene tokens, 20 evaluations", TOKENS | {"n_steps": 20}, 1, 20),
    ("latent, 20 evaluations (default)", {"n_steps": 20}, 1, 20),
)
#: Spots and genes of the section whose sample is timed.
SAMPLE_SPOTS, SAMPLE_GENES = 180, 200


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


def trained(n_genes: int, *, max_steps: int, **settings):
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
    model = flagst.FLAG(adata, gfm=None, max_steps=max_steps, **settings)  # alignment is not used for predictions
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model


def run(job: dict) -> dict:
    """Seconds, memory and disk of a training or a prediction in this process."""
    import torch

    torch.set_num_threads(job["threads"])
    if job["name"] == "train":
        start = time.perf_counter()
        trained(job["genes"], max_steps=job["max_steps"]).save(job["model"])
        return {"genes": job["genes"], "seconds": time.perf_counter() - start}
    import anndata

    import flagst

    model, query = flagst.FLAG.load(job["model"]), anndata.read_h5ad(job["query"])
    held, start = resident_mb(), time.perf_counter()
    model.predict_to_zarr(query, job["out"], progress=False)
    seconds = time.perf_counter() - start
    written = sum(file.stat().st_size for file in Path(job["out"]).rglob("*") if file.is_file()) / 1024**2
    return {"seconds": seconds, "held_mb": held, "written_mib": written}


def resident_mb() -> float:
    """Memory of this process now. Linux only."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def measure(spots: list[int], genes: list[int], *, threads: int, max_steps: int) -> tuple[list[dict], list[dict]]:
    """Trainings, and predictions: all numbers of spots with the fewest genes, all of genes with the second of spots."""
    few, some = min(genes), sorted(spots)[min(1, len(spots) - 1)]
    pairs = list(dict.fromkeys([(s, few) for s in sorted(spots)] + [(some, g) for g in sorted(genes)]))
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        job = {"script": "scaling", "threads": threads, "max_steps": max_steps}
        models = {n: str(Path(folder) / f"model_{n}") for n in sorted({g for _, g in pairs})}

        def done(**more) -> dict:
            # the number of threads of BLAS is torch's
            [found] = common.run_jobs([job | more], Path(folder), n_processes=1, environment=many)
            return found["result"] | {"peak_mb": found["peak_mb"]}

        many = dict.fromkeys(common.THREADS, str(threads))
        trainings = [done(name="train", genes=n, model=model) for n, model in models.items()]
        records = []
        for n_spots, n_genes in pairs:
            query, out = Path(folder) / f"slide_{n_spots}.h5ad", Path(folder) / "out.zarr"
            if not query.exists():
                section("slide", n_spots, 9).write_h5ad(query)
            found = done(name="predict", model=models[n_genes], query=str(query), out=str(out))
            more_mb = found["peak_mb"] - found["held_mb"]
            records.append({"spots": n_spots, "genes": n_genes, "threads": threads, "more_mb": more_mb} | found)
            shutil.rmtree(out)
    return trainings, records


def slope(sizes: list[int], values: list[float]) -> float:
    """Of a straight line through the logarithms; NaN for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def training_table(trainings: list[dict]) -> str:
    """One line per training."""
    lines = [("spots in training", "genes", "seconds", "peak MB")]
    for r in trainings:
        lines.append((str(3 * TRAIN_SPOTS), f"{r['genes']:,}", f"{r['seconds']:.0f}", f"{r['peak_mb']:.0f}"))
    return common.aligned(lines)


def prediction_tables(records: list[dict]) -> list[str]:
    """Predictions, their slopes along spots and along genes, and the cost of an archive."""
    parts = "peak MB", "of it for the prediction"
    lines = [("spots", "genes", "seconds", "ms per spot", *parts, "written MiB")]
    for r in records:
        cells = f"{r['genes']:,}", f"{r['seconds']:.1f}", f"{1000 * r['seconds'] / r['spots']:.2f}"
        lines.append((f"{r['spots']:,}", *cells, *(f"{r[k]:.0f}" for k in ("peak_mb", "more_mb", "written_mib"))))
    few = min(r["genes"] for r in records)
    by_genes = [r for r in records if sum(o["spots"] == r["spots"] for o in records) > 1]
    slopes = [("slope along", "seconds", *parts)]
    for name, rows in (("spots", [r for r in records if r["genes"] == few]), ("genes", by_genes)):
        sizes = [r[name] for r in rows]
        of = [slope(sizes, [r[key] for r in rows]) for key in ("seconds", "peak_mb", "more_mb")]
        slopes.append((name, *(f"{value:.2f}" for value in of)))
    archive = [("genes", f"core hours for {SLIDES:,} slides of {SLIDE_SPOTS:,} spots", "TiB written")]
    for r in by_genes or records[:1]:
        times = SLIDES * SLIDE_SPOTS / r["spots"]
        hours, size = times * r["seconds"] * r["threads"] / 3600, times * r["written_mib"] / 1024**2
        archive.append((f"{r['genes']:,}", f"{hours:,.0f}", f"{size:.1f}"))
    return [common.aligned(part) for part in (lines, slopes, archive)]


def schedules() -> list[tuple[str, int, float]]:
    """Name, network evaluations and their seconds, of the published schedule and of ours."""
    query, found = section("slide", SAMPLE_SPOTS, 9), []
    for name, settings, n_averaged, n_evaluations in SCHEDULES:
        model, times = trained(SAMPLE_GENES, max_steps=1, cross_fit=False, **settings), []
        for _ in range(1 if "published" in name else 3):
            start = time.perf_counter()
            model.sample(query, 1)
            times.append(time.perf_counter() - start)
        found.append((name, n_averaged * n_evaluations, n_averaged * min(times)))
    return found


def schedule_table(found: list[tuple[str, int, float]]) -> str:
    """One line per schedule."""
    lines = [("samples", "network evaluations", "seconds", "published takes")]
    lines += [(name, f"{n:,}", f"{taken:.3g}", f"{found[0][2] / taken:,.0f} times") for name, n, taken in found]
    return common.aligned(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run all predictions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", nargs="+", type=int, default=[1000, 10_000, 100_000, 300_000])
    parser.add_argument("--genes", nargs="+", type=int, default=[200, 1000, 5000, 15_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-steps", type=int, default=20, help="of the trainings")
    parser.add_argument("--network", action="store_true", help="the cost of network evaluations instead")
    options = parser.parse_args(arguments)
    if options.network:
        import torch

        torch.set_num_threads(options.threads)
        print(schedule_table(schedules()))
        return
    trainings, records = measure(options.spots, options.genes, threads=options.threads, max_steps=options.max_steps)
    print(training_table(trainings), *prediction_tables(records), sep="\n\n")


if __name__ == "__main__":
    main()
