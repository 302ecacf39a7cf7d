"""Image encoders: from a patch of H&E to a vector. ``Handcrafted`` needs no weights."""

from flagst.encoders._base import ImageEncoder, available_encoders, get_encoder, register_encoder
from flagst.encoders.handcrafted import Handcrafted
from flagst.encoders.recorded import recorded_encoder

__all__ = [
    "Handcrafted",
    "ImageEncoder",
    "available_encoders",
    "get_encoder",
    "recorded_encoder",
    "register_encoder",
]
