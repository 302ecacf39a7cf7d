"""Agreement of tissue domains: clusters of predicted against clusters of measured expression."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_anndata, require_key
from flagst._keys import LAYERS, RECORD, SLOT
from flagst.data.measured import section_rows
from flagst.tl._inputs import prediction_and_truth
from flagst.tl._record import section_records, section_table, write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger("flagst")

DEFINITIONS = {
    "ari": "adjusted Rand index of predicted clusters against measured ones of the next seed, mean over seeds",
    "nmi": "normalised mutual information of the same, mean over seeds",
    "self": "the same of the measurement in place of the prediction: what clustering alone loses",
    "label": "predicted clusters against the given label",
    "label_measured": "measured clusters against the given label",
    "_sd": "standard deviation over seeds",
}


def domain_agreement(
    adata: "AnnData",
    layer: str = LAYERS.draw,
    *,
    label_key: str | None = None,
    ignore_labels: Sequence[str] = (),
    n_clusters: int | None = None,
    n_components: int = 20,
    n_seeds: int = 5,
    truth: "str | np.ndarray | pd.DataFrame | None" = None,
    target: str | None = None,
    section_key: str | None = None,
) -> "pd.DataFrame":
    """Compare clusters of predicted with clusters of measured expression in every section, over several seeds.

    Both clusterings are made in the same way. Every gene that varies in the measurement is brought to mean 0 and
    variance 1 over the spots of a section, principal components are taken, and spots are clustered by k-means (10
    starts). Positions are not used. Clusters of the same data differ from seed to seed, and predicted clusters are
    compared with measured ones of another seed: a prediction that equals the measurement has ``ari_self``. Under
    target log2 clusters follow the library size, and a prediction from depth alone agrees well with the measurement:
    choose ``"lognorm"`` where domains matter.

    Parameters
    ----------
    adata
        Table with the prediction in a layer and measured expression.
    layer
        Layer with the prediction, (n_spots, n_genes).
    label_key
        Column of ``adata.obs`` with known domains, such as a pathologist's. Both clusterings are also compared
        with it. Spots without a label are left out of that comparison only.
    ignore_labels
        Labels that count as none, such as ``["unlabelled", "undetermined"]``.
    n_clusters
        Clusters per section, at least 2. None: as many as the section has labels, 6 without ``label_key``.
    n_components
        Principal components; fewer where there are fewer genes or spots.
    n_seeds
        Seeds 0 to ``n_seeds - 1``, at least 2.
    truth
        Measured expression in the unit of the prediction: a layer, an (n_spots, n_genes) array, or a DataFrame
        matched by name. None: computed from raw counts, in ``adata.X`` or the registered layer, with the
        target that is recorded of ``layer``.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; overrides the recorded target when ``truth`` is None.
    section_key
        Column of ``adata.obs``. None: the recorded one, else ``"section"``, else all spots are one section.

    Returns
    -------
    One row per section and a last row ``"mean"``. ``ari``, ``nmi`` with ``_sd`` over seeds, ``ari_self``,
    ``nmi_self``; with ``label_key`` also ``ari_label``, ``nmi_label``, ``ari_label_measured``,
    ``nmi_label_measured`` and their ``_sd``; ``n_clusters``, ``n_spots``.

    Writes
    ------
    ``adata.uns["flagst"]["metrics"][layer]["domains"]``: ``"mean"``, ``"sections"``, ``"definitions"``,
    ``"label_key"`` (empty without one), ``"n_seeds"``.

    Raises
    ------
    KeyError
        Layer, label or section column are missing, or as :func:`flagst.tl.evaluate`.
    TypeError
        ``adata`` is a SpatialData.
    ValueError
        Fewer than 2 seeds or clusters, fewer spots than clusters, or a section with fewer than two labels.

    Source
    ------
    ARI: Hubert & Arabie, J. Classif. 1985, 2:193.

    Examples
    --------
    >>> table = flagst.tl.domain_agreement(prediction, n_clusters=3, n_seeds=2)
    >>> int(table.loc["S1", "n_spots"])
    60
    >>> sorted(prediction.uns["flagst"]["metrics"]["flagst"]["domains"])
    ['definitions', 'label_key', 'mean', 'n_seeds', 'sections']
    """
    require_anndata(adata)
    if n_seeds < 2:
        raise ValueError(f"n_seeds must be at least 2, for a standard deviation; got {n_seeds}.")
    labels = None if label_key is None else _labels(adata, label_key, ignore_labels)
    predicted, measured, _ = prediction_and_truth(adata, layer, truth, target=target)
    found = {}
    for section, rows in section_rows(adata, section_key).items():
        own = None if labels is None else labels[rows]
        n_labels = None if own is None else len(set(own) - {""})
        try:
            n = n_clusters or (6 if own is None else n_labels)
            options = {"n_clusters": n, "n_components": n_components, "n_seeds": n_seeds}
            # genes constant in the measurement are left out, as in every other score
            kept = np.ptp(measured[rows], axis=0) > 0
            if own is not None and n_labels < 2:
                raise ValueError(f"fewer than two labels in adata.obs[{label_key!r}].")
            if not kept.any():
                raise ValueError("no gene varies in the measurement.")
            guess, true = (_clusters(values[rows][:, kept], **options) for values in (predicted, measured))
            found[section] = _agreement(guess, true, own) | {"n_clusters": n, "n_spots": len(rows)}
        except ValueError as error:
            raise ValueError(f"Section {section!r}: {error}") from error
    table = section_table(found)
    record = section_records(table) | {
        "definitions": dict(DEFINITIONS),
        "label_key": label_key or "",
        "n_seeds": int(n_seeds),
    }
    write_record(adata, record, SLOT.metrics, layer, RECORD.domains)
    logger.info("Wrote agreement of domains of layer %r to adata.uns.", layer)
    return table


def _labels(adata: "AnnData", key: str, ignored: Sequence[str]) -> np.ndarray:
    """Label of every spot, (n_obs,) str; empty where there is none."""
    require_key(adata.obs, key, where="adata.obs", hint="Name the column of known domains with label_key=.")
    column = adata.obs[key]
    labels = np.where(column.isna(), "", column.astype(str))
    return np.where(np.isin(labels, list(ignored)), "", labels).astype(object)


def _clusters(values: np.ndarray, *, n_clusters: int, n_components: int, n_seeds: int) -> np.ndarray:
    """Cluster of every spot, (n_seeds, n_spots), seeds from 0."""
    from sklearn.cluster import KMeans

    if n_clusters < 2:
        raise ValueError(f"clusters need at least 2 groups; got {n_clusters}. Pass n_clusters=.")
    if len(values) <= n_clusters:
        raise ValueError(f"{n_clusters} clusters need more spots than the {len(values)} there are.")
    scores = _components(values, n_components)
    if not scores.any():
        return np.zeros((n_seeds, len(values)), dtype=np.int64)
    return np.stack([KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(scores) for seed in range(n_seeds)])


def _components(values: np.ndarray, n_components: int) -> np.ndarray:
    """Principal component scores of standardised genes, (n_spots, <= n_components)."""
    values = values.astype(np.float64)
    deviation = values.std(axis=0)
    kept = deviation > 1e-7 * np.abs(values).max(axis=0)
    if not kept.any():
        return np.zeros((len(values), 1))
    unit = (values[:, kept] - values[:, kept].mean(axis=0)) / deviation[kept]
    left, size, _ = np.linalg.svd(unit, full_matrices=False)
    return (left * size)[:, :n_components]


def _agreement(guess: np.ndarray, true: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    """ARI and NMI over seeds; ``guess`` and ``true`` (n_seeds, n_spots), ``labels`` (n_spots,) or None.

    Clusterings of the same seed start alike, so predicted ones are compared with measured ones of the next seed.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    result = {}
    for name, score in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        pairs = {"": zip(np.roll(true, -1, axis=0), guess, strict=True)}
        pairs["_self"] = zip(np.roll(true, -1, axis=0), true, strict=True)
        if labels is not None:
            kept = labels != ""
            pairs["_label"] = ((labels[kept], part[kept]) for part in guess)
            pairs["_label_measured"] = ((labels[kept], part[kept]) for part in true)
        for suffix, compared in pairs.items():
            values = [score(left, right) for left, right in compared]
            result[f"{name}{suffix}"] = float(np.mean(values))
            result[f"{name}{suffix}_sd"] = float(np.std(values))
    return result
