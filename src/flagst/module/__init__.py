"""The scvi-tools module: networks and diffusion joined."""

from flagst.module.flag_module import FlagModule

__all__ = ["FlagModule"]
