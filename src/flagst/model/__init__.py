"""The model a user trains and predicts with."""

from flagst import settings as presets
from flagst.model.flag import FLAG
from flagst.sampling import out_of_distribution as unlike
from flagst.sampling import quantiles as intervals

__all__ = ["FLAG", "intervals", "presets", "unlike"]
