"""FLAG where the truth is known: simulated sections, two sets of counts of one truth, and ablations.

    python benchmarks/simulated.py --variants FLAG
    python benchmarks/simulated.py --max-steps 300

Trains on three simulated sections and tests on the fourth. The first rows score a second, independent set of counts
from the test section's own truth against its first: what a perfect model would reach. ``redraw of hidden programs``
also simulates anew what the image does not show. Ablations take one part out of the defaults. One process per variant
and seed, one thread each; the seed is that of the model, the sections stay.
"""

import tempfile
import time
from pathlib import Path

import common
import numpy as np

VARIANTS = {
    "FLAG": {},
    "no graph": {"edges": False},
    "no graph encoder": {"network": {"n_layers": 0}},
    "no edge features": {"network": {"d_edge": 0}},
    "no joint denoising": {"joint": False},
    "no alignment": {"gfm": None},
    "no diffusion": {"diffusion": False},
    "no cross-fitting": {"cross_fit": False},
    "no Moran's I matching": {"match_moran": False},
    "no balanced noise": {"balance_noise": False},
}
SCORES = ("pcc", "mse", "gsc", "ssc", "moran_pred", "moran_true")
STRUCTURES = (0.0, 0.5, 1.0)


def run(job: dict) -> list[dict]:
    """Rows of one variant and seed, or of the second sets of counts."""
    import anndata

    import flagst

    adata = anndata.read_h5ad(job["file"])
    *trained_on, held_out = sorted(adata.obs["section"].astype(str).unique())
    train, test = common.part_of(adata, trained_on), common.part_of(adata, [held_out])
    if job["name"] is None:
        return redraws(test, job)
    flagst.FLAG.setup_anndata(train)
    model = flagst.FLAG(train, target=job["target"], seed=job["seed"], **VARIANTS[job["name"]] | job["settings"])
    start = time.perf_counter()
    model.train(accelerator="cpu", enable_progress_bar=False)
    seconds = time.perf_counter() - start
    rows = []
    for structure in STRUCTURES:
        scores = flagst.tl.evaluate(model.predict(test, structure=structure, seed=job["seed"])).iloc[0]
        rows.append(row_of(job, job["name"], structure, scores, seconds))
    logged = {name: frame.dropna() for name, frame in model.history_.items() if "align" in name}
    rows[-1]["alignment"] = {name: float(frame.iloc[-1, 0]) for name, frame in logged.items() if len(frame)}
    return rows


def redraws(test, job: dict) -> list[dict]:
    """A second set of counts against the first, with and without the hidden programs simulated anew."""
    from flagst.datasets import redraw_counts
    from flagst.tl import evaluate

    rows = []
    for name, hidden in (("redraw", False), ("redraw of hidden programs", True)):
        again = test.copy()
        again.X = redraw_counts(test, job["seed"], hidden=hidden)
        again.obs["total_counts"] = np.asarray(again.X.sum(axis=1)).ravel()
        test.layers["redraw"] = common.measured_expression(again, target=job["target"])
        scores = evaluate(test, "redraw", target=job["target"]).iloc[0]
        rows.append(row_of(job, name, None, scores, 0.0))
    return rows


def row_of(job: dict, name: str, structure: float | None, scores, seconds: float) -> dict:
    kept = {score: float(scores[score]) for score in SCORES}
    return {"variant": name, "structure": structure, "seed": job["seed"], "seconds": seconds, **kept}


def table(rows: list[dict]) -> str:
    """Mean and sd over seeds of every variant and structure."""
    lines = [("variant", "structure", *SCORES, "seconds")]
    for variant, structure in dict.fromkeys((row["variant"], row["structure"]) for row in rows):
        own = [row for row in rows if (row["variant"], row["structure"]) == (variant, structure)]
        cells = [common.mean_sd([row[score] for row in own]) for score in SCORES]
        lines.append((variant, common.dial(structure), *cells, f"{np.mean([row['seconds'] for row in own]):.1f}"))
    return common.aligned(lines)


def alignment_lines(rows: list[dict]) -> str:
    """Alignment loss on held-out tissue at the end of training, beside its two controls."""
    logged = [row["alignment"] for row in rows if row.get("alignment")]
    names = dict.fromkeys(name for entry in logged for name in entry if name.endswith("_validation"))
    return "\n".join(f"{name}: {common.mean_sd([entry[name] for entry in logged if name in entry])}" for name in names)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = common.parser(__doc__, "target", "seeds", "max-steps", "jobs", target="lognorm")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        file = Path(folder) / "simulated.h5ad"
        simulate(file)
        job = {"script": "simulated", "file": str(file), "target": options.target, "settings": common.steps(options)}
        jobs = [job | {"name": v, "seed": s} for v in (None, *options.variants) for s in options.seeds]
        done = common.run_jobs(jobs, Path(folder), n_processes=options.jobs)
    rows = [row for answer in done for row in answer["result"]]
    print(table(rows), alignment_lines([row for row in rows if row["variant"] == "FLAG"]), sep="\n\n")


def simulate(file: Path) -> None:
    """Simulated sections with image features, as h5ad."""
    from flagst import datasets, pp

    sdata = datasets.simulated_sections()
    pp.image_features(sdata, progress=False)
    sdata.tables["table"].write_h5ad(file)


if __name__ == "__main__":
    main()
