"""The accuracy-structure curve of a model and of baselines, on measured sections, with reference values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst import metrics
from flagst._checks import require_key
from flagst._keys import LAYERS, TABLE
from flagst.data.from_anndata import checked_counts, total_counts
from flagst.data.graph import moran_graph
from flagst.data.measured import counts_name, measured_genes
from flagst.data.prediction_record import table_of
from flagst.data.prediction_table import empty_query
from flagst.data.sections import Section
from flagst.data.targets import half_to_target, to_target

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

    from flagst.baselines._base import Baseline

#: Methods of the rows that :func:`flagst.FLAG.front` adds for them.
REPLICATE, CEILING = "replicate", "noise ceiling"
#: Splits of a section's counts.
N_SPLITS = 10
STRUCTURES = (0.0, 0.2, 0.35, 0.5, 0.7, 1.0)
#: What a model is compared with unless something else is asked for: all that see the image.
BASELINES = ("KNN", "Ridge", "IndependentNoise", "ResidualBootstrap", "CorrelatedGaussian", "BalancedGaussian")


def front(
    self,
    adata: "AnnData | SpatialData | None" = None,
    *,
    structures: Sequence[float] = STRUCTURES,
    baselines: Sequence | Mapping | None = None,
    seed: int = 0,
    n_draws: int = 1,
    references: bool = True,
    table_key: str = TABLE,
) -> "pd.DataFrame":
    """Accuracy against structure, over the whole range of ``structure``, on sections with measured expression.

    A prediction with more structure is less accurate spot by spot. One number at one ``structure`` says little, so
    compare methods by the whole curve, with :func:`flagst.pl.front`. Nothing is written to ``adata``.

    Parameters
    ----------
    adata
        Sections with raw counts of all the model's genes. ``None`` takes the registered data, which gives an optimistic
        curve: use sections that the model has not seen.
    structures
        Values from 0 to 1.
    baselines
        Trained models of :mod:`flagst.baselines` to compare with, or name -> trained model. ``None`` trains those that
        see the image on the model's own training data; none of them for a model that was loaded without it. ``()`` for
        no baseline. In a sequence they are named by their class, with a number from the second one on.
    seed
        Of the samples.
    n_draws
        Posterior samples whose scores are averaged. Baselines use the seeds ``seed``, ``seed + 1``, ...
    references
        Also give what measurements reach. ``"replicate"``: the other measured sections of the training data, of the
        same layout, against this one, averaged; NaN for a model that was loaded without its training data.
        ``"noise ceiling"``: the highest value that the noise of this section's counts leaves reachable (its square for
        samples with count noise of their own), see :func:`flagst.metrics.structure_ceiling`; NaN for
        ``target="identity"``. A training section is not compared with itself.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per method, structure and section: ``method``, ``structure``, ``section``, ``pcc``, ``mse``, ``gsc``,
    ``ssc``, ``moran_pred`` and ``moran_true`` (means over genes), as in :func:`flagst.tl.evaluate`. ``structure`` is
    NaN for methods without one. Reference values have GSC and SSC only, as they predict no spot. Rows of another model,
    with another name in ``method``, can be appended with ``pandas.concat``.

    Raises
    ------
    RuntimeError
        The model is not trained.
    ValueError
        No raw counts, genes that were not measured, a structure out of range, or a baseline with other genes or another
        target.

    Examples
    --------
    >>> curve = model.front(adata, structures=(0, 1), baselines=(), references=False)
    >>> curve["method"].unique().tolist(), len(curve)
    (['FLAG'], 6)
    """
    import pandas as pd

    self._require_trained()
    structures = [float(s) for s in structures]
    if not structures or not all(0 <= s <= 1 for s in structures):
        raise ValueError(f"structures must be numbers between 0 and 1; got {structures}.")
    if n_draws < 1:
        raise ValueError(f"n_draws must be at least 1; got {n_draws}.")
    query = self._registered() if adata is None else table_of(adata, table_key)
    target = self.settings_.target
    counts, totals = _counts(query, self.genes_, layer=self.setup_["layer"], target=target)
    measured = to_target(counts, totals, target)
    named = _named(self, baselines)
    for baseline in named.values():
        _check_baseline(baseline, self.genes_, target)
    rows, graphs = [], {}
    samplers = self._samplers(query)
    for spots, sampler in samplers:
        section = sampler.section
        graphs[section.name] = moran_graph(section.coords, section.layout)
        for structure, samples in sampler.whole().along(structures, n_draws, seed):
            score = _scores(samples, measured[spots], graphs[section.name])
            rows.append({"method": "FLAG", "structure": structure, "section": section.name} | score)
    for method, baseline in named.items():
        for structure, samples in _baseline_draws(baseline, query, self.genes_, structures, n_draws, seed):
            for spots, sampler in samplers:
                name = sampler.section.name
                score = _scores(samples[:, spots], measured[spots], graphs[name])
                row = {"method": method, "structure": structure, "section": name}
                rows.append(row | score)
    if references:
        training = [] if self.adata is None else self._sections(self.adata, measured=True)
        for spots, sampler in samplers:
            name, graph = sampler.section.name, graphs[sampler.section.name]
            found = {
                REPLICATE: replicate(training, sampler.section, measured[spots], graph),
                CEILING: noise_ceiling(counts[spots], totals[spots], graph, target=target),
            }
            rows += [{"method": method, "section": name} | score for method, score in found.items()]
    return pd.DataFrame(rows)


def _named(model, baselines: Sequence | Mapping | None) -> dict[str, "Baseline"]:
    """Name of a method -> trained baseline."""
    if isinstance(baselines, Mapping):
        return {str(name): baseline for name, baseline in baselines.items()}
    if baselines is None:
        baselines = [] if model.adata is None else _trained(model)
    named: dict[str, Baseline] = {}
    for baseline in baselines:
        name = kind = type(baseline).__name__
        number = 1
        while name in named:
            number += 1
            name = f"{kind} {number}"
        named[name] = baseline
    return named


def _trained(model) -> list["Baseline"]:
    """:data:`BASELINES`, trained on the model's data as it reads them."""
    from flagst import baselines
    from flagst.baselines._base import BaselineSetup

    keys = ("section_key", "layer", "spatial_key", "image_key")
    setup = BaselineSetup(genes=model.genes_, **{key: model.setup_[key] for key in keys})
    target = model.settings_.target
    made = [getattr(baselines, name)(model.adata, target=target, setup=setup) for name in BASELINES]
    for baseline in made:
        baseline.train()
    return made


