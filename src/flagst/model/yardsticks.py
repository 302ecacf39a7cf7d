"""What the measurement itself reaches in gene and spatial structure: other sections, and the section's own counts."""

import numpy as np

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.data.section import Section
from flagst.data.targets import half_to_target

#: Methods of the rows that :func:`flagst.FLAG.front` adds for them.
REPLICATE, CEILING = "replicate", "noise ceiling"
#: Splits of a section's counts.
N_SPLITS = 10


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
    """Whether most spots that two sections share by name are one spot: equal counts, or one place in one section."""
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
