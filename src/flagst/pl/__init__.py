"""Plots: predicted maps, agreement of structure, training curves. Matplotlib only."""

from flagst.pl.agreement import structure
from flagst.pl.curves import history
from flagst.pl.maps import spatial

__all__ = ["history", "spatial", "structure"]
