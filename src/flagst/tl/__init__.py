"""Tools: score a prediction, and check what is done with it downstream."""

from flagst.tl.ceiling import structure_ceiling
from flagst.tl.domains import domain_agreement
from flagst.tl.evaluation import evaluate
from flagst.tl.markers import marker_overlap

__all__ = ["domain_agreement", "evaluate", "marker_overlap", "structure_ceiling"]
