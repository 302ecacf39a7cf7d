"""Ridge regression on FLAG's own features."""

import numpy as np

from flagst.baselines._base import Baseline
from flagst.data.sections import Section, stack_targets
from flagst.metrics import per_gene_pcc
from flagst.regression import RegressionStage


class Ridge(Baseline):
    """Ridge regression from a spot's image features and those of its surroundings.

    FLAG's own scaling and context features. The penalty is chosen by squared error on left-out sections
    (spatial blocks when there are fewer than three). ``structure`` and ``seed`` are ignored: there is
    nothing to draw.

    Parameters
    ----------
    adata
        Training table with raw counts, ``obs["section"]``, ``obsm["spatial"]``, ``obsm["X_image"]``, or a
        SpatialData whose ``"table"`` it is.
    target
        ``"lognorm"`` (log1p of counts per 10,000), ``"log2"`` (log2(count + 1)) or ``"identity"``.

    Examples
    --------
    >>> ridge = flagst.baselines.Ridge(adata, target="log2")  # doctest: +SKIP
    >>> ridge.train()  # doctest: +SKIP
    >>> prediction = ridge.predict(held_out)  # doctest: +SKIP
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
