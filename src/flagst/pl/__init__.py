"""Plots: predicted maps, agreement of structure, calibration of samples, training curves. Matplotlib only."""

from flagst.pl.agreement import structure
from flagst.pl.calibration import calibration
from flagst.pl.curves import history
from flagst.pl.front import front
from flagst.pl.maps import spatial

__all__ = ["calibration", "front", "history", "spatial", "structure"]
