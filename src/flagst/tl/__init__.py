"""Tools: score a prediction, compare its domains and markers with measured ones, and predict many slides."""

from flagst.tl.ceiling import structure_ceiling
from flagst.tl.domains import domain_agreement
from flagst.tl.evaluation import evaluate
from flagst.tl.markers import marker_overlap
from flagst.tl.slides import predict_slides

__all__ = ["domain_agreement", "evaluate", "marker_overlap", "predict_slides", "structure_ceiling"]
