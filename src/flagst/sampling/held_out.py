"""Held-out tissue: which network has not seen which spots, and what its samples are like there."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.data.sections import Section
from flagst.regression import LatentBasis
from flagst.sampling.fit import MIN_MORAN_SPOTS, Fitted, TrainingData, mean_moran, section_moran
from flagst.sampling.sampler import SectionSampler

if TYPE_CHECKING:
    from flagst.module import FlagModule
    from flagst.settings import Settings

#: Samples of every part: few of them leave Moran's I of samples to chance, many take long.
MIN_SAMPLES, MAX_SAMPLES = 4, 12
#: Above so many values, spots times genes times samples, only the fewest samples are made.
SAMPLED_VALUES = 2**24


def held_out_samplers(
    sections: list[Section],
    data: TrainingData,
    folds: list[np.ndarray],
    fitted: Fitted,
    settings: "Settings",
    module: "FlagModule",
) -> list[tuple[SectionSampler, np.ndarray]]:
    """For every section and fold, a sampler of the network that has not seen the fold, and the rows of the fold.

    Its mean is the cross-fitted one, and the Moran's I that samples are matched to is that of all tissue but the fold.

    Parameters
    ----------
    sections, data, folds
        Training sections, what the denoiser was trained on, and the fold of every spot, see
        :func:`flagst.regression.network_folds`.
    fitted, settings, module
        Parts of the model.
    """
    parts = []
    for number, (section, fold) in enumerate(zip(sections, folds, strict=True)):
        for k in np.unique(fold):
            rest = section_moran(section, np.flatnonzero(fold != k))
            outside = [rest if i == number else moran for i, moran in enumerate(data.moran)]
            of_fold = {"mean": data.mean[number], "moran": mean_moran(sections, outside), "networks": (int(k),)}
            parts.append((SectionSampler(section, fitted, settings, module, **of_fold), np.flatnonzero(fold == k)))
    return parts


class HeldOutTissue:
    """Variance, covariance of neighbours and Moran's I of samples on held-out rows.

    Parameters
    ----------
    parts
        From :func:`held_out_samplers`.
    clean
        Per section name its clean states ``(n_spots, n_latent)``, for their variance over held-out rows.
    """

    def __init__(self, parts: list[tuple[SectionSampler, np.ndarray]], clean: dict[str, np.ndarray]):
        self.clean = clean
        enough = [(s, r) for s, r in parts if len(r) >= MIN_MORAN_SPOTS]
        self.parts = [(s, r) for s, r in enough if np.ptp(s.section.target[r], axis=0).any()]
        self.graphs = [moran_graph(s.section.coords[r], s.section.layout) for s, r in self.parts]
        self.n_samples = 0
        if self.parts:
            n_values = sum(len(s.section) * s.n_genes for s, _ in self.parts)
            self.n_samples = int(np.clip(SAMPLED_VALUES // n_values, MIN_SAMPLES, MAX_SAMPLES))

    def sampled(self, latent: LatentBasis) -> list[list[tuple[np.ndarray, ...]]]:
        """State, gene noise and shared noise of every held-out part and sample, on its held-out rows."""
        return [
            [
                tuple(values[rows] for values in sampler.decoder_inputs(f"0/{i}", sampler.everything, latent=latent))
                for i in range(self.n_samples)
            ]
            for sampler, rows in self.parts
        ]

    def missing_variance(self, sampled: list) -> np.ndarray:
        """``(n_latent,)`` what sampled states lack of the clean states' variance over held-out rows, 0 or more."""
        return self._missing(sampled, lambda values, graph: values.var(axis=0))

    def missing_covariance(self, sampled: list) -> np.ndarray:
        """``(n_latent,)`` what sampled states lack of the clean states' covariance with neighbours, 0 or more."""
        return self._missing(sampled, _covariance)

    def _missing(self, sampled: list, statistic: Callable[[np.ndarray, sp.csr_matrix], np.ndarray]) -> np.ndarray:
        """What sampled states lack of a statistic of the clean ones over held-out rows, 0 or more."""
        per_part = []
        for of_part, (sampler, rows), graph in zip(sampled, self.parts, self.graphs, strict=True):
            found = np.mean([statistic(state, graph) for state, *_ in of_part], axis=0)
            clean = self.clean[sampler.section.name][rows, : len(found)]
            per_part.append(statistic(clean, graph) - found)
        return np.clip(self._mean(per_part), 0, None)

    def shared_moran(self) -> float:
        """Moran's I to be expected of noise that neighbours share, :func:`flagst.sampling.spot_noise.shared_noise`."""
        expected = [
            _expected_moran(sampler.section.around(sampler.neighbours.shape[1], rows), graph)
            for (sampler, rows), graph in zip(self.parts, self.graphs, strict=True)
        ]
        return float(self._mean(expected))

    def _mean(self, per_part: list) -> np.ndarray:
        """Mean over held-out rows of what was found for every part."""
        return np.average(per_part, axis=0, weights=[len(rows) for _, rows in self.parts])

    def moran_gap(self, sampled: list, latent: LatentBasis) -> float:
        """Mean Moran's I of unmodified samples minus that of the measurement, over genes that vary in it."""
        gaps = []
        for (sampler, rows), graph, of_part in zip(self.parts, self.graphs, sampled, strict=True):
            target = sampler.section.target[rows]
            varies = np.ptp(target, axis=0) > 0
            measured = metrics.morans_i(target[:, varies], graph).mean()
            mean, restore = sampler.mean_of(rows), sampler.fitted.stage.scaler.restore
            for values in of_part:
                found = restore(mean + latent.decode(*values))[:, varies]
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
