"""One method on some splits: fit, predict, score. Runs in a process of its own."""

import time
from typing import Any

from flagst._keys import OBS, PARAM, SLOT, UNS

#: Scores of a test section that go into a record, as ``flagst.tl.evaluate`` names them.
SCORES = ("pcc", "pcc50", "mse", "gsc", "ssc", "moran_pred", "moran_true")


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

    records = []
    for split in job["splits"]:
        adata = anndata.read_h5ad(split["file"])
        train = adata[adata.obs[OBS.section].isin(split["train"]).to_numpy()].copy()
        test = adata[(adata.obs[OBS.section] == split["test"]).to_numpy()].copy()
        # FLAG's weights depend on the seed; a baseline is fitted once and drawn from with every seed
        for seeds in [[s] for s in job["seeds"]] if job["method"] == "FLAG" else [job["seeds"]]:
            start = time.perf_counter()
            model, structures = _fit(train, job, seeds[0])
            fit_seconds = time.perf_counter() - start
            records += _score(model, test, job, split["test"], seeds, structures, fit_seconds)
    return records


def _fit(train, job: dict, seed: int) -> tuple[Any, list]:
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
    has_dial = job["method"] in ("IndependentNoise", "ResidualBootstrap", "CorrelatedGaussian")
    return model, job["structures"] if has_dial else [None]


def _score(
    model, test, job: dict, name: str, seeds: list[int], structures: list, fit_seconds: float
) -> list[dict]:
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
                    "seconds": seconds,
                }
            )
    return records
