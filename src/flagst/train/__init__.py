"""Training: plan, windows, and which rank gets which of them."""

from flagst.train.plan import FlagTrainingPlan
from flagst.train.ranks import RankSampler
from flagst.train.splitter import WindowSplitter

__all__ = ["FlagTrainingPlan", "RankSampler", "WindowSplitter"]
