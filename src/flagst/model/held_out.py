"""Held-out tissue: which network has not seen what, and what its draws are like there."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.model.fitting import MIN_SPOTS, mean_order, section_order
from flagst.model.predicting import SectionPredictor
from flagst.regression import ResidualModel

#: Draws of every part: few of them leave it to chance how ordered draws are, many take long.
MIN_DRAWS, MAX_DRAWS = 4, 12
#: Numbers, spots times genes times draws, that more than the fewest draws may take.
DRAWN_VALUES = 2**24


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
    """Variance, covariance of neighbours and spatial order of draws on held-out rows.

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
        self._drawn: list | None = None
        self.graphs = [moran_graph(p.section.coords[r], p.section.layout) for p, r in self.parts]

    def states(self, residual: ResidualModel) -> list[list[tuple[np.ndarray, ...]]]:
        """Draws of every held-out part, see :meth:`SectionPredictor.states`, with noise beside them for this model."""
        if self._drawn is None:
            n_values = sum(predictor.mean.size for predictor, _ in self.parts)
            n_draws = int(np.clip(DRAWN_VALUES // n_values, MIN_DRAWS, MAX_DRAWS))
            self._drawn = [predictor.drawn(n_draws, seed=0) for predictor, _ in self.parts]
        for predictor, _ in self.parts:
            predictor.fitted = replace(predictor.fitted, residual=residual)
        return [predictor.decodable(drawn) for (predictor, _), drawn in zip(self.parts, self._drawn, strict=True)]

    def missing_variance(self, states: list) -> np.ndarray:
        """``(n_latent,)`` what drawn states lack of the clean states' variance over held-out rows, 0 or more."""
        return self._missing(states, lambda values, graph: values.var(axis=0))

    def missing_covariance(self, states: list) -> np.ndarray:
        """``(n_latent,)`` what drawn states lack of the clean states' covariance with their neighbours, 0 or more."""
        return self._missing(states, _covariance)

    def _missing(self, states: list, statistic: Callable[[np.ndarray, sp.csr_matrix], np.ndarray]) -> np.ndarray:
        """What drawn states lack of a statistic of the clean ones over held-out rows, 0 or more."""
        per_part = []
        for drawn, (predictor, rows), graph in zip(states, self.parts, self.graphs, strict=True):
            found = np.mean([statistic(z[rows], graph) for z, *_ in drawn], axis=0)
            clean = self.clean[predictor.section.name][rows, : len(found)]
            per_part.append(statistic(clean, graph) - found)
        return np.clip(self._mean(per_part), 0, None)

    def shared_order(self) -> float:
        """Moran's I to be expected of noise that neighbours share, :func:`flagst.data.noise.shared_noise`."""
        expected = [
            _expected_moran(p.around[rows], graph) for (p, rows), graph in zip(self.parts, self.graphs, strict=True)
        ]
        return float(self._mean(expected))

    def _mean(self, per_part: list) -> np.ndarray:
        """Mean over held-out rows of what was found for every part."""
        return np.average(per_part, axis=0, weights=[len(rows) for _, rows in self.parts])

    def order_gap(self, states: list, residual: ResidualModel) -> float:
        """Mean Moran's I of full draws as they come minus that of the measurement, over genes that vary in it."""
        gaps = []
        for (predictor, rows), graph, drawn in zip(self.parts, self.graphs, states, strict=True):
            target = predictor.section.target[rows]
            varies = np.ptp(target, axis=0) > 0
            measured = metrics.morans_i(target[:, varies], graph).mean()
            mean, restore = predictor.mean[rows], predictor.fitted.stage.scaler.restore
            for values in drawn:
                found = restore(mean + residual.decode(*(part[rows] for part in values)))[:, varies]
                gaps.append(metrics.morans_i(found, graph).mean() - measured)
        return float(np.mean(gaps))


def _covariance(values: np.ndarray, graph: sp.csr_matrix) -> np.ndarray:
    """Covariance of every column with the mean over a spot's neighbours: Moran's I times the variance."""
    return metrics.morans_i(values, graph) * values.var(axis=0)


def _expected_moran(around: np.ndarray, graph: sp.csr_matrix) -> float:
    """Expected numerator over expected denominator of Moran's I, for sums of independent noise over ``around``."""
    row_starts = np.arange(0, around.size + 1, around.shape[1])
    sums = sp.csr_matrix((np.ones(around.size), around.ravel(), row_starts))
    covariance = (sums @ sums.T).tocsr()
    with_mean = np.asarray(covariance.mean(axis=1)).ravel()
    of_mean, edges = with_mean.mean(), graph.tocoo()
    # of values less their mean over the spots that count
    between = (
        np.asarray(covariance[edges.row, edges.col]).ravel() - with_mean[edges.row] - with_mean[edges.col] + of_mean
    )
    own = covariance.diagonal() - 2 * with_mean + of_mean
    return float(edges.data @ between / own.sum())
