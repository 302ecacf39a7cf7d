"""Held-out tissue: which network has not seen what, and how good the structure of its draws there is."""

import numpy as np

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.model.predicting import SectionPredictor
from flagst.regression import ResidualModel

STRUCTURES = (0.0, 0.3, 0.5, 0.7, 1.0)
PCC_KEPT = 0.9
N_DRAWS = 4
MIN_ROWS = 10


def held_out_parts(
    predictors: list[SectionPredictor], folds: list[np.ndarray]
) -> list[tuple[SectionPredictor, np.ndarray]]:
    """For every section and fold, the predictor that has not seen the fold, and its rows."""
    parts = []
    for predictor, fold in zip(predictors, folds, strict=True):
        parts += [(predictor.without(int(k)), np.flatnonzero(fold == k)) for k in np.unique(fold)]
    return parts


class StructureScore:
    """Accuracy, structure and spatial order of draws on held-out rows.

    Parameters
    ----------
    parts
        From :func:`held_out_parts`, with the cross-fitted means.
    """

    def __init__(self, parts: list[tuple[SectionPredictor, np.ndarray]]):
        self.parts = [(p, r) for p, r in parts if len(r) >= MIN_ROWS and np.ptp(p.section.target[r], axis=0).any()]
        self.graphs = [moran_graph(p.section.coords[r], p.section.layout) for p, r in self.parts]

    def states(self) -> list[list[tuple[np.ndarray, ...]]]:
        """Draws of every held-out part, see :meth:`SectionPredictor.states`."""
        return [predictor.states(N_DRAWS, seed=0) for predictor, _ in self.parts]

    def draws(self, states: list, residual: ResidualModel, structure: float) -> list[tuple]:
        """Decoded draws on the held-out rows, each with the measurement and the graph."""
        out = []
        for (predictor, rows), graph, drawn in zip(self.parts, self.graphs, states, strict=True):
            restore = predictor.fitted.stage.scaler.restore
            for values in drawn:
                drawn_rows = residual.decode(*(part[rows] for part in values))
                values = restore(predictor.mean[rows] + structure * drawn_rows)
                out.append((values, predictor.section.target[rows], graph))
        return out

    def front(self, states: list, residual: ResidualModel) -> np.ndarray:
        """PCC, and the mean of GSC and SSC, at every structure of the dial: ``(n_structures, 2)``."""
        return np.array([self._scores(states, residual, structure) for structure in STRUCTURES])

    def variance(self, states: list) -> np.ndarray:
        """``(n_latent,)`` mean over draws of the variance of states over held-out rows."""
        per_part = [
            np.mean([z[rows].var(axis=0) for z, *_ in drawn], axis=0)
            for drawn, (_, rows) in zip(states, self.parts, strict=True)
        ]
        return np.average(per_part, axis=0, weights=[len(rows) for _, rows in self.parts])

    def _scores(self, states: list, residual: ResidualModel, structure: float) -> tuple[float, float]:
        """PCC, and the mean of GSC and SSC, at one structure."""
        drawn = self.draws(states if structure else [part[:1] for part in states], residual, structure)
        pcc = [metrics.pcc(d, measured) for d, measured, _ in drawn]
        structured = [(metrics.gsc(d, m) + metrics.ssc(d, m, graph)) / 2 for d, m, graph in drawn]
        return float(np.mean(pcc)), float(np.mean(structured))

    def order_gap(self, states: list, residual: ResidualModel) -> float:
        """Mean Moran's I of full draws minus that of the measurement."""
        gaps = [
            metrics.morans_i(drawn, graph).mean() - metrics.morans_i(measured, graph).mean()
            for drawn, measured, graph in self.draws(states, residual, 1.0)
        ]
        return float(np.mean(gaps))


def at_equal_accuracy(front: np.ndarray) -> float:
    """Mean of GSC and SSC where PCC has fallen to 90 % of the mean's; NaN when the front is not defined.

    Draws with less variation keep more accuracy at the same structure, so scores at one structure
    do not compare.

    Parameters
    ----------
    front
        From :meth:`StructureScore.front`.
    """
    if not np.isfinite(front).all():
        return np.nan
    pcc, structured = front.T
    # the last step at which PCC is still above; the end of the dial when it never falls so far
    step = np.flatnonzero(pcc >= PCC_KEPT * pcc[0]).max() if pcc[0] > 0 else 0
    if step == len(pcc) - 1:
        return float(structured[-1])
    share = (pcc[step] - PCC_KEPT * pcc[0]) / max(pcc[step] - pcc[step + 1], 1e-12)
    return float(structured[step] + share * (structured[step + 1] - structured[step]))
