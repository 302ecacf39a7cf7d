"""Ridge regression on FLAG's own features."""

import numpy as np

from flagst.baselines._base import Baseline
from flagst.data.sections import Section, stack_targets
from flagst.metrics import per_gene_pcc
from flagst.regression import RegressionStage


class Ridge(Baseline):
    """Ridge regression on the image features of a spot and of its surroundings.

    Scaling and context features are FLAG's own. The penalty is chosen by the squared error on sections that were left
    out, or on spatial blocks where there are fewer than three sections. ``structure`` and ``seed`` are ignored.

    Parameters
    ----------
    adata
        Training table with raw counts, ``obs["section"]``, ``obsm["spatial"]`` ``(n_spots, 2)`` x then y in
        full-resolution pixels and ``obsm["X_image"]`` ``(n_spots, d_image)``, or a SpatialData whose ``"table"`` it is.
        :meth:`setup_anndata` says where else they are.
    target
        ``"lognorm"`` (log1p of counts per 10,000), ``"log2"`` (log2(count + 1)) or ``"identity"``.
    setup
        What a FLAG model has registered, used by :meth:`flagst.FLAG.front`; otherwise leave it out.

    Raises
    ------
    KeyError
        A slot of the table is missing; the message names the call that makes it.
    TypeError
        ``adata`` is neither an AnnData nor a SpatialData.
    ValueError
        An unknown target, contents that cannot be right, fewer than 50 spots, or counts that are no whole numbers for
        another target than ``"identity"``.

    Examples
    --------
    >>> ridge = flagst.baselines.Ridge(adata, target="log2")
    >>> ridge.train()
    >>> ridge.predict(adata.copy()).layers["flagst"].shape == adata.shape
    True
    """

    def _fit(self, sections: list[Section]) -> None:
        self._fit_mean(sections)

    def _fit_mean(self, sections: list[Section]) -> np.ndarray:
        """Fit, and return the cross-fitted residual ``(n_spots, n_genes)`` in standardised units."""
        self.stage_, cross_fitted = RegressionStage.fit(
            [s.image for s in sections],
            [s.neighbours for s in sections],
            [s.coords for s in sections],
            [s.target for s in sections],
            regression="ridge",
        )
        expression = self.stage_.scaler.standardise(stack_targets(sections))
        self.train_pcc_ = np.nan_to_num(per_gene_pcc(cross_fitted, expression))
        return expression - cross_fitted

    def _predict_section(self, section: Section, *, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        values = self.stage_.scaler.restore(self.stage_.predict(section.image, section.neighbours))
        return values, values
