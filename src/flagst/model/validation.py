"""Held-out tissue: which spots, and how good the structure of draws on them is."""

import numpy as np
from lightning.pytorch.callbacks import Callback

from flagst import metrics
from flagst.data.graph import moran_graph
from flagst.data.section import Section
from flagst.model.predicting import SectionPredictor
from flagst.regression import ResidualModel
from flagst.regression.folds import cross_fitting_folds

STRUCTURES = (0.0, 0.3, 0.5, 0.7, 1.0)
PCC_KEPT = 0.9
N_DRAWS = 4
MIN_ROWS = 10


def held_out_rows(sections: list[Section]) -> list[np.ndarray]:
    """Rows held out per section: one section, or a block of each when there are one or two.

    The section is the last one that is not much smaller than the others.
    """
    if len(sections) >= 3:
        typical = np.median([len(s) for s in sections])
        chosen = [s for s in sections if len(s) >= typical / 2][-1]
        return [np.arange(len(s)) if s is chosen else np.arange(0) for s in sections]
    return [np.flatnonzero(cross_fitting_folds(np.zeros(len(s)), s.coords) == 0) for s in sections]


class StructureScore:
    """Mean of GSC and SSC of draws on held-out rows, at a fixed loss of accuracy.

    Draws with less variation keep more accuracy at the same structure, so scores at one structure
    do not compare. Here the structure is the one at which PCC has fallen to 90 % of the mean's.

    Parameters
    ----------
    predictors
        One per section, with the cross-fitted mean.
    rows
        Held-out rows per section.
    """

    def __init__(self, predictors: list[SectionPredictor], rows: list[np.ndarray]):
        self.parts = [
            (p, r)
            for p, r in zip(predictors, rows, strict=True)
            if len(r) >= MIN_ROWS and np.ptp(p.section.target[r], axis=0).any()
        ]
        self.graphs = [moran_graph(p.section.coords[r], p.section.layout) for p, r in self.parts]

    def __call__(self, module) -> float:
        """Score of the weights ``module`` has now; higher is better, NaN when it is not defined."""
        if not self.parts:
            return np.nan
        self.use(module)
        return self.score(self.states(), self.parts[0][0].fitted.residual)

    def use(self, module) -> None:
        """Draw with the weights ``module`` has now."""
        for predictor, _ in self.parts:
            predictor.module = module

    def states(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Draws of every held-out part, see :meth:`SectionPredictor.states`."""
        return [predictor.states(N_DRAWS, seed=0) for predictor, _ in self.parts]

    def draws(self, states: list, residual: ResidualModel, structure: float) -> list[tuple]:
        """Decoded draws on the held-out rows, each with the measurement and the graph."""
        out = []
        for (predictor, rows), graph, drawn in zip(self.parts, self.graphs, states, strict=True):
            restore = predictor.fitted.stage.scaler.restore
            for state, noise in drawn:
                values = restore(predictor.mean + structure * residual.decode(state, noise))[rows]
                out.append((values, predictor.section.target[rows], graph))
        return out

    def score(self, states: list, residual: ResidualModel) -> float:
        """Mean of GSC and SSC where PCC is 90 % of the mean's; NaN when nothing is defined."""
        front = np.array([self._scores(states, residual, structure) for structure in STRUCTURES])
        pcc, structured = front.T
        if not np.isfinite(front).all():
            return np.nan
        # the last step at which PCC is still above; the end of the dial when it never falls so far
        step = np.flatnonzero(pcc >= PCC_KEPT * pcc[0]).max() if pcc[0] > 0 else 0
        if step == len(pcc) - 1:
            return float(structured[-1])
        share = (pcc[step] - PCC_KEPT * pcc[0]) / max(pcc[step] - pcc[step + 1], 1e-12)
        return float(structured[step] + share * (structured[step + 1] - structured[step]))

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

    def __init__(self, score: StructureScore, *, every: int = 10, patience: int = 3):
        self.score, self.every, self.patience = score, every, patience
        self.best, self.best_weights, self._waited = -np.inf, None, 0

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        """Score the weights, log ``structure_validation``, maybe stop."""
        epoch = trainer.current_epoch + 1
        if trainer.sanity_checking or epoch % self.every:
            return
        value = self.score(pl_module.module)
        if not np.isfinite(value):  # a single gene, say, has no structure
            return
        pl_module.log("structure_validation", value)
        if value > self.best:
            weights = {k: v.detach().clone() for k, v in pl_module.module.state_dict().items()}
            self.best_weights = {k: v for k, v in weights.items() if not k.startswith("alignment.")}
            self.best, self._waited = value, 0
            return
        self._waited += 1
        trainer.should_stop = trainer.should_stop or self._waited >= self.patience
