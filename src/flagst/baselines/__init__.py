"""Simple predictions to compare FLAG with, behind FLAG's own interface. They need no torch."""

from flagst.baselines.averages import KNN, Mean
from flagst.baselines.depth import DepthOracle
from flagst.baselines.residual_noise import BalancedGaussian, CorrelatedGaussian, IndependentNoise, ResidualBootstrap
from flagst.baselines.ridge import Ridge

__all__ = [
    "KNN",
    "BalancedGaussian",
    "CorrelatedGaussian",
    "DepthOracle",
    "IndependentNoise",
    "Mean",
    "ResidualBootstrap",
    "Ridge",
]
