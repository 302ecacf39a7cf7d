"""Spatial gene expression from H&E histology, with graph-conditioned latent diffusion.

Everything below the top level is imported on first use: ``import flagst`` stays fast.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

_SUBMODULES = ("baselines", "datasets", "encoders", "gfm", "io", "metrics", "pl", "pp", "tl")
_OBJECTS = {"FLAG": "flagst.model"}

__all__ = ["FLAG", "__version__", *_SUBMODULES]


def __getattr__(name: str):
    if name in _SUBMODULES:
        return _import_module(f"flagst.{name}")
    if name in _OBJECTS:
        return getattr(_import_module(_OBJECTS[name]), name)
    raise AttributeError(f"module 'flagst' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
