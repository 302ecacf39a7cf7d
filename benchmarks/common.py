"""What the benchmarks share: options, tables with image features, methods in processes of their own, and tables.

Every benchmark is a script of its own and imports this module and no other script. Image features are made once, by
``flagst.pp.image_features``, and kept as h5ad files in the folder that ``--cache`` names: delete it when the code that
makes features has changed. Uses of what is not public API of flagst are at the end of this file.
"""

import argparse
import hashlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from flagst._keys import LAYERS, OBS, OBSM, PARAM, SLOT, TABLE, UNS, VAR, prediction_layers, quantile_part
from flagst.data.graph import moran_graph
from flagst.data.measured import measured_expression, section_layout, section_rows

HERE = Path(__file__).resolve().parent
ROTATION = ("C2", "C3", "C4", "C5")
#: Sections of HER2ST: patient and number.
SECTIONS = [f"{p}{i}" for p, n in zip("ABCDEFGH", (6, 6, 6, 6, 3, 3, 3, 3), strict=True) for i in range(1, n + 1)]
NOISE_BASELINES = ("IndependentNoise", "ResidualBootstrap", "CorrelatedGaussian", "BalancedGaussian")
METHODS = ("Mean", "KNN", "Ridge", "DepthOracle", *NOISE_BASELINES, "FLAG")
#: Baselines that see more than the image.
ORACLES = ("DepthOracle",)
TARGETS = ("log2", "lognorm")
STRUCTURES = (0.0, 0.2, 0.35, 0.5, 0.7, 1.0)
#: PCC at which samplers are compared unless told otherwise: inside every sampler's range on the rotation.
AT_PCC = {"log2": 0.55, "lognorm": 0.24}
#: Scores of a test section that go into a record, as ``flagst.tl.evaluate`` names them.
SCORES = ("pcc", "pcc50", "mse", "gsc", "ssc", "moran_pred", "moran_true")
COLUMNS = ("PCC", "PCC-50", "MSE", "GSC", "SSC", "Moran", "true", "gap", "seconds", "peak MB")
WITH_SD = ("pcc", "gsc", "ssc")
#: Interval whose coverage of the test section is measured, levels of its distribution, and the samples behind both.
INTERVAL, N_SAMPLES = (0.05, 0.95), 50
LEVELS = (0.01, 0.025, 0.05, *(i / 20 for i in range(2, 19)), 0.95, 0.975, 0.99)
#: Compact blocks of a test section in the jackknife.
N_BLOCKS = 20
#: numba too: its pool shares OpenMP with torch, and sets torch's number of threads.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

# Options ------------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict] = {
    "data-dir": {"help": "folder of the data; without it files are downloaded, or found by FLAGST_DATA_DIR"},
    "cache": {"type": Path, "default": Path("out/benchmarks"), "help": "folder of tables with image features"},
    "rotate": {"nargs": "+", "metavar": "S", "default": list(ROTATION), "help": "sections, each tested in turn"},
    "train": {"nargs": "+", "metavar": "S", "help": "training sections of a single split"},
    "test": {"metavar": "S", "help": "test section of a single split"},
    "target": {"choices": TARGETS, "default": "log2"},
    "targets": {"nargs": "+", "choices": TARGETS, "default": list(TARGETS)},
    "n-genes": {"type": int, "default": 200},
    "seeds": {"nargs": "+", "type": int, "default": [0, 1, 2]},
    "methods": {"nargs": "+", "choices": METHODS, "default": list(METHODS)},
    "structures": {"nargs": "+", "type": float, "default": list(STRUCTURES)},
    "set": {"nargs": "+", "default": [], "metavar": "NAME=VALUE", "help": "settings of FLAG"},
    "max-steps": {"type": int, "help": "training steps of every model; default: the model's own"},
    "jobs": {"type": int, "default": 2, "help": "processes at a time"},
}


def parser(doc: str, *names: str, **defaults) -> argparse.ArgumentParser:
    """A parser with some of :data:`OPTIONS`, and other defaults where they are given."""
    found = argparse.ArgumentParser(description=doc.splitlines()[0])
    for name in names:
        found.add_argument(f"--{name}", **OPTIONS[name])
    found.set_defaults(**defaults)
    return found


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
    return rotation(list(dict.fromkeys(options.rotate or ROTATION)))


