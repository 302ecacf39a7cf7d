"""Predictions that are written to zarr some spots at a time, and resumed."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from flagst import __version__
from flagst._keys import LAYERS, PARAM, SLOT, TABLE, UNS, prediction_layers
from flagst.data.identity import fingerprint
from flagst.data.prediction_record import table_of, write_prediction
from flagst.data.prediction_store import PredictionStore, finished_request
from flagst.data.reading import read_spots
from flagst.sampling.layers import layer_names
from flagst.sampling.progress import Bars
from flagst.sampling.sampler import SectionSampler

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Parts of a model that its predictions follow from.
PARTS = ("settings_", "setup_", "genes_", "fitted_", "ood_", "intervals_", "unmeasured_")


def predict_to_zarr(
    self,
    adata: "AnnData | SpatialData | str | Path",
    out: str | Path,
    *,
    structure: float = 0.5,
    n_samples: int = 1,
    seed: int = 0,
    layer: str = LAYERS.draw,
    return_std: bool = False,
    quantiles: Sequence[float] = (),
    genes: Sequence[str] | None = None,
    window_spots: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    table_key: str = TABLE,
) -> Path:
    """Predict a slide of any size, window by window, straight to a zarr store that :func:`anndata.read_zarr` reads.

    The numbers are those of :meth:`predict`, up to rounding. Memory holds what a few thousand spots need for all genes,
    and per spot the image features, neighbours, the context of every network and what does not depend on genes. The
    query's own expression is not read.

    Parameters
    ----------
    adata
        Spots with positions and image features; expression and genes are not needed. A table, a SpatialData, or the
        path of an h5ad file or a zarr store, of which only ``obs``, ``uns`` and the two arrays of ``obsm`` are read.
        Every section must be whole.
    out
        Folder of the store. Until the prediction is complete it is made in ``<out>.partial``.
    structure, n_samples, seed, layer, return_std, quantiles, genes, table_key
        As in :meth:`predict`.
    window_spots
        Spots of a window, besides its surroundings; ``None`` for 4,096. Changes memory and speed, not the numbers.
    resume
        Continue what an interrupted call has left, with the same model, spots and arguments. Start where there is
        nothing. Where ``out`` is already complete, and of the same model and arguments, nothing is done.
    overwrite
        Replace ``out``, and discard what an interrupted call has left.
    progress
        Show progress bars.

    Returns
    -------
    ``out``.

    Writes
    ------
    ``out`` with ``obs`` of the query and ``obs["flagst_ood"]``, ``var``, ``obsm`` with the positions, ``uns``, and the
    layers of :meth:`predict` in chunks of rows, ``(n_spots, n_genes)`` float32 each. No X and no image features.

    Raises
    ------
    RuntimeError
        The model is not trained, or another process is writing there.
    FileExistsError
        ``out`` or ``<out>.partial`` exists, and neither ``resume`` nor ``overwrite`` is given; ``out`` is complete and
        was made with another model, of other spots or features, or with other arguments; or what is there is no
        prediction, which is never replaced.
    ValueError
        What was left is of another model, other spots or other arguments; or as :meth:`predict`.
    FileNotFoundError, KeyError
        As :meth:`predict`; there is no such file.

    Warns
    -----
    UserWarning
        Quantiles are not calibrated, as nothing was held out in training.

    Examples
    --------
    >>> import anndata
    >>> path = model.predict_to_zarr(adata, "predicted.zarr", progress=False)
    >>> anndata.read_zarr(path).layers["flagst"].shape
    (180, 20)
    """
    self._require_trained()
    out = Path(out)
    request = {"structure": structure, "n_samples": n_samples, "return_std": return_std}
    request["quantiles"] = tuple(float(q) for q in quantiles)
    self._check_request(layer=layer, window_spots=window_spots, **request)
    wanted = self.genes_ if genes is None else self._wanted(genes, quantiles=request["quantiles"])
    request |= {"structure": float(structure), "seed": int(seed)}
    query = _spots(self, adata, table_key, out)
    asked = request | {"layer": layer, "genes": wanted, "window_spots": window_spots}
    made_of = fingerprint(_model_parts(self), asked, _query_parts(self, query), __version__)
    if _is_finished(out, made_of, resume=resume, overwrite=overwrite):
        return out
    names = {"draw": layer} | prediction_layers(layer, request["quantiles"])
    layers = [names[part] for part in layer_names(return_std, request["quantiles"])]
    shape, n_held = (query.n_obs, len(wanted)), self._n_held(**request)
    store = PredictionStore(out, shape=shape, layers=layers, fingerprint=made_of)
    bars, windows = Bars(shown=progress), {"n_genes": len(wanted), "window_spots": window_spots}
    samplers = self._samplers(query, states=store.states, streamed=True, bars=bars, **windows)
    with store.opened(resume=resume, overwrite=overwrite):
        if out.exists() and not overwrite:  # another process has finished it meanwhile
            store.discard()
            _is_finished(out, made_of, resume=resume, overwrite=overwrite)
            return out
        with bars.open(query.n_obs, "writing", "spot", start=min(store.n_done * store.chunk_rows, shape[0])) as done:
            for chunk in range(store.n_done, store.n_chunks):
                rows = store.rows(chunk)
                values = {name: np.empty((len(rows), shape[1]), np.float32) for name in layers}
                for places, part in _parts(samplers, rows, n_held):
                    for name, of_part in self._compute_layers(part, wanted, **request).items():
                        values[names[name]][places] = of_part
                store.write(chunk, values)
                done(len(rows))
        table = _table(query, wanted, self.setup_["spatial_key"])
        write_prediction(None, query, table, {}, **self._record(wanted, samplers, layer=layer, **request))
        table.uns[UNS.flagst][SLOT.request] = made_of
        store.finish(table)
    return out


def _is_finished(out: Path, request: str, *, resume: bool, overwrite: bool) -> bool:
    """Whether nothing is left to do; raises a ``FileExistsError`` for what must not be replaced."""
    if not out.exists():
        return False
    recorded = finished_request(out)
    if recorded is None:
        raise FileExistsError(
            f"{out} is there and is no prediction of flagst, and is not replaced. Name another folder."
        )
    if overwrite:
        return False
    if not resume:
        raise FileExistsError(f"{out} is already there. Pass overwrite=True to replace it.")
    if recorded != request:
        raise FileExistsError(
            f"{out} was made with another model, of other spots or features, or with other arguments. Pass "
            "overwrite=True to replace it."
        )
    return True


def _model_parts(model) -> list:
    """Everything of a model that its predictions follow from."""
    return [*(getattr(model, name) for name in PARTS), model.module.state_dict()]


def _query_parts(model, query: AnnData) -> list:
    """Everything of a query that its predictions follow from, the same for a file and for what was read of it."""
    spatial, image, section = (model.setup_[key] for key in ("spatial_key", "image_key", "section_key"))
    params = query.uns.get(UNS.flagst, {}).get(SLOT.params, {})
    per_section = [
        sorted((str(k), str(v)) for k, v in params.get(key, {}).items()) for key in (PARAM.um_per_px, PARAM.layout)
    ]
    kinds = {spatial: np.float64, image: np.float32}
    arrays = [np.asarray(query.obsm[key], kind) for key, kind in kinds.items() if key in query.obsm]
    return [*arrays, per_section, [str(name) for name in query.obs_names], [str(s) for s in query.obs.get(section, [])]]


def _spots(model, adata: "AnnData | SpatialData | str | Path", table_key: str, out: Path) -> AnnData:
    """The query's table; of a path, what is needed of it."""
    if not isinstance(adata, str | Path):
        return table_of(adata, table_key)
    if Path(adata).resolve() == out.resolve():
        raise ValueError(f"{out} is the slide itself. Name another folder.")
    keys = {name: model.setup_[name] for name in ("spatial_key", "image_key")}
    return read_spots(adata, table_key=table_key, **keys)


def _parts(samplers: list[tuple[np.ndarray, SectionSampler]], rows: np.ndarray, n_samples: int) -> Iterator[tuple]:
    """Places in ``rows``, consecutive rows of the query, and samples of the spots that are decoded at once."""
    for own, sampler in samplers:
        first, last = np.searchsorted(own, (rows[0], rows[-1] + 1))
        inside = np.arange(first, last)
        for places, part in sampler.parts(n_samples, inside):
            yield own[inside[places]] - rows[0], part


def _table(query: AnnData, genes: list[str], spatial_key: str) -> AnnData:
    """What is written around the layers."""
    table = AnnData(
        obs=query.obs.copy(),
        var=pd.DataFrame(index=pd.Index(genes)),
        obsm={spatial_key: np.asarray(query.obsm[spatial_key])},
        uns=deepcopy(dict(query.uns)),
    )
    for name in (SLOT.metrics, SLOT.calibration):  # of layers that stay behind
        table.uns.get(UNS.flagst, {}).pop(name, None)
    return table
