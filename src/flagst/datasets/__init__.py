"""Real and simulated data sets in the SpatialData structure that flagst uses."""

from flagst.datasets._her2st import her2st
from flagst.datasets._mob import mob
from flagst.datasets._simulate import redraw_counts, simulated_sections

__all__ = ["her2st", "mob", "redraw_counts", "simulated_sections"]
