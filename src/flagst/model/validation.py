"""Held-out tissue: which spots, and how good the structure of draws on them is."""

import logging

import numpy as np
from lightning.pytorch.callbacks import Callback

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.data.section import Section
from flagst.model.predicting import SectionPredictor
from flagst.regression.folds import cross_fitting_folds

logger = logging.getLogger(__name__)

STRUCTURE = 0.5
N_DRAWS = 4


def held_out_rows(sections: list[Section]) -> list[np.ndarray]:
    """Rows held out per section: the last section, or a block of each when there are one or two."""
    if len(sections) >= 3:
        return [np.arange(len(s)) if s is sections[-1] else np.arange(0) for s in sections]
    logger.warning(
        "With %d section(s), validation and cross-fitting use spatial blocks: neighbouring tissue is on both "
        "sides, and the numbers are optimistic for a new section.",
        len(sections),
    )
    return [np.flatnonzero(cross_fitting_folds(np.zeros(len(s)), s.coords) == 0) for s in sections]


class StructureScore:
    """Mean of GSC and SSC of draws on held-out rows, at structure 0.5.

    Parameters
    ----------
    predictors
        One per section, with the cross-fitted mean.
    rows
        Held-out rows per section.
    """

    def __init__(self, predictors: list[SectionPredictor], rows: list[np.ndarray]):
        self.parts = [(p, r) for p, r in zip(predictors, rows, strict=True) if len(r)]
        self.graphs = [moran_graph(p.section.coords[r], "other") for p, r in self.parts]

    def __call__(self, module) -> float:
        """Score of the weights ``module`` has now; higher is better."""
        scores = []
        for (predictor, rows), graph in zip(self.parts, self.graphs, strict=True):
            predictor.module = module
            measured = predictor.section.target[rows]
            for drawn in predictor.moved(STRUCTURE, N_DRAWS, seed=0):
                drawn = drawn[rows]
                scores.append((metrics.gsc(drawn, measured) + metrics.ssc(drawn, measured, graph)) / 2)
        return float(np.mean(scores))


class StructureStopping(Callback):
    """Stop when the structure of held-out tissue has not improved for a while.

    Listed before weight averaging, so that it sees the averaged weights.

    Parameters
    ----------
    score
        Called with the module every ``every`` epochs.
    every, patience
        In epochs and in calls.
    """

    def __init__(self, score: StructureScore, *, every: int = 5, patience: int = 5):
        self.score, self.every, self.patience = score, every, patience
        self.best, self.best_epoch, self._waited = -np.inf, 1, 0

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        """Score the weights, log ``structure_validation``, maybe stop."""
        epoch = trainer.current_epoch + 1
        if trainer.sanity_checking or epoch % self.every:
            return
        value = self.score(pl_module.module)
        pl_module.log("structure_validation", value)
        if value > self.best:
            self.best, self.best_epoch, self._waited = value, epoch, 0
            return
        self._waited += 1
        trainer.should_stop = trainer.should_stop or self._waited >= self.patience
