"""The regression mean and the latent basis of what it leaves over. Numpy only."""

from flagst.regression.features import ContextFeatures, section_centre
from flagst.regression.folds import count_networks, cross_fitting_folds, network_folds
from flagst.regression.gene_transfer import GeneTransfer, unit_vectors
from flagst.regression.latent import LatentBasis
from flagst.regression.mean import KernelFeatures, RegressionMean
from flagst.regression.moran import MoranSums, neighbour_moran
from flagst.regression.pca import principal_axes
from flagst.regression.ridge import RidgeRegression
from flagst.regression.stage import RegressionStage, TargetScaler

__all__ = [
    "ContextFeatures",
    "GeneTransfer",
    "KernelFeatures",
    "LatentBasis",
    "MoranSums",
    "RegressionMean",
    "RegressionStage",
    "RidgeRegression",
    "TargetScaler",
    "count_networks",
    "cross_fitting_folds",
    "neighbour_moran",
    "network_folds",
    "principal_axes",
    "section_centre",
    "unit_vectors",
]
