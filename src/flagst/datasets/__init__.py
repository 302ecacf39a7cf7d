"""Data sets in the SpatialData shape that flagst works on."""

from flagst.datasets._her2st import her2st
from flagst.datasets._simulate import redraw_counts, simulated_sections

__all__ = ["her2st", "redraw_counts", "simulated_sections"]
