"""Image encoders: from a patch of H&E to a vector. ``Handcrafted`` needs no weights; networks read theirs from disk."""

from flagst.encoders._base import ImageEncoder
from flagst.encoders._registry import available_encoders, get_encoder, register_encoder
from flagst.encoders.callable_encoder import CallableEncoder
from flagst.encoders.handcrafted import Handcrafted
from flagst.encoders.lazyslide_encoder import LazySlideEncoder
from flagst.encoders.recipes import RECIPES, Recipe
from flagst.encoders.recorded import recorded_encoder
from flagst.encoders.self_supervised_encoder import SelfSupervisedEncoder
from flagst.encoders.timm_encoder import TimmEncoder
from flagst.encoders.transformers_encoder import TransformersEncoder

__all__ = [
    "RECIPES",
    "CallableEncoder",
    "Handcrafted",
    "ImageEncoder",
    "LazySlideEncoder",
    "Recipe",
    "SelfSupervisedEncoder",
    "TimmEncoder",
    "TransformersEncoder",
    "available_encoders",
    "get_encoder",
    "recorded_encoder",
    "register_encoder",
]
