"""Predictions of genes that were not in the training panel, from their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from flagst.regression import GeneTransfer, unit_vectors
from flagst.sampling.fit import Fitted, TrainingData
from flagst.sampling.sampler import SectionPart
from flagst.sampling.spot_noise import spot_noise
from flagst.sampling.spot_samples import SpotSamples

if TYPE_CHECKING:
    from flagst.settings import Settings

#: Fewest genes of the panel with a vector.
MIN_KNOWN = 3


@dataclass(frozen=True)
class UnmeasuredGenes:
    """Genes that have a vector and were not used for training; saved with the model.

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
    adata: AnnData, panel: list[str], fitted: Fitted, data: TrainingData, settings: "Settings"
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


class GeneSamples(SpotSamples):
    """Samples of some spots for chosen genes, some of them not in the panel.

    Genes of the panel are those of the model itself. The others are weighted sums of the panel's mean and residual,
    plus independent noise, as much as brings their variance over the training spots to that of the target.

    Parameters
    ----------
    part
        Of the panel; with a regression mean.
    panel
        Its genes.
    genes
        Genes to predict.
    unmeasured
        Where those that are not in the panel are found; ``None`` when all are.
    """

    def __init__(self, part: SectionPart, panel: list[str], genes: Sequence[str], unmeasured: UnmeasuredGenes | None):
        self.part, self.unmeasured = part, unmeasured
        place = {gene: i for i, gene in enumerate(panel)}
        taken = np.array([place.get(gene, -1) for gene in genes])
        self.new, self.known = np.flatnonzero(taken < 0), np.flatnonzero(taken >= 0)
        self.taken = taken[self.known]
        self.level, self.sd = np.zeros(len(genes)), np.ones(len(genes))
        self.level[self.known], self.sd[self.known] = part.scaler.mean[self.taken], part.scaler.sd[self.taken]
        if len(self.new):
            place = {gene: i for i, gene in enumerate(unmeasured.names)}
            self.columns = np.array([place[genes[i]] for i in self.new])
            found = unmeasured.transfer.weights(unmeasured.vectors[self.columns])
            self.weights, self.noise_sd, self.level[self.new], self.sd[self.new] = found
        self.mean = self._genes(part.mean)

    def restore(self, standardised: np.ndarray) -> np.ndarray:
        """As :meth:`SpotSamples.restore`."""
        return np.clip(standardised * self.sd + self.level, 0, None)

    def residuals(self, n_samples: int, seed: int | str) -> list[np.ndarray]:
        """As :meth:`SpotSamples.residuals`."""
        return [self._with_noise(r, f"{seed}/{i}") for i, r in enumerate(self.part.residuals(n_samples, seed))]

    def _with_noise(self, panel: np.ndarray, seed: str) -> np.ndarray:
        out = self._genes(panel)
        if len(self.new):
            # as wide as all genes that could be asked for, so that a gene's noise is its own
            spots, width = (self.part.section_name, self.part.spot_names), len(self.unmeasured.names)
            [noise] = spot_noise(*spots, seed=f"{seed}/unmeasured", widths=(width,))
            out[:, self.new] += noise[:, self.columns] * self.noise_sd
        return out

    def _genes(self, panel: np.ndarray) -> np.ndarray:
        """Standardised values of the panel to those of the genes."""
        out = np.empty((len(panel), len(self.level)))
        out[:, self.known] = panel[:, self.taken]
        if len(self.new):
            out[:, self.new] = panel[:, self.unmeasured.transfer.known] @ self.weights.T
        return out