def rotation(sections: list[str]) -> list[dict]:
    """Every section tested in turn, the others in training."""
    return [{"train": [s for s in sections if s != test], "test": test} for test in sections]


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


def steps(options: argparse.Namespace) -> dict:
    """Settings of FLAG for ``--max-steps``."""
    return {} if options.max_steps is None else {"max_steps": options.max_steps}


# Tables with image features -----------------------------------------------------------------------------------------


def load(sections: list[str], options: argparse.Namespace, *, dataset: str = "her2st", change=None, **features):
    """Table of sections with image features, read from the cache; made and written there the first time.

    Parameters
    ----------
    sections
        Their names. Rows of the table are in this order.
    options
        With ``cache``, ``data_dir`` and ``jobs``.
    dataset
        Function of ``flagst.datasets``.
    change
        Function that changes the SpatialData before features are made; its name is part of the file's name.
    **features
        For ``flagst.pp.image_features``.
    """
    import anndata

    from flagst import datasets, pp
    from flagst.encoders import get_encoder

    encoder = get_encoder(features.get("encoder", "handcrafted"))
    rest = {name: value for name, value in features.items() if name != "encoder"}
    made = [encoder.name, encoder.version, encoder.params(), rest, getattr(change, "__name__", None)]
    digest = hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:12]
    path = Path(options.cache) / f"{dataset}_{'_'.join(sections)}_{digest}.h5ad"
    if not path.exists():
        sdata = getattr(datasets, dataset)(sections, data_dir=options.data_dir)
        if change is not None:
            change(sdata)
        pp.image_features(sdata, n_jobs=options.jobs, progress=False, **features)
        table = sdata.tables[TABLE]
        table.uns.pop(UNS.spatial, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write_h5ad(path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return anndata.read_h5ad(path)


def part_of(table, sections: list[str]):
    """Copy of some sections of a table."""
    return table[table.obs[OBS.section].isin(sections).to_numpy()].copy()


def panel_of(train, n_genes: int) -> list[str]:
    """HMHVG panel of a training table."""
    from flagst import pp

    pp.select_genes(train, n_genes)
    return [str(gene) for gene in train.var_names[train.var[VAR.panel].to_numpy(bool)]]


def prepare(options: argparse.Namespace, folder: Path, *, dataset: str = "her2st", sections=None) -> dict:
    """Write one h5ad per split into ``folder``: training and test sections, genes of the training sections' panel.

    Returns
    -------
    ``"files"``: test section -> h5ad; ``"replicates"``: one record per pair of training and test section.
    """
    from flagst import pp
    from flagst.encoders import SelfSupervisedEncoder

    sections = sections or list(dict.fromkeys(s for split in options.splits for s in [*split["train"], split["test"]]))
    encoders = getattr(options, "encoders", None)
    table = None if encoders else load(sections, options, dataset=dataset)
    files, replicates = {}, []
    for split in options.splits:
        if encoders:
            encoder = SelfSupervisedEncoder(encoders / f"{split['test']}.safetensors")
            table = load(sections, options, dataset=dataset, encoder=encoder)
        pp.select_genes(table, options.n_genes, train_sections=split["train"])
        rows = table.obs[OBS.section].isin([*split["train"], split["test"]]).to_numpy()
        part = table[rows, table.var[VAR.panel].to_numpy(bool)].copy()
        files[split["test"]] = str(folder / f"{split['test']}.h5ad")
        part.write_h5ad(files[split["test"]])
        replicates += replicate_reference(part, split, options.target)
    return {"files": files, "replicates": replicates}


def replicate_reference(adata, split: dict, target: str) -> list[dict]:
    """GSC and SSC of *measured* training sections against the test section.

    Of each pair of sections and, with ``"section": None``, of the training sections' average correlations and
    average Moran's I. Reference values, not ceilings. Spots do not correspond, so there is no PCC.
    """
    from flagst import metrics

    values, rows = measured_expression(adata, target=target), section_rows(adata, OBS.section)
    parts, graphs = {}, {}
    for section in [*split["train"], split["test"]]:
        parts[section] = values[rows[section]]
        graphs[section] = moran_graph(adata.obsm[OBSM.spatial][rows[section]], section_layout(adata, section))
    truth, graph = parts[split["test"]], graphs[split["test"]]
    varies = truth.std(axis=0) > 0
    pairs = np.triu_indices(varies.sum(), 1)

    def against_test(of) -> float:
        average = np.mean([of(section) for section in split["train"]], axis=0)
        return float(np.corrcoef(average, of(split["test"]))[0, 1])

    average = {
        "gsc": against_test(lambda section: metrics.gene_correlation(parts[section][:, varies])[pairs]),
        "ssc": against_test(lambda section: metrics.morans_i(parts[section][:, varies], graphs[section])),
    }
    return [{"test": split["test"], "section": None} | average] + [
        {
            "test": split["test"],
            "section": section,
            "gsc": metrics.replicate_gsc(parts[section], truth),
            "ssc": metrics.replicate_ssc(parts[section], truth, graphs[section], graph),
        }
        for section in split["train"]
    ]


# Jobs in processes of their own -------------------------------------------------------------------------------------


def run_job(job: dict, folder: Path, *, environment: dict[str, str] | None = None) -> dict:
    """``run(job)`` of the script ``job["script"]`` in a fresh process, one thread: its ``result`` and ``peak_mb``."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        task, answer = Path(place) / "task.json", Path(place) / "answer.json"
        task.write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, str(HERE / "common.py"), str(task), str(answer)],
            env=os.environ | dict.fromkeys(THREADS, "1") | (environment or {}),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        if done.returncode:
            name = " ".join(str(job[key]) for key in ("script", "method") if key in job)
            raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
        return json.loads(answer.read_text())


def run_jobs(jobs: list[dict], folder: Path, *, n_processes: int, **options) -> list[dict]:
    """:func:`run_job` of every job, some at a time; progress goes to the error stream."""

    def finished(job: dict) -> dict:
        start, done = time.perf_counter(), run_job(job, folder, **options)
        seeds = job.get("seeds", [job.get("seed", "")])
        tests = [split["test"] for split in job.get("splits", [])]
        parts = [job["script"], job.get("name") or job.get("method", ""), *tests, "seed", *seeds]
        print(f"  {' '.join(map(str, parts))}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        return done

    with ThreadPoolExecutor(n_processes) as pool:
        futures = [pool.submit(finished, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss of a new process starts at its parent's memory on Linux; this one starts at zero
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    # in bytes on macOS, in kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# One method on some splits ------------------------------------------------------------------------------------------


def jobs_of(options: argparse.Namespace, files: dict[str, str], *, script: str = "common", **more) -> list[dict]:
    """What the worker processes do: FLAG in one job per split and seed, first, so that no core idles at the end."""
    common = {"script": script, "target": options.target, "structures": list(options.structures)} | more
    common |= {"preset": getattr(options, "preset", "default"), "settings": settings(getattr(options, "set", []))}
    splits, jobs = [split | {"file": files[split["test"]]} for split in options.splits], []
    for method in sorted(options.methods, key=lambda method: method != "FLAG"):
        job = common | {"method": method}
        if method == "FLAG":
            jobs += [job | {"splits": [split], "seeds": [seed]} for split in splits for seed in options.seeds]
        else:
            jobs.append(job | {"splits": splits, "seeds": options.seeds})
    return jobs


def collect(jobs: list[dict], folder: Path, *, n_processes: int) -> list[dict]:
    """Records of all jobs, sorted as methods are listed, then by structure, seed and test section.

    A job with a ``"name"`` has its records under that name.
    """
    records = []
    for job, done in zip(jobs, run_jobs(jobs, folder, n_processes=n_processes), strict=True):
        beside = {"method": job.get("name", job["method"]), "peak_mb": done["peak_mb"]}
        records += [record | beside for record in done["result"]]
    order = {method: i for i, method in enumerate(METHODS)}
    names = {job.get("name", job["method"]): order[job["method"]] for job in jobs}
    return sorted(records, key=lambda r: (names[r["method"]], r["structure"] or 0, r["seed"], r["test"]))


def run(job: dict) -> list[dict]:
    """Records of one method: one per split, seed and structure, ``seconds`` for one fit and one prediction.

    Parameters
    ----------
    job
        ``method``, ``target``, ``structures``, ``seeds``, ``splits`` (each ``train``, ``test``, ``file``) and, for
        FLAG, ``preset`` and ``settings``.
    """
    from flagst import baselines, tl  # noqa: F401  what is timed is the method, not the first import

    records, is_flag = [], job["method"] == "FLAG"
    for split in job["splits"]:
        train, test = read_split(split)
        # FLAG's weights depend on the seed; a baseline is fitted once and sampled with every seed
        for seeds in [[s] for s in job["seeds"]] if is_flag else [job["seeds"]]:
            start = time.perf_counter()
            model, structures = fit(train, job, seeds[0])
            fit_seconds = time.perf_counter() - start
            scored = score(model, test, job, seeds, structures, fit_seconds)
            beside = coverage_of(model, test, seeds[0]) | residual_moran(model, test, seeds[0]) if is_flag else {}
            records += [record | beside for record in scored]
    return records


def read_split(split: dict) -> tuple[Any, Any]:
    """Training and test table of a split."""
    import anndata

    adata = anndata.read_h5ad(split["file"])
    return part_of(adata, split["train"]), part_of(adata, [split["test"]])


def fit(train, job: dict, seed: int) -> tuple[Any, list]:
    """A trained model and the structures it can be asked for; ``[None]`` where there is no such argument."""
    if job["method"] == "FLAG":
        from flagst import FLAG

        FLAG.setup_anndata(train, section_key=OBS.section)
        model = FLAG(train, preset=job.get("preset", "default"), target=job["target"], seed=seed, **job["settings"])
        model.train(accelerator="cpu", enable_progress_bar=False)
        return model, job["structures"] if model.settings_.regression else [None]
    from flagst import baselines

    model = getattr(baselines, job["method"])(train, target=job["target"])
    model.train()
    return model, job["structures"] if job["method"] in NOISE_BASELINES else [None]


def graph_of(table):
    """Graph on which Moran's I of a table of one section is taken."""
    return moran_graph(table.obsm[OBSM.spatial], section_layout(table, str(table.obs[OBS.section].iloc[0])))


def score(model, test, job: dict, seeds: list[int], structures: list, fit_seconds: float) -> list[dict]:
    """Records of a trained model on one test section, one per seed and structure."""
    from flagst.tl import evaluate

    records = []
    for seed in seeds:
        for structure in structures:
            start = time.perf_counter()
            prediction = model.predict(test, seed=seed, **({} if structure is None else {"structure": structure}))
            seconds = fit_seconds + time.perf_counter() - start
            assert prediction.uns[UNS.flagst][SLOT.params][PARAM.target] == job["target"]
            row = evaluate(prediction).iloc[0]
            of = {"method": job["method"], "structure": structure, "target": job["target"], "seed": seed}
            of |= {"test": str(test.obs[OBS.section].iloc[0]), "n_genes": prediction.n_vars}
            scores = {score: float(row[score]) for score in SCORES}
            records.append(of | scores | {"left_out": left_out(prediction, job["target"]), "seconds": seconds})
    return records


def left_out(prediction, target: str) -> dict[str, list[float]]:
    """PCC, GSC and SSC of a section without each of its compact blocks in turn, for the error of a difference."""
    from flagst import metrics

    blocks, graph = metrics.spatial_blocks(prediction.obsm[OBSM.spatial], N_BLOCKS), graph_of(prediction)
    predicted, measured = np.asarray(prediction.layers[LAYERS.draw]), measured_expression(prediction, target=target)
    found: dict[str, list[float]] = {name: [] for name in WITH_SD}
    for block in range(N_BLOCKS):
        rows = np.flatnonzero(blocks != block)
        guess, true = predicted[rows], measured[rows]
        values = metrics.pcc(guess, true), metrics.gsc(guess, true), metrics.ssc(guess, true, graph[rows][:, rows])
        for name, value in zip(WITH_SD, values, strict=True):
            found[name].append(float(value))
    return found


def quantiles_of(model, test, seed: int) -> tuple[dict[float, np.ndarray], np.ndarray, bool]:
    """Quantiles by level, measured expression, each ``(n_spots, n_genes)``, and whether they are calibrated."""
    predicted = model.predict(test.copy(), structure=1, n_samples=N_SAMPLES, quantiles=LEVELS, seed=seed)
    predicted = predicted[:, model.genes_]
    names = prediction_layers(LAYERS.draw, LEVELS)
    found = {level: np.asarray(predicted.layers[names[quantile_part(level)]]) for level in LEVELS}
    calibrated = predicted.uns[UNS.flagst][SLOT.calibration][LAYERS.draw]["calibrated"]
    return found, measured_expression(predicted, target=model.settings_.target), bool(calibrated)


def share_inside(quantiles: dict[float, np.ndarray], measured: np.ndarray) -> float:
    """Share inside :data:`INTERVAL`; a zero measured at a lower bound of zero counts with its probability."""
    from flagst import metrics

    below = metrics.share_below(np.stack(list(quantiles.values())), np.array(LEVELS), measured)[1]
    return float(np.ptp(np.interp(INTERVAL, LEVELS, below)))


def coverage_of(model, test, seed: int) -> dict[str, float]:
    """Share of the test section inside the 90 % interval of 50 samples, before and after calibration."""
    from flagst.metrics import coverage

    if not (model.settings_.cross_fit and model.settings_.regression):
        return {}
    found, measured, calibrated = quantiles_of(model, test, seed)
    if not calibrated:
        return {}
    raw = np.quantile(model.sample(test, N_SAMPLES, seed=seed), INTERVAL, axis=0, method="weibull").astype(np.float32)
    return {
        "coverage_raw": coverage(*raw, measured),
        "coverage": coverage(*(found[level] for level in INTERVAL), measured),
        "coverage_by_share": share_inside(found, measured),
    }


def residual_moran(model, test, seed: int) -> dict[str, float]:
    """Moran's I, mean over genes, of a sample's residual, and of what was measured minus the mean.

    ``residual_sample`` and ``residual_test`` on the test section, ``residual_crossfit`` of the cross-fitted mean on
    the training sections, averaged over these: what a sample of a new section should be like. In the target's unit.
    """
    from flagst.metrics import morans_i

    if model.settings_.regression is None:
        return {}
    sample = model.predict(test, structure=1, seed=seed)[:, model.genes_]
    mean, graph = sample.layers[prediction_layers(LAYERS.draw)["mean"]], graph_of(sample)
    residuals = {
        "residual_sample": sample.layers[LAYERS.draw] - mean,
        "residual_test": measured_expression(sample, target=model.settings_.target) - mean,
    }
    found = {name: float(morans_i(values, graph).mean()) for name, values in residuals.items()}
    changes = {} if model.settings_.edges else {"neighbourhoods": ()}
    sections = arrays(model.adata, model.genes_, model.settings_.target)
    stage, crossfit = fit_mean(sections, regression=model.settings_.regression, **changes)
    left = [
        morans_i(s.target - stage.scaler.restore(mean), moran_graph(s.coords, s.layout)).mean()
        for s, mean in zip(sections, by_section(crossfit, sections), strict=True)
    ]
    return found | {"residual_crossfit": float(np.mean(left))}


# Records to tables --------------------------------------------------------------------------------------------------


def groups(records: list[dict]) -> dict[tuple, list[dict]]:
    """Records by ``(method, structure)``, in order of first appearance."""
    found: dict[tuple, list[dict]] = {}
    for record in records:
        found.setdefault((record["method"], record["structure"]), []).append(record)
    return found


def seed_means(records: list[dict], score: str) -> np.ndarray:
    """``(n_seeds,)``: mean over test sections of each seed, seeds in ascending order."""
    seeds = sorted({record["seed"] for record in records})
    return np.array([np.mean([r[score] for r in records if r["seed"] == seed]) for seed in seeds])


def summarise(records: list[dict]) -> dict[str, float]:
    """Means of one method at one structure; ``*_sd`` is the sd of the seed means, NaN with one seed.

    ``gap`` is the mean over test sections and seeds of ``|moran_pred - moran_true|``.
    """
    row = {score: float(np.mean([r[score] for r in records])) for score in (*SCORES, "seconds")}
    row["gap"] = float(np.mean([abs(r["moran_pred"] - r["moran_true"]) for r in records]))
    row["peak_mb"] = float(max(r["peak_mb"] for r in records))
    for score in WITH_SD:
        means = seed_means(records, score)
        row[f"{score}_sd"] = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    return row


def interpolate(structures, pcc, values, *, at: float) -> float | None:
    """Value at a given PCC, linear between neighbouring structures; ``None`` out of range.

    Parameters
    ----------
    structures, pcc, values
        ``(n,)`` each: the accuracy-structure curve of one sampler, in any order.
    at
        The PCC. Where the curve passes it more than once, the pass at the largest structure counts: there
        more structure costs accuracy, which is what the comparison is about.
    """
    order = np.argsort(structures)
    pcc, values = np.asarray(pcc, float)[order], np.asarray(values, float)[order]
    for i in range(len(order) - 1, 0, -1):
        low, high = sorted((pcc[i - 1], pcc[i]))
        if low <= at <= high:
            share = (at - pcc[i - 1]) / (pcc[i] - pcc[i - 1]) if high > low else 0.0
            return float(values[i - 1] + share * (values[i] - values[i - 1]))
    return None


def at_equal_pcc(records: list[dict], at: float) -> dict[str, dict[str, np.ndarray] | None]:
    """GSC and SSC of every sampler at one PCC.

    Returns
    -------
    Method -> ``{"gsc", "ssc"}``, each ``(n_seeds,)``; ``None`` when any seed's curve misses that PCC.
    """
    curves_of: dict[str, dict] = {}
    for (method, structure), group in groups(records).items():
        if structure is not None:
            curves_of.setdefault(method, {})[structure] = {s: seed_means(group, s) for s in WITH_SD}
    result: dict[str, dict[str, np.ndarray] | None] = {}
    for method, curve in curves_of.items():
        # (n_structures, n_seeds) each
        curves = {score: np.array([point[score] for point in curve.values()]) for score in WITH_SD}
        seeds = range(curves["pcc"].shape[1])
        found = {
            score: [interpolate(list(curve), curves["pcc"][:, i], curves[score][:, i], at=at) for i in seeds]
            for score in ("gsc", "ssc")
        }
        missing = any(value is None for values in found.values() for value in values)
        result[method] = None if missing else {score: np.array(values) for score, values in found.items()}
    return result


def lead_over_noise(equal: dict[str, dict[str, np.ndarray] | None], score: str) -> tuple[str, np.ndarray] | None:
    """The noise baseline that is best on ``score``, and FLAG's lead over it for every seed."""
    rivals = {method: equal[method] for method in NOISE_BASELINES if equal.get(method) is not None}
    if not rivals or equal.get("FLAG") is None:
        return None
    best = max(rivals, key=lambda method: rivals[method][score].mean())
    return best, equal["FLAG"][score] - rivals[best][score]


def lead_in_pcc(records: list[dict]) -> tuple[str, np.ndarray] | None:
    """The baseline without samples whose PCC is best, oracles aside, and FLAG's lead at structure 0 for every seed."""
    found = {key: seed_means(group, "pcc") for key, group in groups(records).items()}
    rivals = {m: pcc for (m, structure), pcc in found.items() if structure is None and m not in (*ORACLES, "FLAG")}
    if not rivals or ("FLAG", 0) not in found:
        return None
    best = max(rivals, key=lambda method: rivals[method].mean())
    return best, found["FLAG", 0] - rivals[best]


def block_error(records: list[dict], lead: Callable[[list[dict]], float | None]) -> float:
    """Standard error of a lead over compact blocks of tissue: jackknife in each test section, sections independent.

    Parameters
    ----------
    records
        With the scores of their test section without each of its blocks, ``left_out``.
    lead
        The lead from records.

    Returns
    -------
    NaN where records have no such scores, or the lead of a part is not defined.
    """
    if not all("left_out" in record for record in records):
        return float("nan")
    variance = 0.0
    for test in sorted({record["test"] for record in records}):
        n_blocks = len(next(r for r in records if r["test"] == test)["left_out"]["pcc"])
        leads = []
        for block in range(n_blocks):
            parts = [r | {s: r["left_out"][s][block] for s in WITH_SD} if r["test"] == test else r for r in records]
            leads.append(lead(parts))
        if None in leads:
            return float("nan")
        variance += (n_blocks - 1) / n_blocks * float(np.sum((np.array(leads) - np.mean(leads)) ** 2))
    return float(np.sqrt(variance))


def lead_lines(records: list[dict], at: float) -> str:
    """FLAG's lead in PCC over the best baseline, and in GSC and SSC at equal PCC over the best noise.

    With its sd over seeds, and its standard error over blocks of the test sections.
    """
    lines = []
    if pcc := lead_in_pcc(records):
        pair = [r for r in records if (r["method"], r["structure"]) in ((pcc[0], None), ("FLAG", 0))]
        error = block_error(pair, lambda part: lead_in_pcc(part)[1].mean())
        lines.append(f"FLAG's PCC at structure 0 over the best baseline's ({pcc[0]}): {_lead(pcc[1], error)}")
    equal = at_equal_pcc(records, at)
    for score in ("gsc", "ssc"):
        found = lead_over_noise(equal, score)
        if found is None:
            continue
        pair = [r for r in records if r["method"] in (found[0], "FLAG")]

        def mean_lead(part: list[dict], score: str = score) -> float | None:
            again = lead_over_noise(at_equal_pcc(part, at), score)
            return None if again is None else float(again[1].mean())

        by = _lead(found[1], block_error(pair, mean_lead))
        lines.append(f"FLAG's {score.upper()} at PCC {at:g} over the best noise baseline's ({found[0]}): {by}")
    return "\n".join(lines)


def main_table(records: list[dict]) -> str:
    """One line per method and structure."""
    lines = [("method", "structure", *COLUMNS)]
    for (method, structure), group in groups(records).items():
        row = summarise(group)
        sd = {score: row[f"{score}_sd"] if structure is not None else np.nan for score in WITH_SD}
        cells = [with_sd(row["pcc"], sd["pcc"]), f"{row['pcc50']:.3f}", f"{row['mse']:.3f}"]
        cells += [with_sd(row[score], sd[score]) for score in ("gsc", "ssc")]
        cells += [f"{row[score]:.3f}" for score in ("moran_pred", "moran_true", "gap")]
        lines.append((method, dial(structure), *cells, f"{row['seconds']:.1f}", f"{row['peak_mb']:.0f}"))
    return aligned(lines)


def equal_pcc_table(records: list[dict], at: float) -> str:
    """Samplers at equal PCC."""
    equal = at_equal_pcc(records, at)
    if not equal:
        return ""
    lines = [("method", "GSC", "SSC")]
    for method, found in equal.items():
        cells = ["out of range"] * 2 if found is None else [mean_sd(found[score]) for score in ("gsc", "ssc")]
        lines.append((method, *cells))
    how = "curves averaged over test sections, linear between structures, seed by seed"
    return f"At equal PCC {at:g} ({how})\n{aligned(lines)}"


def replicate_line(replicates: list[dict]) -> str:
    """Mean and range of the replicate reference: single training sections, and what they have on average."""
    lines = []
    for what, single in (
        ("Replicate reference, a measured training section against the test section: ", True),
        ("Average correlations and Moran's I of the training sections against the test section: ", False),
    ):
        parts = []
        for score in ("gsc", "ssc"):
            values = [pair[score] for pair in replicates if (pair["section"] is not None) == single]
            parts.append(f"{score.upper()} {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append(what + ", ".join(parts))
    return "\n".join(lines)


def coverage_line(records: list[dict]) -> str:
    """Coverage of FLAG's 90 % intervals on the test sections; empty where none was measured."""
    covered = [r for r in records if "coverage" in r and r["structure"] == 0]
    if not covered:
        return ""
    raw, after, by_share = (seed_means(covered, name) for name in ("coverage_raw", "coverage", "coverage_by_share"))
    values = [r["coverage"] for r in covered]
    return (
        f"FLAG's 90 % intervals cover {mean_sd(after)} of the test sections ({min(values):.3f} to {max(values):.3f}), "
        f"{mean_sd(by_share)} with zeros at a bound of zero by their probability; without calibration {mean_sd(raw)}"
    )


def residual_line(records: list[dict]) -> str:
    """Moran's I of the residual of FLAG's samples, beside measured residuals; empty where there is none.

    The difference is the mean over splits and seeds of ``|sample - cross-fitted|``.
    """
    found = [r for r in records if "residual_sample" in r and r["structure"] == 0]
    if not found:
        return ""
    sample, crossfit, test = (seed_means(found, f"residual_{name}") for name in ("sample", "crossfit", "test"))
    apart = [abs(r["residual_sample"] - r["residual_crossfit"]) for r in found]
    return (
        f"Moran's I of the residual of FLAG's samples at structure 1 {mean_sd(sample)}, of the cross-fitted residuals "
        f"of the training sections {crossfit.mean():.3f} (difference {np.mean(apart):.3f}, {min(apart):.3f} to "
        f"{max(apart):.3f}), of the measured residuals of the test sections {test.mean():.3f}"
    )


def dial(structure: float | None) -> str:
    """Structure in a table; empty for methods without one."""
    return "" if structure is None else f"{structure:g}"


def with_sd(value: float, sd: float) -> str:
    """``0.123 ± 0.004``, without the second where it is NaN."""
    return f"{value:.3f}" if np.isnan(sd) else f"{value:.3f} ± {sd:.3f}"


def mean_sd(values) -> str:
    """Mean and, of more than one value, sd."""
    values = np.asarray(values, dtype=float)
    return with_sd(values.mean(), values.std(ddof=1) if len(values) > 1 else np.nan)


def _lead(values: np.ndarray, error: float) -> str:
    text = f"{values.mean():+.3f}"
    if len(values) > 1:
        text += f", sd over seeds {values.std(ddof=1):.3f}"
    return text if np.isnan(error) else f"{text}, standard error over blocks of the test sections {error:.3f}"


def aligned(lines: list[tuple[str, ...]]) -> str:
    """First column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


# What is not public API of flagst -----------------------------------------------------------------------------------


def arrays(adata, genes: list[str] | None, target: str | None) -> list:
    """Sections of a table as arrays: ``image``, ``coords``, ``neighbours``, ``target``, ``layout``, ``name``."""
    from flagst.data.from_anndata import sections_from_anndata

    return sections_from_anndata(adata, genes=genes, target=target)


def fit_mean(sections: list, **changes) -> tuple[Any, np.ndarray]:
    """The regression mean of :func:`arrays`, and its cross-fitted predictions ``(n_spots, n_genes)``, standardised."""
    from flagst.regression import RegressionStage

    parts = ([getattr(s, name) for s in sections] for name in ("image", "neighbours", "coords", "target"))
    return RegressionStage.fit(*parts, **changes)


def by_section(values: np.ndarray, sections: list) -> list[np.ndarray]:
    """Rows of all sections, section by section."""
    return np.split(values, np.cumsum([len(s) for s in sections])[:-1])


def nearest(coords: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` nearest other spots of every spot of a section, ``(n_spots, k)``."""
    from flagst.data.graph import knn

    return knn(coords, k)[0]


def principal_axes(values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``(n, d)`` leading axes of centred values, and the ``(n,)`` standard deviations along them."""
    from flagst import regression

    return regression.principal_axes(values, n)


def samples_by_prior(model, query, priors: dict[str, tuple[float, float]], structures: tuple[float, ...]):
    """Name and predictions at every structure, one sample, for several ways to choose the Moran's I that is aimed at.

    ``priors``: name -> weight of the training sections' Moran's I, weight of the abundance prior where that is 0.
    The diffusion is solved once for all of them. Yields ``(name, [(n_spots, n_genes), ...])``.
    """
    from flagst.sampling import moran_matching
    from flagst.sampling.sampler import SectionSampler

    [(_, sampler)] = model._samplers(query)
    parts, share = (sampler.section, model.fitted_, model.settings_, model.module), moran_matching.ABUNDANCE_SHARE
    try:
        for name, (weight, moran_matching.ABUNDANCE_SHARE) in priors.items():
            own = SectionSampler(*parts, moran_weight=weight, states=sampler.states)
            yield name, [values[0] for _, values in own.whole().along(structures, 1, 0)]
    finally:
        moran_matching.ABUNDANCE_SHARE = share


if __name__ == "__main__":
    # the worker's side of run_job
    job = json.loads(Path(sys.argv[1]).read_text())
    result = importlib.import_module(job["script"]).run(job)
    Path(sys.argv[2]).write_text(json.dumps({"result": result, "peak_mb": peak_memory_mb()}))
