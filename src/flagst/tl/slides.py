"""Predictions of many slides, one after the other or on the workers of a cluster."""

import inspect
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flagst._files import MODEL_FILE
from flagst._keys import LAYERS

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from flagst.model import FLAG

logger = logging.getLogger("flagst")

SUFFIXES = (".h5ad", ".zarr")
#: Arguments of the model's method that are set here.
OURS = ("adata", "out", "resume", "overwrite", "progress")


def predict_slides(
    paths: Sequence[str | Path],
    model_dir: str | Path,
    out_dir: str | Path,
    *,
    client: "Client | None" = None,
    overwrite: bool = False,
    retries: int = 2,
    progress: bool = True,
    **options,
) -> "pd.DataFrame":
    """Predict many slides, each to its own zarr store; call it again to continue after an interruption.

    A slide that is complete is skipped, and one that was interrupted is continued. When a worker of a cluster is
    lost, another one continues its slide after the last chunk that was written. One slide that fails does not stop
    the others: the table says why it failed.

    Parameters
    ----------
    paths
        h5ad files, and zarr stores of tables or of SpatialData, with positions and image features.
    model_dir
        Folder of a saved model.
    out_dir
        Folder of the results, ``<out_dir>/<name of the slide>.zarr``.
    client
        Client of a ``dask.distributed`` cluster whose workers see the same files and have flagst, with one thread
        each; None predicts in this process, slide by slide.
    overwrite
        Predict complete slides again.
    retries
        How often a slide that failed is tried again on a cluster; lost workers are not counted.
    progress
        Show a progress bar over slides.
    **options
        Of :meth:`flagst.FLAG.predict_to_zarr`: ``structure``, ``seed``, ``window_spots`` and so on.

    Returns
    -------
    One row per slide, in the order of ``paths``: ``path``, ``out``, ``status`` (``"done"``, ``"skipped"`` or
    ``"failed"``), ``seconds``, ``n_spots`` (0 for those that failed), ``error`` (empty without one).

    Writes
    ------
    ``<out_dir>/<name>.zarr`` of every slide, see :meth:`flagst.FLAG.predict_to_zarr`.

    Raises
    ------
    FileNotFoundError
        There is no model in ``model_dir``.
    TypeError
        An option that does not exist.
    ValueError
        Two slides of one name, no slide, or results that would be written where the slides are.

    Examples
    --------
    >>> model.save("model")
    >>> adata.write_h5ad("slide.h5ad")
    >>> table = flagst.tl.predict_slides(["slide.h5ad"], "model", "predicted", progress=False)
    >>> table[["status", "n_spots"]].values.tolist()
    [['done', 180]]

    On a cluster: pass ``client=distributed.Client(distributed.LocalCluster(threads_per_worker=1))``.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    jobs = _jobs(paths, Path(out_dir))
    model_dir = Path(model_dir).resolve()
    if not (model_dir / MODEL_FILE).exists():
        raise FileNotFoundError(f"{model_dir} holds no saved model. Pass the folder that model.save() wrote.")
    _check_options(options)
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    common = {"overwrite": overwrite, "options": options}
    run = _here(jobs, model_dir, common) if client is None else _on(client, jobs, model_dir, common, retries)
    found = {}
    for path, result in tqdm(run, total=len(jobs), desc="slides", unit="slide", disable=not progress):
        found[path] = result
        if result["error"]:
            logger.warning("%s failed: %s", path, result["error"])
    return pd.DataFrame([{"path": str(path), "out": str(out), **found[path]} for path, out in jobs])


def _jobs(paths: Sequence[str | Path], out_dir: Path) -> list[tuple[Path, Path]]:
    """Slides and their results, as whole paths: workers have folders of their own."""
    paths = [Path(path).resolve() for path in paths]
    if not paths:
        raise ValueError("paths is empty: there is no slide to predict.")
    names = [path.stem if path.suffix in SUFFIXES else path.name for path in paths]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ValueError(f"Several slides are named {twice[:5]}, and would be written to one place. Rename them.")
    jobs = [(path, out_dir.resolve() / f"{name}.zarr") for path, name in zip(paths, names, strict=True)]
    if any(path == out for path, out in jobs):
        raise ValueError(
            f"{out_dir} holds the slides themselves, and results would go where they are. Name another folder."
        )
    return jobs


def _check_options(options: dict) -> None:
    """Raise a ``TypeError`` for what the model's method does not take."""
    from flagst.model import FLAG

    known = set(inspect.signature(FLAG.predict_to_zarr).parameters) - {"self", *OURS}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"predict_slides() has no options {unknown}; there are {sorted(known)}.")


def _here(jobs: list[tuple[Path, Path]], model_dir: Path, common: dict) -> Iterator[tuple[Path, dict]]:
    """Slides and their results, one after the other in this process."""
    for path, out in jobs:
        start = time.perf_counter()
        try:
            yield path, _predict(path, out, model_dir, **common)
        except Exception as error:  # noqa: BLE001  whatever it is, the other slides go on
            yield path, _failed(error, time.perf_counter() - start)


def _on(
    client: "Client", jobs: list[tuple[Path, Path]], model_dir: Path, common: dict, retries: int
) -> Iterator[tuple[Path, dict]]:
    """Slides and their results, as the workers of a cluster finish them."""
    from distributed import as_completed

    start = time.perf_counter()
    options = {"retries": retries, "pure": False, **common}
    futures = {client.submit(_predict, path, out, model_dir, **options): path for path, out in jobs}
    for future in as_completed(list(futures)):
        error = future.exception()
        seconds = time.perf_counter() - start
        yield futures[future], future.result() if error is None else _failed(error, seconds)


def _predict(path: Path, out: Path, model_dir: Path, *, overwrite: bool, options: dict) -> dict:
    """Predict one slide; what the table says about it."""
    import zarr

    start, there = time.perf_counter(), out.exists()
    model = _model(str(model_dir), (model_dir / MODEL_FILE).stat().st_mtime_ns)
    model.predict_to_zarr(path, out, resume=not overwrite, overwrite=overwrite, progress=False, **options)
    layer = zarr.open_group(out, mode="r")["layers"][options.get("layer", LAYERS.draw)]
    status = "skipped" if there and not overwrite else "done"
    return {"status": status, "seconds": time.perf_counter() - start, "n_spots": layer.shape[0], "error": ""}


def _failed(error: BaseException, seconds: float) -> dict:
    return {"status": "failed", "seconds": seconds, "n_spots": 0, "error": f"{type(error).__name__}: {error}"}


@lru_cache(maxsize=1)
def _model(model_dir: str, changed: int) -> "FLAG":
    """The model, loaded once per process; ``changed`` tells a model that was saved again."""
    from flagst.model import FLAG

    return FLAG.load(model_dir)
