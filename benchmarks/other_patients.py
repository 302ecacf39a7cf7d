"""What do the training sections say of tissue of another patient? Asked of patients that are no test section.

    python benchmarks/other_patients.py --data-dir DIR --train C2 C3 C4 C5

HER2ST has sections of seven more patients, most of them without an image. What was measured in them says, first, which
statistic of the training sections carries over: their average gene-gene correlations (GSC), the Moran's I of their
genes, or the line that this follows with a gene's abundance (SSC). One row per patient, means over its sections.

Second, samples, with stand-ins for the image features: leading components of 2,000 genes outside the panel, and the
logarithm of the total counts, with noise that is partly smooth, as strong as makes ridge regression about as good on
the training patient as with image features. FLAG has the mean of the baselines here, and the Moran's I that its samples
are matched to is chosen in different ways; all samplers are compared at the same share of that mean's PCC, on curves
averaged over patients. The last line has PCC and MSE of both means at structure 0.

The patient of ``--aside`` has a row in the first part but counts in no average and is not used in the second: a section
of it is the test section of ``her2st.py --test B4``.
"""

import warnings

import anndata as ad
import common
import numpy as np

from flagst import FLAG, baselines, datasets, metrics

NOISE = ("ResidualBootstrap", "BalancedGaussian")
#: Moran's I that samples are matched to -> weight of the training sections', weight of the abundance prior without it.
PRIORS = {
    "unmodified Moran's I": (0.0, 0.0),
    "Moran's I of the training sections": (1.0, 0.0),
    "abundance prior, 0.25": (0.0, 0.25),
    "abundance prior, 0.5": (0.0, 0.5),
    "abundance prior, 0.75": (0.0, 0.75),
    "abundance prior, 1": (0.0, 1.0),
}
#: Samples are compared at this share of the mean's PCC: about where the rotation compares them.
SHARE = {"log2": 0.88, "lognorm": 0.74}
#: Of the stand-ins: genes, components, standard deviation of their noise and of that of the total counts.
N_OTHER, N_AXES, NOISE_SD, DEPTH_NOISE_SD = 2000, 40, 0.9, 0.7
N_AROUND = 6
IMAGE = "X_image"


