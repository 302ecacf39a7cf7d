"""What do the training sections say of tissue of another patient? Asked of patients that are no test section.

    python benchmarks/other_patients.py --data-dir DIR --train C2 C3 C4 C5

HER2ST has sections of seven more patients, most of them without an image. What was measured in them says, first, which
statistic of the training sections carries over: their average gene-gene correlations (GSC), the Moran's I of their
genes, or the line that this follows with a gene's abundance (SSC). One row per patient, means over its sections.

Second, draws, with stand-ins for the image features: leading components of 2,000 genes outside the panel, and the
logarithm of the total counts, with noise as smooth in part as tissue is, so much that ridge regression is about as
good on the training patient as with image features. They differ between patients as expression does. FLAG has the mean
of the baselines here, and its draws get their spatial order in different ways; all samplers are compared at the same
share of that mean's PCC, on fronts averaged over patients. The last line has PCC and MSE of both means at structure 0.

The patient of ``--aside`` has a row in the first part but counts in no average, and has no part in the second: a
section of it is the test section of ``her2st.py --test B4``.
"""

import argparse
import time
import warnings
from collections.abc import Iterator

import _table
import anndata as ad
import numpy as np
from fading import SHARE, STRUCTURES, draw_scores, part_of, test_section, three_scores
from her2st import ROTATION
from unmeasured_genes import SECTIONS

from flagst import FLAG, baselines, datasets, metrics, pp
from flagst._keys import OBS, OBSM, TABLE, VAR
from flagst.data.from_anndata import sections_from_anndata
from flagst.data.graph import knn
from flagst.model.fitting import section_order
from flagst.regression import RegressionStage, draw_order
from flagst.regression.axes import principal_axes
from flagst.regression.spatial_order import order_by_abundance

NOISE = ("ResidualBootstrap", "BalancedGaussian")
#: Way a draw gets its spatial order -> trust in the training sections, share of abundance without it.
ORDERS = {
    "order as it comes": (0.0, 0.0),
    "order of the training sections": (1.0, 0.0),
    "order by abundance, 0.25": (0.0, 0.25),
    "order by abundance, 0.5": (0.0, 0.5),
    "order by abundance, 0.75": (0.0, 0.75),
    "order by abundance, 1": (0.0, 1.0),
}
#: Of the stand-ins: genes, components, standard deviation of their noise and of that of the total counts.
N_OTHER, N_AXES, NOISE_SD, DEPTH_NOISE_SD = 2000, 40, 0.9, 0.7
N_AROUND = 6


