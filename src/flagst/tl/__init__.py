"""Tools: score a prediction."""

from flagst.tl.evaluation import evaluate

__all__ = ["evaluate"]
