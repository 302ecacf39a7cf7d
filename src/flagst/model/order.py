"""``structure="auto"``: how much of a draw gives a prediction the order of the training sections."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.data.section import Section
from flagst.model.fitting import MIN_SPOTS
from flagst.model.predicting import SectionPredictor
from flagst.model.slide import SlidePredictor
from flagst.regression import TargetScaler, neighbour_moran

logger = logging.getLogger(__name__)

#: Value of ``structure`` that asks for the choice.
AUTO = "auto"
#: Structures tried, smallest first.
STRUCTURES = tuple(float(s) for s in np.arange(21) / 20)
#: Three sections say little about how much sections differ.
MIN_TOLERANCE = 0.02
#: Genes, evenly spaced over the panel, that are looked at; all pairs of more would take too long.
MAX_GENES = 500


@dataclass(frozen=True)
class TrainingOrder:
    """Spatial order and strength of correlation of the measured training sections.

    Attributes
    ----------
    moran, moran_tolerance
        Mean over genes of Moran's I, by spot layout (that of one layout says nothing about another): average over
        the sections of a layout, and standard deviation over them, at least 0.02.
    correlation, correlation_tolerance
        The same of the mean over pairs of genes of the absolute Pearson correlation, over all sections.
    """

    moran: dict[str, float]
    correlation: float
    moran_tolerance: dict[str, float]
    correlation_tolerance: float

    @classmethod
    def fit(cls, sections: list[Section]) -> "TrainingOrder | None":
        """From training sections with targets; ``None`` when all are too small."""
        by_layout: dict[str, list[float]] = {}
        strengths = []
        for section in sections:
            if len(section) >= MIN_SPOTS:
                moran, strength = _order(section.target, section)
                by_layout.setdefault(section.layout, []).append(moran)
                strengths.append(strength)
        if not strengths:
            return None
        return cls(
            moran={layout: float(np.mean(values)) for layout, values in by_layout.items()},
            correlation=float(np.mean(strengths)),
            moran_tolerance={layout: _tolerance(values) for layout, values in by_layout.items()},
            correlation_tolerance=_tolerance(strengths),
        )

    def choose(self, predictors: list[SectionPredictor | SlidePredictor], seed: int) -> float:
        """Smallest structure at which the prediction is no more ordered than training sections are.

        A mean is smoother than tissue and its genes are more alike; both come down as the structure grows.
        The choice is the first of 0, 0.05, 0.1, ..., 1 at which the prediction's mean Moran's I and mean absolute
        correlation, averaged over the query's sections, have come down to those of the training sections (Moran's
        I: of the same layout) plus the tolerance; 1 when they never do. It looks at the draw that is going to be
        written and at nothing that was measured in the query; of a section that is predicted in windows, at 5,000 of
        its spots.

        Parameters
        ----------
        predictors
            One per section of the query.
        seed
            Of the draw.

        Raises
        ------
        ValueError
            No section has at least 10 spots.
        """
        predictors = [p for p in predictors if len(p.section) >= MIN_SPOTS]
        if not predictors:
            raise ValueError(f"structure={AUTO!r} needs a section of at least {MIN_SPOTS} spots. Pass a number.")
        layouts = [p.section.layout for p in predictors]
        compared = [row for row, layout in enumerate(layouts) if layout in self.moran]
        if len(compared) < len(layouts):
            logger.warning(
                "structure=%r compares Moran's I with that of training sections of the same layout; there are none of "
                "%s.", AUTO, sorted(set(layouts) - set(self.moran))
            )  # fmt: skip
        usual, tolerance = (
            np.array([values[layouts[row]] for row in compared]) for values in (self.moran, self.moran_tolerance)
        )
        for structure, *found in zip(STRUCTURES, *(_orders(p, seed) for p in predictors), strict=True):  # noqa: B007
            moran, correlation = np.array(found).T
            moran, correlation = moran[compared], correlation.mean()
            too_smooth = compared and moran.mean() > (usual + tolerance).mean()
            if not too_smooth and correlation <= self.correlation + self.correlation_tolerance:
                break
        order = f"Moran's I {moran.mean():.3f} (training {usual.mean():.3f}), " if compared else ""
        logger.info(
            "structure=%.2f: %sabsolute correlation %.3f (training %.3f).",
            structure, order, correlation, self.correlation,
        )  # fmt: skip
        return structure


def _tolerance(values: list[float]) -> float:
    """Standard deviation over sections, at least :data:`MIN_TOLERANCE`."""
    return max(float(np.std(values, ddof=1)), MIN_TOLERANCE) if len(values) > 1 else MIN_TOLERANCE


def _orders(predictor: SectionPredictor | SlidePredictor, seed: int) -> Iterator[tuple[float, float]]:
    """:func:`_order` of one section at every structure."""
    if not isinstance(predictor, SlidePredictor):
        for _, drawn in predictor.along(STRUCTURES, 1, seed):
            yield _order(drawn[0], predictor.section)
        return
    scaler = predictor.fitted.stage.scaler
    genes = _genes_looked_at(predictor.n_genes)
    mean, residual, neighbours, rows = predictor.sampled(genes, f"{seed}/0")
    some = TargetScaler(scaler.mean[genes], scaler.sd[genes])
    for structure in STRUCTURES:
        values = some.restore(mean + structure * residual).astype(np.float32)
        yield float(neighbour_moran(values, neighbours, rows).mean()), _strength(values[rows])


def _order(values: np.ndarray, section: Section) -> tuple[float, float]:
    """Mean Moran's I and mean absolute correlation of ``(n_spots, n_genes)``; 0 for genes that do not vary."""
    looked_at = values[:, _genes_looked_at(values.shape[1])]
    moran = metrics.morans_i(looked_at, moran_graph(section.coords, section.layout)).mean()
    return float(moran), _strength(looked_at)


def _strength(values: np.ndarray) -> float:
    """Mean absolute correlation of all pairs of columns; 0 where there are none."""
    pairs = np.triu_indices(values.shape[1], 1)
    strength = np.abs(metrics.gene_correlation(values)[pairs])
    return float(strength.mean()) if strength.size else 0.0


def _genes_looked_at(n_genes: int) -> np.ndarray:
    return np.linspace(0, n_genes - 1, min(n_genes, MAX_GENES)).astype(int)
