"""Held-out tissue: which network has not seen what, and what its draws are like there."""

import numpy as np

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.model.fitting import MIN_SPOTS, mean_order, section_order
from flagst.model.predicting import SectionPredictor
from flagst.regression import ResidualModel

N_DRAWS = 4


def held_out_parts(
    predictors: list[SectionPredictor], folds: list[np.ndarray], orders: list[np.ndarray | None]
) -> list[tuple[SectionPredictor, np.ndarray]]:
    """For every section and fold, the predictor that has not seen the fold, and its rows.

    ``orders``, per section from :func:`flagst.model.fitting.section_order`: a predictor's own is that of all tissue
    but the fold.
    """
    parts, sections = [], [predictor.section for predictor in predictors]
    for number, (predictor, fold) in enumerate(zip(predictors, folds, strict=True)):
        for k in np.unique(fold):
            own = predictor.without(int(k))
            if own.order is not None:
                rest = section_order(own.section, np.flatnonzero(fold != k))
                outside = [rest if i == number else order for i, order in enumerate(orders)]
                own.order = mean_order(sections, outside).get(own.section.layout)
            parts.append((own, np.flatnonzero(fold == k)))
    return parts


class HeldOutTissue:
    """Variance and spatial order of draws on held-out rows.

    Parameters
    ----------
    parts
        From :func:`held_out_parts`, with the cross-fitted means.
    clean
        Per section name its clean states ``(n_spots, n_latent)``, for what their variance is over held-out rows.
    """

    def __init__(self, parts: list[tuple[SectionPredictor, np.ndarray]], clean: dict[str, np.ndarray]):
        self.clean = clean
        self.parts = [(p, r) for p, r in parts if len(r) >= MIN_SPOTS and np.ptp(p.section.target[r], axis=0).any()]
        self.graphs = [moran_graph(p.section.coords[r], p.section.layout) for p, r in self.parts]

    def states(self) -> list[list[tuple[np.ndarray, ...]]]:
        """Draws of every held-out part, see :meth:`SectionPredictor.states`."""
        return [predictor.states(N_DRAWS, seed=0) for predictor, _ in self.parts]

    def missing_variance(self, states: list) -> np.ndarray:
        """``(n_latent,)`` what drawn states lack of the clean states' variance over held-out rows, 0 or more."""
        per_part = []
        for drawn, (predictor, rows) in zip(states, self.parts, strict=True):
            found = np.mean([z[rows].var(axis=0) for z, *_ in drawn], axis=0)
            per_part.append(self.clean[predictor.section.name][rows, : len(found)].var(axis=0) - found)
        return np.clip(np.average(per_part, axis=0, weights=[len(rows) for _, rows in self.parts]), 0, None)

    def order_gap(self, states: list, residual: ResidualModel) -> float:
        """Mean Moran's I of full draws minus that of the measurement, over genes that vary in it."""
        gaps = []
        for (predictor, rows), graph, drawn in zip(self.parts, self.graphs, states, strict=True):
            target = predictor.section.target[rows]
            varies = np.ptp(target, axis=0) > 0
            measured = metrics.morans_i(target[:, varies], graph).mean()
            mean, restore = predictor.mean[rows], predictor.fitted.stage.scaler.restore
            neighbours = graph.indices.reshape(len(rows), -1)  # every row has as many
            for values in drawn:
                moved = residual.decode(*(part[rows] for part in values))
                found = restore(mean + predictor.matched(mean, moved, neighbours))[:, varies]
                gaps.append(metrics.morans_i(found, graph).mean() - measured)
        return float(np.mean(gaps))
