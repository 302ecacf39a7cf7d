"""Predictions of genes that were not in the training panel, from their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from flagst.data.noise import spot_noise
from flagst.model.aligning import unit_vectors
from flagst.model.fitting import Fitted, TrainingData
from flagst.model.presets import Settings
from flagst.model.spots import SpotPredictor
from flagst.regression import GeneTransfer

#: Genes of the panel with a vector that it takes to say anything of others.
MIN_KNOWN = 3


@dataclass(frozen=True)
class UnmeasuredGenes:
    """Genes that have a vector and no part in training; saved with the model.

    Attributes
    ----------
    names
        Their names.
    vectors
        ``(n_names, d)`` float32, of length 1.
    transfer
        From the panel to them.
    """

    names: list[str]
    vectors: np.ndarray
    transfer: GeneTransfer


def fit_unmeasured(
    adata: AnnData, panel: list[str], fitted: Fitted, data: TrainingData, settings: Settings
) -> UnmeasuredGenes | None:
    """Genes of a table that have a vector and are not in the panel; ``None`` where there are none.

    Only with gene vectors out of ``adata.varm`` and a regression mean.
    """
    if settings.gfm not in adata.varm or settings.regression is None:
        return None
    vectors, usable = unit_vectors(np.asarray(adata.varm[settings.gfm], dtype=np.float32))
    others = usable & ~adata.var_names.isin(panel)
    rows = adata.var_names.get_indexer(panel)
    if not others.any() or usable[rows].sum() < MIN_KNOWN:
        return None
    scaler = fitted.stage.scaler
    mean, expression = np.concatenate(data.mean), np.concatenate(data.expression)
    transfer = GeneTransfer.fit(vectors[rows], mean, expression, scaler.mean, scaler.sd)
    return UnmeasuredGenes([str(gene) for gene in adata.var_names[others]], vectors[others], transfer)


class GenePredictor:
    """Draws of some spots for chosen genes, some of them not in the panel; what predictions are made from.

    Genes of the panel are those of the model itself. The others are weighted sums of the panel's mean and residual,
    plus independent noise, as much as brings their variance over the training spots to that of the target.

    Parameters
    ----------
    predictor
        Of the panel; with a regression mean.
    panel
        Its genes.
    genes
        Genes to predict.
    unmeasured
        Where those that are not in the panel are found; ``None`` when all are.
    """

    def __init__(
        self, predictor: SpotPredictor, panel: list[str], genes: Sequence[str], unmeasured: UnmeasuredGenes | None
    ):
        self.predictor = predictor
        place = {gene: i for i, gene in enumerate(panel)}
        self.taken = np.array([place.get(gene, -1) for gene in genes])
        self.new = np.flatnonzero(self.taken < 0)
        self.taken_to = np.flatnonzero(self.taken >= 0)
        scaler = predictor.fitted.stage.scaler
        self.level, self.spread = np.zeros(len(genes)), np.ones(len(genes))
        own = self.taken[self.taken_to]
        self.level[self.taken_to], self.spread[self.taken_to] = scaler.mean[own], scaler.sd[own]
        self.unmeasured = unmeasured
        if len(self.new):
            place = {gene: i for i, gene in enumerate(unmeasured.names)}
            self.columns = np.array([place[genes[i]] for i in self.new])
            found = unmeasured.transfer.weights(unmeasured.vectors[self.columns])
            self.weights, self.noise, self.level[self.new], self.spread[self.new] = found
        self.mean = self._genes(predictor.mean)

    def predict(self, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`SpotPredictor.predict`."""
        mean = self._restore(self.mean)
        return (self._moved(structure, 1, seed)[0] if structure > 0 else mean), mean

    def draws(self, n_draws: int, seed: int | str) -> np.ndarray:
        """As :meth:`SpotPredictor.draws`."""
        return self._moved(1.0, n_draws, seed)

    def _moved(self, structure: float, n_draws: int, seed: int | str) -> np.ndarray:
        name, spots, out = self.predictor.section_name, self.predictor.spot_names, []
        for i, residual in enumerate(self.predictor.residuals(n_draws, seed)):
            moved = self._genes(residual)
            if len(self.new):
                # as wide as all genes that could be asked for, so that a gene's noise is its own
                width = (len(self.unmeasured.names),)
                noise = spot_noise(name, spots, seed=f"{seed}/{i}/unmeasured", widths=width)[0]
                moved[:, self.new] += noise[:, self.columns] * self.noise
            out.append(self._restore(self.mean + structure * moved))
        return np.stack(out)

    def _genes(self, panel: np.ndarray) -> np.ndarray:
        """Standardised values of the panel to those of the genes."""
        out = np.empty((len(panel), len(self.taken)))
        out[:, self.taken_to] = panel[:, self.taken[self.taken_to]]
        if len(self.new):
            out[:, self.new] = panel[:, self.unmeasured.transfer.known] @ self.weights.T
        return out

    def _restore(self, standardised: np.ndarray) -> np.ndarray:
        return np.clip(standardised * self.spread + self.level, 0, None).astype(np.float32)
