"""The model a user trains and predicts with."""

from flagst.model.flag import FLAG

__all__ = ["FLAG"]
