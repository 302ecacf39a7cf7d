"""Records to tables: means over test sections, spread over seeds, comparison at equal PCC. Numpy only."""

from collections.abc import Callable

import numpy as np

NOISE_BASELINES = ("IndependentNoise", "ResidualBootstrap", "CorrelatedGaussian", "BalancedGaussian")
#: PCC at which samplers are compared unless told otherwise: inside every sampler's range on the rotation.
AT_PCC = {"log2": 0.55, "lognorm": 0.24}
COLUMNS = ("PCC", "PCC-50", "MSE", "GSC", "SSC", "Moran", "true", "gap", "seconds", "peak MB")
WITH_SPREAD = ("pcc", "gsc", "ssc")
#: Baselines that see more than the image.
ORACLES = ("DepthOracle",)


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
    scores = ("pcc", "pcc50", "mse", "gsc", "ssc", "moran_pred", "moran_true", "seconds")
    row = {score: float(np.mean([r[score] for r in records])) for score in scores}
    row["gap"] = float(np.mean([abs(r["moran_pred"] - r["moran_true"]) for r in records]))
    row["peak_mb"] = float(max(r["peak_mb"] for r in records))
    for score in WITH_SPREAD:
        means = seed_means(records, score)
        row[f"{score}_sd"] = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    return row


def interpolate(structures, pcc, values, *, at: float) -> float | None:
    """Value at a given PCC, linear between neighbouring structures; ``None`` out of range.

    Parameters
    ----------
    structures, pcc, values
        ``(n,)`` each: the front of one sampler, in any order.
    at
        The PCC. Where the front passes it more than once, the pass at the largest structure counts: there
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
    Method -> ``{"gsc", "ssc"}``, each ``(n_seeds,)``; ``None`` when any seed's front misses that PCC.
    """
    fronts: dict[str, dict] = {}
    for (method, structure), group in groups(records).items():
        if structure is not None:
            fronts.setdefault(method, {})[structure] = {s: seed_means(group, s) for s in WITH_SPREAD}
    result: dict[str, dict[str, np.ndarray] | None] = {}
    for method, front in fronts.items():
        # (n_structures, n_seeds) each
        curves = {score: np.array([point[score] for point in front.values()]) for score in WITH_SPREAD}
        seeds = range(curves["pcc"].shape[1])
        found = {
            score: [interpolate(list(front), curves["pcc"][:, i], curves[score][:, i], at=at) for i in seeds]
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
    """The baseline without a dial whose PCC is best, oracles aside, and FLAG's lead at structure 0 for every seed."""
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
            without = [
                r | {s: r["left_out"][s][block] for s in WITH_SPREAD} if r["test"] == test else r for r in records
            ]
            leads.append(lead(without))
        if None in leads:
            return float("nan")
        variance += (n_blocks - 1) / n_blocks * float(np.sum((np.array(leads) - np.mean(leads)) ** 2))
    return float(np.sqrt(variance))


def lead_lines(records: list[dict], at: float) -> str:
    """FLAG's lead in PCC over the best baseline, and in GSC and SSC at equal PCC over the best noise.

    With its spread over seeds, and its standard error over blocks of the test sections.
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
        spread = structure is not None
        lines.append(
            (
                method,
                "" if structure is None else f"{structure:g}",
                _with_sd(row["pcc"], row["pcc_sd"] if spread else np.nan),
                f"{row['pcc50']:.3f}",
                f"{row['mse']:.3f}",
                _with_sd(row["gsc"], row["gsc_sd"] if spread else np.nan),
                _with_sd(row["ssc"], row["ssc_sd"] if spread else np.nan),
                f"{row['moran_pred']:.3f}",
                f"{row['moran_true']:.3f}",
                f"{row['gap']:.3f}",
                f"{row['seconds']:.1f}",
                f"{row['peak_mb']:.0f}",
            )
        )
    return aligned(lines)


def equal_pcc_table(records: list[dict], at: float) -> str:
    """Samplers at equal PCC."""
    equal = at_equal_pcc(records, at)
    if not equal:
        return ""
    lines = [("method", "GSC", "SSC")]
    for method, found in equal.items():
        if found is None:
            lines.append((method, "out of range", "out of range"))
        else:
            lines.append((method, *(_mean_sd(found[score]) for score in ("gsc", "ssc"))))
    how = "fronts averaged over test sections, linear between structures, seed by seed"
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
    raw, moved, by_lot = (seed_means(covered, name) for name in ("coverage_raw", "coverage", "coverage_by_lot"))
    values = [r["coverage"] for r in covered]
    return (
        f"FLAG's 90 % intervals cover {_mean_sd(moved)} of the test sections "
        f"({min(values):.3f} to {max(values):.3f}), {_mean_sd(by_lot)} with zeros at a bound of zero by lot; "
        f"quantiles of the draws as they are, {_mean_sd(raw)}"
    )


def residual_line(records: list[dict]) -> str:
    """Moran's I of what FLAG's full draws add to the mean, beside measured residuals; empty where there is none.

    The difference is the mean over splits and seeds of ``|drawn - cross-fitted|``.
    """
    found = [r for r in records if "residual_drawn" in r and r["structure"] == 0]
    if not found:
        return ""
    drawn, crossfit, test = (seed_means(found, f"residual_{name}") for name in ("drawn", "crossfit", "test"))
    apart = [abs(r["residual_drawn"] - r["residual_crossfit"]) for r in found]
    return (
        f"Moran's I of what FLAG's full draws add to the mean {_mean_sd(drawn)}, of the cross-fitted residuals of the "
        f"training sections {crossfit.mean():.3f} (apart by {np.mean(apart):.3f}, {min(apart):.3f} to "
        f"{max(apart):.3f}), of the measured residuals of the test sections {test.mean():.3f}"
    )


def _with_sd(value: float, sd: float) -> str:
    return f"{value:.3f}" if np.isnan(sd) else f"{value:.3f} ± {sd:.3f}"


def _mean_sd(values: np.ndarray) -> str:
    return _with_sd(values.mean(), values.std(ddof=1) if len(values) > 1 else np.nan)


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
