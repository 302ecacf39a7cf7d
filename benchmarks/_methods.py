"""One method on some splits: fit, predict, score. Runs in a process of its own."""

import time
from typing import Any

import numpy as np
from _table import NOISE_BASELINES

from flagst._keys import LAYERS, OBS, OBSM, PARAM, SLOT, UNS, prediction_layers
from flagst.data.graph import moran_graph
from flagst.data.measured import section_layout
from flagst.metrics import spatial_blocks
from flagst.tl._certainty import N_BLOCKS, scores_of_rows
from flagst.tl._inputs import prediction_and_truth

#: Scores of a test section that go into a record, as ``flagst.tl.evaluate`` names them.
SCORES = ("pcc", "pcc50", "mse", "gsc", "ssc", "moran_pred", "moran_true")
#: Interval whose coverage of the test section is measured, and the full draws behind it.
INTERVAL, N_SAMPLES = (0.05, 0.95), 50


def run(job: dict) -> list[dict]:
    """Records of one method.

    Parameters
    ----------
    job
        ``method``, ``target``, ``structures``, ``seeds``, ``splits`` (each ``train``, ``test``, ``file``)
        and, for FLAG, ``preset`` and ``settings``.

    Returns
    -------
    One record per split, seed and structure, ``seconds`` for one fit and one prediction.
    """
    import anndata

    records, is_flag = [], job["method"] == "FLAG"
    for split in job["splits"]:
        adata = anndata.read_h5ad(split["file"])
        train = adata[adata.obs[OBS.section].isin(split["train"]).to_numpy()].copy()
        test = adata[(adata.obs[OBS.section] == split["test"]).to_numpy()].copy()
        # FLAG's weights depend on the seed; a baseline is fitted once and drawn from with every seed
        for seeds in [[s] for s in job["seeds"]] if is_flag else [job["seeds"]]:
            start = time.perf_counter()
            model, structures = fit(train, job, seeds[0])
            fit_seconds = time.perf_counter() - start
            scored = score(model, test, job, split["test"], seeds, structures, fit_seconds)
            beside = _coverage(model, test, seeds[0]) | _residual_order(model, test, seeds[0]) if is_flag else {}
            records += [record | beside for record in scored]
    return records


def fit(train, job: dict, seed: int) -> tuple[Any, list]:
    """A trained model and the structures it can be asked for; ``[None]`` where there is no dial."""
    if job["method"] == "FLAG":
        from flagst import FLAG

        FLAG.setup_anndata(train, section_key=OBS.section)
        model = FLAG(train, preset=job["preset"], target=job["target"], seed=seed, **job["settings"])
        model.train(accelerator="cpu")
        return model, job["structures"] if model.settings_.regression else [None]
    from flagst import baselines

    model = getattr(baselines, job["method"])(train, target=job["target"])
    model.train()
    has_dial = job["method"] in NOISE_BASELINES
    return model, job["structures"] if has_dial else [None]


def _coverage(model, test, seed: int) -> dict[str, float]:
    """Share of the test section inside the 90 % interval of 50 full draws, before and after calibration.

    ``coverage_by_lot``: after calibration, a zero measured at a lower bound of zero inside with its probability only.
    """
    from flagst.data.measured import measured_expression
    from flagst.metrics import coverage, share_below
    from flagst.model.intervals import LEVELS, draw_quantiles

    if model.intervals_ is None:
        return {}
    measured = measured_expression(test[:, model.genes_], target=model.settings_.target)
    draws = model.sample(test, N_SAMPLES, seed=seed)
    raw, moved = draw_quantiles(draws, INTERVAL), model.intervals_.move(draws, INTERVAL)
    by_lot = share_below(model.intervals_.move(draws, tuple(LEVELS)), LEVELS, measured)[1]
    return {
        "coverage_raw": coverage(*raw, measured),
        "coverage": coverage(*moved, measured),
        "coverage_by_lot": float(np.ptp(np.interp(INTERVAL, LEVELS, by_lot))),
    }


def _residual_order(model, test, seed: int) -> dict[str, float]:
    """Moran's I, mean over genes, of what a full draw adds to the mean, and of what was measured beside the mean.

    ``residual_drawn`` and ``residual_test`` on the test section, ``residual_crossfit`` of the cross-fitted mean on the
    training sections, averaged over these: what a draw of a new section should be like. All in the unit of the target.
    """
    from flagst.data.measured import measured_expression
    from flagst.metrics import morans_i
    from flagst.model.fitting import fit_before_diffusion

    if model.fitted_.residual is None:
        return {}
    drawn = model.predict(test, structure=1, seed=seed)[:, model.genes_]
    mean, graph = drawn.layers[prediction_layers(LAYERS.draw)["mean"]], graph_of(drawn, drawn.obs[OBS.section].iloc[0])
    added = {
        "residual_drawn": drawn.layers[LAYERS.draw] - mean,
        "residual_test": measured_expression(drawn, target=model.settings_.target) - mean,
    }
    found = {name: float(morans_i(values, graph).mean()) for name, values in added.items()}
    sections = model._sections(model.adata, measured=True)
    fitted, data = fit_before_diffusion(sections, model.settings_)
    left = [
        morans_i(s.target - fitted.stage.scaler.restore(mean), moran_graph(s.coords, s.layout)).mean()
        for s, mean in zip(sections, data.mean, strict=True)
    ]
    return found | {"residual_crossfit": float(np.mean(left))}


def graph_of(prediction, section: str):
    """Graph on which Moran's I of a predicted section is taken."""
    return moran_graph(prediction.obsm[OBSM.spatial], section_layout(prediction, section))


def score(model, test, job: dict, name: str, seeds: list[int], structures: list, fit_seconds: float) -> list[dict]:
    """Records of a trained model on one test section, one per seed and structure."""
    from flagst.tl import evaluate

    records = []
    for seed in seeds:
        for structure in structures:
            start = time.perf_counter()
            dial = {} if structure is None else {"structure": structure}
            prediction = model.predict(test, seed=seed, **dial)
            seconds = fit_seconds + time.perf_counter() - start
            assert prediction.uns[UNS.flagst][SLOT.params][PARAM.target] == job["target"]
            row = evaluate(prediction).iloc[0]
            records.append(
                {
                    "method": job["method"],
                    "structure": structure,
                    "target": job["target"],
                    "seed": seed,
                    "test": name,
                    "n_genes": prediction.n_vars,
                    **{score: float(row[score]) for score in SCORES},
                    "left_out": _left_out(prediction, name),
                    "seconds": seconds,
                }
            )
    return records


def _left_out(prediction, section: str) -> dict[str, list[float]]:
    """Scores of the test section without each of its compact blocks in turn, for the error of a difference."""
    blocks = spatial_blocks(prediction.obsm[OBSM.spatial], N_BLOCKS)
    graph = graph_of(prediction, section)
    predicted, measured, _ = prediction_and_truth(prediction, LAYERS.draw, None, target=None)
    kept = [np.flatnonzero(blocks != block) for block in range(N_BLOCKS)]
    return {
        name: [float(score(rows)) for rows in kept]
        for name, score in scores_of_rows(predicted, measured, graph).items()
    }