def counts_of(train: list[str], data_dir: str | None) -> ad.AnnData:
    """Training sections and all sections of other patients, with the genes that are found in every patient."""
    patients = {name[0] for name in train}
    names = [*train, *(s for s in common.SECTIONS if s[0] not in patients)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no image")
        table = datasets.her2st(names, data_dir=data_dir).tables["table"]
    patient = table.obs["section"].astype(str).str[0].to_numpy()
    everywhere = [np.asarray(table.X[patient == p].sum(axis=0)).ravel() > 0 for p in np.unique(patient)]
    return table[:, np.all(everywhere, axis=0)].copy()


def measured_in(table: ad.AnnData, genes: list[str], target: str) -> np.ndarray:
    """What was measured in a section, ``(n_spots, n_genes)``, scaled by the counts of the table's genes."""
    part = table[:, genes].copy()
    part.obs["total_counts"] = np.asarray(table.X.sum(axis=1), dtype=float).ravel()
    return common.measured_expression(part, target=target)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson, over what is known of both; NaN where that is nothing."""
    known = np.isfinite(first) & np.isfinite(second)
    return float(np.corrcoef(first[known], second[known])[0, 1]) if known.any() else np.nan


def correlations_of(values: np.ndarray) -> np.ndarray:
    """Of all pairs of genes, NaN where one does not vary."""
    values = np.where(np.ptp(values, axis=0) > 0, values, np.nan)
    with np.errstate(invalid="ignore"):
        return np.corrcoef(values.T)[np.triu_indices(values.shape[1], 1)]


def moran_of(values: np.ndarray, graph) -> np.ndarray:
    """Moran's I of every gene, NaN for genes that do not vary."""
    return np.where(np.ptp(values, axis=0) > 0, metrics.morans_i(values, graph), np.nan)


def line_of(moran: np.ndarray, abundance: np.ndarray) -> np.ndarray:
    """Moran's I that the abundance of a gene predicts, by a line fitted to all genes; NaN where it does not rise."""
    known = np.isfinite(moran)
    slope, intercept = np.polyfit(abundance[known], moran[known], 1)
    return intercept + slope * abundance if slope > 0 else np.full(len(moran), np.nan)


def carried_over(training: list[tuple], others: dict[str, tuple]) -> dict[str, list[float]]:
    """Scores of the training sections' statistics against other sections: GSC, then SSC of Moran's I and of the line.

    A section is its measured expression and its graph.
    """
    pairs = np.mean([correlations_of(values) for values, _ in training], axis=0)
    moran = np.mean([moran_of(*section) for section in training], axis=0)
    line = line_of(moran, np.concatenate([values for values, _ in training]).mean(axis=0))
    found = {}
    for name, (values, graph) in others.items():
        measured = moran_of(values, graph)
        ssc = [correlation(expected, measured) for expected in (moran, (moran + line) / 2, line)]
        found[name] = [correlation(pairs, correlations_of(values)), *ssc]
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
    axes, axis_sd = common.principal_axes((pooled - mean) / sd, N_AXES)
    depth = np.concatenate([np.log(totals[name]) for name in train])
    rng, out = np.random.default_rng(seed), {}
    for name, values in expression.items():
        near = common.nearest(np.asarray(counts[name].obsm["spatial"], float), N_AROUND)
        scaled_depth = (np.log(totals[name]) - depth.mean()) / depth.std()
        clean = np.column_stack([((values - mean) / sd) @ axes.T / axis_sd, scaled_depth])
        noise = rng.standard_normal(clean.shape)
        around = (noise + noise[near].sum(axis=1)) / np.sqrt(1 + N_AROUND)
        level = np.append(np.full(len(axis_sd), NOISE_SD), DEPTH_NOISE_SD)
        out[name] = (clean + level * (noise + around) / np.sqrt(2)).astype(np.float32)
    return out


def curves_of(model: FLAG, samplers: list, query: ad.AnnData, measured: np.ndarray) -> dict[str, np.ndarray]:
    """``(n_structures, 3)`` PCC, GSC and SSC of every sampler on a section; one sample each."""
    predictions = {f"FLAG, {name}": p for name, p in common.samples_by_prior(model, query, PRIORS, common.STRUCTURES)}
    for sampler in samplers:
        found = (sampler.predict(query, structure=structure, seed=0) for structure in common.STRUCTURES)
        predictions[type(sampler).__name__] = [p[:, model.genes_].layers["flagst"] for p in found]
    graph = common.graph_of(query)

    def scores(values: np.ndarray) -> tuple[float, float, float]:
        return metrics.pcc(values, measured), metrics.gsc(values, measured), metrics.ssc(values, measured, graph)

    return {name: np.array([scores(values) for values in of]) for name, of in predictions.items()}


def sample_table(
    counts: dict[str, ad.AnnData], training: ad.AnnData, others: list[str], panel: list[str], target: str
) -> tuple[list[tuple[str, ...]], str]:
    """Samplers at equal PCC and at structure 1, and the means alone; averages over patients of those over sections."""
    FLAG.setup_anndata(training, genes=panel)
    model = FLAG(training, target=target, seed=0, regression="ridge")
    model.train(accelerator="cpu", enable_progress_bar=False)
    samplers = [getattr(baselines, name)(training, target=target) for name in NOISE]
    for sampler in samplers:
        sampler.train()
    learned = common.arrays(training, panel, target)
    means = {kind: common.fit_mean(learned, regression=kind)[0] for kind in ("ridge", "mixed")}
    found: dict[str, dict[str, list]] = {}
    for name in others:
        query, measured = counts[name][:, panel].copy(), measured_in(counts[name], panel, target)
        for sampler, curve in curves_of(model, samplers, query, measured).items():
            found.setdefault(sampler, {}).setdefault(name[0], []).append(curve)
        [section] = common.arrays(counts[name], None, None)
        for kind, stage in means.items():
            values = stage.scaler.restore(stage.predict(section.image, section.neighbours))
            scores = np.array([metrics.pcc(values, measured), metrics.mse(values, measured)])
            found.setdefault(kind, {}).setdefault(name[0], []).append(scores)
    average = {k: np.mean([np.mean(f, axis=0) for f in by.values()], axis=0) for k, by in found.items()}
    last = {name: average.pop(kind) for name, kind in (("ridge", "ridge"), ("ridge and kernel", "mixed"))}
    at = SHARE[target] * next(iter(average.values()))[0, 0]
    lines = [(f"target {target}", f"GSC at PCC {at:.3f}", "SSC", "PCC(1)", "GSC(1)", "SSC(1)")]
    for name, curve in average.items():
        cells = [common.interpolate(common.STRUCTURES, curve[:, 0], curve[:, i], at=at) for i in (1, 2)]
        lines.append((name, *("" if c is None else f"{c:.3f}" for c in cells), *(f"{v:.3f}" for v in curve[-1])))
    return lines, ", ".join(f"{kind} PCC {pcc:.3f} MSE {mse:.3f}" for kind, (pcc, mse) in last.items())


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = common.parser(__doc__, "data-dir", "train", "targets", "n-genes", train=list(common.ROTATION))
    parser.add_argument("--aside", metavar="P", default="B", help="patient that counts in no average")
    options = parser.parse_args(arguments)
    table = counts_of(options.train, options.data_dir)
    training = common.part_of(table, options.train)
    panel = common.panel_of(training, options.n_genes)
    counts = {name: common.part_of(table, [name]) for name in table.obs["section"].unique()}
    for name, features in stand_ins(counts, options.train, panel).items():
        counts[name].obsm[IMAGE] = features
    training.obsm[IMAGE] = np.empty((training.n_obs, features.shape[1]), np.float32)
    for name in options.train:
        training.obsm[IMAGE][(training.obs["section"] == name).to_numpy()] = counts[name].obsm[IMAGE]
    others = [name for name in counts if name not in options.train]
    of_patient = {p: [name for name in others if name[0] == p] for p in sorted({name[0] for name in others})}
    depth = {p: np.median(np.concatenate([counts[n].obs["total_counts"] for n in of_patient[p]])) for p in of_patient}
    for target in options.targets:
        sections = {n: (measured_in(counts[n], panel, target), common.graph_of(counts[n])) for n in counts}
        found = carried_over([sections[n] for n in options.train], {n: sections[n] for n in others})
        rows = {p: np.mean([found[n] for n in names], axis=0) for p, names in of_patient.items()}
        lines = [(f"target {target}", "counts", "GSC", "SSC Moran's I", "SSC half of each", "SSC abundance")]
        lines += [(p, f"{depth[p]:.0f}", *(f"{v:.3f}" for v in row)) for p, row in rows.items()]
        average = np.mean([row for p, row in rows.items() if p != options.aside], axis=0)
        lines.append((f"mean without {options.aside}", "", *(f"{v:.3f}" for v in average)))
        print(common.aligned(lines) + "\n", flush=True)
        chosen = [name for name in others if name[0] != options.aside]
        lines, last = sample_table(counts, training, chosen, panel, target)
        print(common.aligned(lines) + f"\nMean alone: {last}\n", flush=True)


if __name__ == "__main__":
    main()
