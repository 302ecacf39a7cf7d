"""Expression predicted from the measured total counts of a spot alone."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_finite, require_key
from flagst._keys import OBS
from flagst.baselines._base import Baseline
from flagst.data.measured import section_rows
from flagst.data.sections import Section, stack_targets
from flagst.regression import TargetScaler

if TYPE_CHECKING:
    from anndata import AnnData


class DepthOracle(Baseline):
    """Least-squares regression of every gene on the logarithm of the spot's total counts.

    This is an oracle, not a competitor. It reads the *measured* total counts of the query, which a prediction from an
    image cannot know, and nothing else about the tissue. A method with a lower PCC has learnt less than this one number
    per spot. ``structure`` and ``seed`` are ignored.

    Parameters
    ----------
    adata, target, setup
        Training table with image features ``(n_spots, d_image)``, and the rest as in
        :class:`flagst.baselines.Ridge`. The query needs ``obs["total_counts"]``.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :class:`flagst.baselines.Ridge`. ``predict`` also raises them for a query without total counts, or with
        total counts that are negative or not finite.

    Examples
    --------
    >>> oracle = flagst.baselines.DepthOracle(adata)
    >>> oracle.train()
    >>> oracle.predict(adata.copy()).layers["flagst"].shape == adata.shape
    True
    """

    def _fit(self, sections: list[Section]) -> None:
        target = stack_targets(sections)
        self.scaler_ = TargetScaler.fit(target)
        design = _design(np.concatenate([section.depth for section in sections]))
        self.coef_ = np.linalg.lstsq(design, self.scaler_.standardise(target), rcond=None)[0]

    def _predict_section(self, section: Section, *, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        values = self.scaler_.restore(_design(section.depth) @ self.coef_)
        return values, values

    def _query_sections(self, query: "AnnData") -> list[Section]:
        hint = "DepthOracle is an oracle: it needs the measured total counts of the spots it predicts."
        require_key(query.obs, OBS.total_counts, where="adata.obs", hint=hint)
        depth = query.obs[OBS.total_counts].to_numpy(dtype=np.float64)
        where = f"adata.obs[{OBS.total_counts!r}]"
        require_finite(depth, where=where, hint=hint)
        if depth.min() < 0:
            raise ValueError(f"{where} has negative values (minimum {depth.min():g}). {hint}")
        rows = section_rows(query, self.setup_.section_key)
        return [replace(s, depth=depth[rows[s.name]]) for s in super()._query_sections(query)]


def _design(depth: np.ndarray) -> np.ndarray:
    """``(n_spots, 2)``: log of the total counts, and a constant."""
    return np.stack([np.log1p(depth), np.ones(len(depth))], axis=1)
