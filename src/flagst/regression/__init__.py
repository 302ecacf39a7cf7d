"""The regression mean and the cross-fitted residual around it. Numpy only."""

from flagst.regression.context import ContextFeatures
from flagst.regression.folds import count_networks, cross_fitting_folds, network_folds
from flagst.regression.mean import RegressionMean
from flagst.regression.noise_scale import match_spatial_order
from flagst.regression.residual import ResidualModel
from flagst.regression.ridge import RidgeRegression
from flagst.regression.scaler import TargetScaler
from flagst.regression.stage import RegressionStage

__all__ = [
    "ContextFeatures",
    "RegressionMean",
    "RegressionStage",
    "ResidualModel",
    "RidgeRegression",
    "TargetScaler",
    "count_networks",
    "cross_fitting_folds",
    "match_spatial_order",
    "network_folds",
]
