"""Training: plan, windows, exponential moving average."""

from flagst.train.plan import FlagTrainingPlan
from flagst.train.splitter import WindowSplitter

__all__ = ["FlagTrainingPlan", "WindowSplitter"]
