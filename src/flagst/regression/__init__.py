"""The regression mean and the cross-fitted residual around it. Numpy only."""

from flagst.regression.balance import balance_noise, can_balance, leading_scores, uncorrelated
from flagst.regression.context import ContextFeatures, section_centre
from flagst.regression.draw_order import match_draw_order, order_curve, order_factors
from flagst.regression.folds import count_networks, cross_fitting_folds, network_folds
from flagst.regression.gene_transfer import GeneTransfer
from flagst.regression.mean import KernelFeatures, RegressionMean
from flagst.regression.residual import ResidualModel
from flagst.regression.ridge import RidgeRegression
from flagst.regression.scaler import TargetScaler
from flagst.regression.spatial_order import neighbour_moran
from flagst.regression.stage import RegressionStage

__all__ = [
    "ContextFeatures",
    "GeneTransfer",
    "KernelFeatures",
    "RegressionMean",
    "RegressionStage",
    "ResidualModel",
    "RidgeRegression",
    "TargetScaler",
    "balance_noise",
    "can_balance",
    "count_networks",
    "cross_fitting_folds",
    "leading_scores",
    "match_draw_order",
    "neighbour_moran",
    "network_folds",
    "order_curve",
    "order_factors",
    "section_centre",
    "uncorrelated",
]
