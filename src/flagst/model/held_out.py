"""Held-out tissue: which network has not seen what, and what its draws are like there."""

import numpy as np

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.model.predicting import MIN_SPOTS, SectionPredictor
from flagst.regression import ResidualModel

N_DRAWS = 4


def held_out_parts(
    predictors: list[SectionPredictor], folds: list[np.ndarray]
) -> list[tuple[SectionPredictor, np.ndarray]]:
    """For every section and fold, the predictor that has not seen the fold, and its rows."""
    parts = []
    for predictor, fold in zip(predictors, folds, strict=True):
        parts += [(predictor.without(int(k)), np.flatnonzero(fold == k)) for k in np.unique(fold)]
    return parts


class HeldOutTissue:
    """Variance and spatial order of draws on held-out rows.

    Parameters
    ----------
    parts
        From :func:`held_out_parts`, with the cross-fitted means.
    """

    def __init__(self, parts: list[tuple[SectionPredictor, np.ndarray]]):
        self.parts = [(p, r) for p, r in parts if len(r) >= MIN_SPOTS and np.ptp(p.section.target[r], axis=0).any()]
        self.graphs = [moran_graph(p.section.coords[r], p.section.layout) for p, r in self.parts]

    def states(self) -> list[list[tuple[np.ndarray, ...]]]:
        """Draws of every held-out part, see :meth:`SectionPredictor.states`."""
        return [predictor.states(N_DRAWS, seed=0) for predictor, _ in self.parts]

    def variance(self, states: list) -> np.ndarray:
        """``(n_latent,)`` mean over draws of the variance of states over held-out rows."""
        per_part = [
            np.mean([z[rows].var(axis=0) for z, *_ in drawn], axis=0)
            for drawn, (_, rows) in zip(states, self.parts, strict=True)
        ]
        return np.average(per_part, axis=0, weights=[len(rows) for _, rows in self.parts])

    def order_gap(self, states: list, residual: ResidualModel) -> float:
        """Mean Moran's I of draws as they come minus that of the measurement."""
        gaps = []
        for (predictor, rows), graph, drawn in zip(self.parts, self.graphs, states, strict=True):
            measured = metrics.morans_i(predictor.section.target[rows], graph).mean()
            for values in drawn:
                moved = predictor.mean[rows] + residual.decode(*(part[rows] for part in values))
                restored = predictor.fitted.stage.scaler.restore(moved)
                gaps.append(metrics.morans_i(restored, graph).mean() - measured)
        return float(np.mean(gaps))