def counts_of(train: list[str], data_dir: str | None) -> ad.AnnData:
    """Training sections and all sections of other patients, with the genes that are found in every patient."""
    patients = {name[0] for name in train}
    names = [*train, *(s for s in SECTIONS if s[0] not in patients)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no image")
        table = datasets.her2st(names, data_dir=data_dir).tables[TABLE]
    patient = table.obs[OBS.section].astype(str).str[0].to_numpy()
    everywhere = [np.asarray(table.X[patient == p].sum(axis=0)).ravel() > 0 for p in np.unique(patient)]
    return table[:, np.all(everywhere, axis=0)].copy()


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson, over what is known of both; NaN where that is nothing."""
    known = np.isfinite(first) & np.isfinite(second)
    if not known.any():
        return np.nan
    return float(np.corrcoef(first[known], second[known])[0, 1])


def correlations_of(section) -> np.ndarray:
    """Of all pairs of genes, NaN where one does not vary."""
    values = np.where(np.ptp(section.target, axis=0) > 0, section.target, np.nan)
    with np.errstate(invalid="ignore"):
        return np.corrcoef(values.T)[np.triu_indices(values.shape[1], 1)]


def carried_over(training: list, others: dict) -> dict[str, list[float]]:
    """Scores of the training sections' statistics against every other one: GSC, then SSC of order and of the line."""
    pairs = np.mean([correlations_of(s) for s in training], axis=0)
    order = np.mean([section_order(s) for s in training], axis=0)
    line = order_by_abundance(order, np.concatenate([s.target for s in training]).mean(axis=0))
    line = np.full(len(order), np.nan) if line is None else line
    found = {}
    for name, section in others.items():
        measured = section_order(section)
        ssc = [correlation(expected, measured) for expected in (order, (order + line) / 2, line)]
        found[name] = [correlation(pairs, correlations_of(section)), *ssc]
    return found


def stand_ins(
    counts: dict[str, ad.AnnData], train: list[str], panel: list[str], seed: int = 0
) -> dict[str, np.ndarray]:
    """Features ``(n_spots, 41)`` of every section, of genes outside the panel; fewer of few genes."""
    totals = {name: np.asarray(t.X.sum(axis=1)).ravel() for name, t in counts.items()}
    rest = ~next(iter(counts.values())).var_names.isin(panel)
    rate = {name: np.asarray(t.X[:, rest].todense()) / totals[name][:, None] for name, t in counts.items()}
    top = np.argsort(-np.mean([rate[name].mean(axis=0) for name in train], axis=0), kind="stable")[:N_OTHER]
    expression = {name: np.log1p(1e4 * values[:, top]) for name, values in rate.items()}
    pooled = np.concatenate([expression[name] for name in train])
    mean, sd = pooled.mean(axis=0), np.maximum(pooled.std(axis=0), 1e-8)
    axes, axis_sd = principal_axes((pooled - mean) / sd, N_AXES)
    depth = np.concatenate([np.log(totals[name]) for name in train])
    rng, out = np.random.default_rng(seed), {}
    for name, values in expression.items():
        near = knn(np.asarray(counts[name].obsm[OBSM.spatial], float), N_AROUND)[0]
        clean = np.column_stack(
            [((values - mean) / sd) @ axes.T / axis_sd, (np.log(totals[name]) - depth.mean()) / depth.std()]
        )
        noise = rng.standard_normal(clean.shape)
        around = (noise + noise[near].sum(axis=1)) / np.sqrt(1 + N_AROUND)
        level = np.append(np.full(len(axis_sd), NOISE_SD), DEPTH_NOISE_SD)
        out[name] = (clean + level * (noise + around) / np.sqrt(2)).astype(np.float32)
    return out


def fronts_of(model: FLAG, samplers: list, query: ad.AnnData, section) -> Iterator[tuple[str, np.ndarray]]:
    """Name and ``(n_structures, 3)`` scores of every sampler on a section; one draw each."""
    [(_, predictor)] = model._predictors(query, windows=False)
    share, states = draw_order.BY_ABUNDANCE, predictor.states(1, 0)
    predictor.states = lambda n_draws, seed: states  # the solver's work once, not once per order
    try:
        for name, (predictor.trust, draw_order.BY_ABUNDANCE) in ORDERS.items():
            drawn = predictor.along(STRUCTURES, 1, 0)
            yield f"FLAG, {name}", np.array([three_scores(values[0], section) for _, values in drawn])
    finally:
        draw_order.BY_ABUNDANCE = share
    for sampler in samplers:
        yield type(sampler).__name__, draw_scores(sampler, query, section)


def draw_table(
    counts: dict[str, ad.AnnData], training: ad.AnnData, others: list[str], panel: list[str], target: str
) -> tuple[list[tuple[str, ...]], str]:
    """Samplers at equal PCC and at structure 1, and the means alone; averages over patients of those over sections."""
    FLAG.setup_anndata(training, genes=panel)
    model = FLAG(training, target=target, seed=0, regression="ridge")
    model.train(accelerator="cpu", enable_progress_bar=False)
    samplers = [getattr(baselines, name)(training, target=target) for name in NOISE]
    for sampler in samplers:
        sampler.train()
    learned = sections_from_anndata(training, genes=panel, target=target)
    parts = ([getattr(s, name) for s in learned] for name in ("image", "neighbours", "coords", "target"))
    means = {"ridge": model.fitted_.stage, "ridge and kernel": RegressionStage.fit(*parts)[0]}
    found: dict[str, dict[str, list]] = {}
    for name in others:
        query, section = counts[name][:, panel].copy(), test_section(counts[name], panel, target)
        for sampler, front in fronts_of(model, samplers, query, section):
            found.setdefault(sampler, {}).setdefault(name[0], []).append(front)
        for kind, stage in means.items():
            values = stage.scaler.restore(stage.predict(section.image, section.neighbours))
            score = metrics.pcc(values, section.target), metrics.mse(values, section.target)
            found.setdefault(f"mean of {kind}", {}).setdefault(name[0], []).append(np.array(score))
    average = {k: np.mean([np.mean(f, axis=0) for f in by.values()], axis=0) for k, by in found.items()}
    last = {kind: average.pop(f"mean of {kind}") for kind in means}
    at = SHARE[target] * next(iter(average.values()))[0, 0]
    lines = [(f"target {target}", f"GSC at PCC {at:.3f}", "SSC", "PCC(1)", "GSC(1)", "SSC(1)")]
    for name, front in average.items():
        cells = [_table.interpolate(STRUCTURES, front[:, 0], front[:, i], at=at) for i in (1, 2)]
        lines.append((name, *("" if c is None else f"{c:.3f}" for c in cells), *(f"{v:.3f}" for v in front[-1])))
    return lines, ", ".join(f"{kind} PCC {pcc:.3f} MSE {mse:.3f}" for kind, (pcc, mse) in last.items())


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--train", nargs="+", metavar="S", default=list(ROTATION))
    parser.add_argument("--aside", metavar="P", default="B", help="patient that counts in no average")
    parser.add_argument("--targets", nargs="+", choices=tuple(SHARE), default=list(SHARE))
    parser.add_argument("--n-genes", type=int, default=200)
    options, start = parser.parse_args(arguments), time.perf_counter()
    table = counts_of(options.train, options.data_dir)
    training = part_of(table, options.train)
    pp.select_genes(training, options.n_genes)
    panel = [str(gene) for gene in training.var_names[training.var[VAR.panel].to_numpy(bool)]]
    counts = {name: part_of(table, [name]) for name in table.obs[OBS.section].unique()}
    for name, features in stand_ins(counts, options.train, panel).items():
        counts[name].obsm[OBSM.image] = features
    training.obsm[OBSM.image] = np.empty((training.n_obs, features.shape[1]), np.float32)
    for name in options.train:
        training.obsm[OBSM.image][(training.obs[OBS.section] == name).to_numpy()] = counts[name].obsm[OBSM.image]
    others = [name for name in counts if name not in options.train]
    of_patient = {p: [name for name in others if name[0] == p] for p in sorted({name[0] for name in others})}
    depth = {p: np.median(np.concatenate([counts[n].obs[OBS.total_counts] for n in of_patient[p]])) for p in of_patient}
    for target in options.targets:
        sections = {name: test_section(counts[name], panel, target) for name in counts}
        found = carried_over([sections[n] for n in options.train], {n: sections[n] for n in others})
        rows = {p: np.mean([found[n] for n in names], axis=0) for p, names in of_patient.items()}
        lines = [(f"target {target}", "counts", "GSC", "SSC order", "SSC half of each", "SSC abundance")]
        lines += [(p, f"{depth[p]:.0f}", *(f"{v:.3f}" for v in row)) for p, row in rows.items()]
        average = np.mean([row for p, row in rows.items() if p != options.aside], axis=0)
        lines.append((f"mean without {options.aside}", "", *(f"{v:.3f}" for v in average)))
        print(_table.aligned(lines) + "\n", flush=True)
        chosen = [name for name in others if name[0] != options.aside]
        lines, last = draw_table(counts, training, chosen, panel, target)
        print(_table.aligned(lines) + f"\nMean alone: {last}\n", flush=True)
    print(f"Wall time {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