def _check_baseline(baseline, genes: list[str], target: str) -> None:
    """Raise a ``ValueError`` for a baseline that cannot be compared."""
    name = type(baseline).__name__
    if not baseline.is_trained_:
        raise ValueError(f"{name} is not trained. Run its train() first.")
    if set(baseline.genes_) != set(genes):
        raise ValueError(f"{name} predicts {len(baseline.genes_)} genes that are not the model's {len(genes)}.")
    if baseline.target != target:
        raise ValueError(f"{name} has target {baseline.target!r}; the model has {target!r}.")


def _counts(query: "AnnData", genes: list[str], *, layer: str | None, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts ``(n_spots, n_genes)`` and totals ``(n_spots,)``; genes without any count are allowed here."""
    if layer is not None:
        require_key(query.layers, layer, where="adata.layers", hint="The model reads raw counts from it.")
    matrix = query.X if layer is None else query.layers[layer]
    if matrix is None:
        raise ValueError("front() scores predictions against measured expression; adata.X is empty.")
    columns, known = query.var_names.get_indexer(genes), measured_genes(query)
    missing = [gene for gene, column in zip(genes, columns, strict=True) if column < 0 or not known[column]]
    if missing:
        raise ValueError(f"front() needs all genes measured; adata lacks {len(missing)}: {missing[:10]}.")
    return checked_counts(matrix, columns, target=target, where=counts_name(layer)), total_counts(query, matrix)


def _baseline_draws(
    baseline, query: "AnnData", genes: list[str], structures: list[float], n_draws: int, seed: int
) -> Iterator[tuple[float, np.ndarray]]:
    """Structure and predictions ``(n_draws, n_spots, n_genes)``; once, with NaN, where there is no dial."""

    def predict(structure: float, number: int) -> "AnnData":
        return baseline.predict(empty_query(query, genes), structure=structure, seed=seed + number)

    if not baseline.has_dial:
        yield np.nan, predict(0.0, 0)[:, genes].layers[LAYERS.draw][None]
        return
    for structure in structures:
        n_used = n_draws if structure > 0 else 1
        yield structure, np.stack([predict(structure, i)[:, genes].layers[LAYERS.draw] for i in range(n_used)])


def _scores(samples: np.ndarray, measured: np.ndarray, graph) -> dict[str, float]:
    """Mean over samples ``(n_draws, n_spots, n_genes)`` of the scores of one section."""
    varies = ~np.isnan(metrics.per_gene_pcc(samples[0], measured))
    scores = [
        {
            "pcc": metrics.pcc(values, measured),
            "mse": metrics.mse(values, measured),
            "gsc": metrics.gsc(values, measured),
            "ssc": metrics.ssc(values, measured, graph),
            "moran_pred": metrics.morans_i(values, graph)[varies].mean(),
        }
        for values in samples
    ]
    mean = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
    return mean | {"moran_true": float(metrics.morans_i(measured, graph)[varies].mean())}


def replicate(training: list[Section], section: Section, measured: np.ndarray, graph) -> dict[str, float]:
    """GSC and SSC of the measured training sections against a section, averaged; NaN where there is none to compare.

    Parameters
    ----------
    training
        Training sections with targets. The section itself is left out, or a part of it, and so are sections of
        another layout: their Moran's I is of other neighbours.
    section
        The section, without a target.
    measured
        Its expression, ``(n_spots, n_genes)``, in the unit of the target.
    graph
        ``(n_spots, n_spots)`` weights, see :func:`flagst.data.graph.moran_graph`.
    """
    others = [s for s in training if s.layout == section.layout and not _same_tissue(s, section, measured)]
    if not others:
        return {"gsc": float("nan"), "ssc": float("nan")}
    gsc = [metrics.replicate_gsc(other.target, measured) for other in others]
    ssc = [
        metrics.replicate_ssc(other.target, measured, moran_graph(other.coords, other.layout), graph)
        for other in others
    ]
    return {"gsc": float(np.mean(gsc)), "ssc": float(np.mean(ssc))}


def _same_tissue(known: Section, section: Section, measured: np.ndarray) -> bool:
    """Whether most spots of equal name have equal expression, or equal positions in one section: one tissue."""
    _, theirs, own = np.intersect1d(known.spot_names, section.spot_names, return_indices=True)
    if not len(own):
        return False
    equal = np.isclose(known.target[theirs], measured[own], rtol=1e-4).all(axis=1).mean()
    placed = np.isclose(known.coords[theirs], section.coords[own]).all(axis=1).mean()
    return bool(equal > 0.5 or (known.name == section.name and placed > 0.5))


def noise_ceiling(counts: np.ndarray, totals: np.ndarray, graph, *, target: str) -> dict[str, float]:
    """Highest GSC and SSC that the noise of the counts leaves reachable; NaN for a target that is no count.

    Parameters
    ----------
    counts, totals
        ``(n_spots, n_genes)`` and ``(n_spots,)`` over all genes.
    graph
        As in :func:`replicate`.
    target
        Of the model. See :func:`flagst.metrics.structure_ceiling`.
    """
    if target == "identity":
        return {"gsc": float("nan"), "ssc": float("nan")}
    found = metrics.structure_ceiling(
        counts,
        graph,
        lambda half, total: half_to_target(half, total, target),
        total_counts=totals if target == "lognorm" else None,
        n_splits=N_SPLITS,
    )
    return {score: found[score].ceiling for score in ("gsc", "ssc")}
