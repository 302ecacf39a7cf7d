"""Encoders by name."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import signature

from flagst._checks import require_one_of
from flagst.encoders._base import ImageEncoder
from flagst.encoders.recipes import RECIPES, open_recipe

# A text "module:callable" is imported when the encoder is asked for.
_encoders: dict[str, str | Callable[..., ImageEncoder]] = {
    "handcrafted": "flagst.encoders.handcrafted:Handcrafted",
    "lazyslide": "flagst.encoders.lazyslide_encoder:LazySlideEncoder",
    "self-supervised": "flagst.encoders.self_supervised_encoder:SelfSupervisedEncoder",
    "timm": "flagst.encoders.timm_encoder:TimmEncoder",
    "transformers": "flagst.encoders.transformers_encoder:TransformersEncoder",
} | {name: partial(open_recipe, name) for name in RECIPES}


def available_encoders() -> list[str]:
    """List the names that :func:`get_encoder` knows.

    Returns
    -------
    Names, sorted: the built-in encoder, the classes of this module, :data:`RECIPES`, and registered encoders.

    Examples
    --------
    >>> {"handcrafted", "uni", "phikon-v2"} <= set(flagst.encoders.available_encoders())
    True
    """
    return sorted(_encoders)


def register_encoder(name: str, factory: str | Callable[..., ImageEncoder]) -> None:
    """Give an encoder a name, so that :func:`get_encoder` and ``flagst.pp.image_features`` find it.

    Parameters
    ----------
    name
        Name of the encoder.
    factory
        Called with the keyword arguments of :func:`get_encoder`, and returns the encoder. A text ``"module:callable"``
        is imported on first use.

    Raises
    ------
    ValueError
        Another encoder has this name.

    Examples
    --------
    >>> flagst.encoders.register_encoder("ours", flagst.encoders.Handcrafted)
    >>> flagst.encoders.get_encoder("ours", nucleus_threshold=0.8).params()
    {'nucleus_threshold': 0.8}
    """
    if _encoders.get(name, factory) != factory:
        raise ValueError(f"There is an encoder named {name!r} already; found {available_encoders()}.")
    _encoders[name] = factory


def get_encoder(encoder: str | ImageEncoder | Callable, **kwargs) -> ImageEncoder:
    """Return an encoder: by name, made from a function, or as given.

    Parameters
    ----------
    encoder
        A name from :func:`available_encoders`; or an object that follows :class:`ImageEncoder`; or a function or
        :class:`torch.nn.Module`, which becomes a :class:`CallableEncoder`.
    **kwargs
        Settings of the encoder. A pathology model such as ``"uni"`` takes ``path=`` (file of the weights, or the folder
        that holds it) or ``hub=True`` (download them), and may replace settings of its :class:`Recipe`, such as
        ``patch_um``. A function takes the settings of :class:`CallableEncoder`.

    Returns
    -------
    The encoder.

    Raises
    ------
    ValueError
        The name is unknown, both ``path`` and ``hub`` are given, the weights do not fit the model, or a setting is out
        of range.
    FileNotFoundError
        The weights are missing. The message says which file, from where, and under which licence.
    ImportError
        A library that the encoder needs is missing.
    TypeError
        ``encoder`` is no encoder; a required setting is missing; or settings are given for an encoder that exists
        already.

    Examples
    --------
    >>> flagst.encoders.get_encoder("handcrafted").patch_px
    112
    >>> uni = flagst.encoders.get_encoder("uni", path="models/uni/pytorch_model.bin")  # doctest: +SKIP
    """
    if isinstance(encoder, str):
        require_one_of(encoder, available_encoders(), name="encoder")
        factory = _encoders[encoder]
        if isinstance(factory, str):
            module, _, attribute = factory.partition(":")
            factory = getattr(import_module(module), attribute)
        _require_settings(encoder, factory, kwargs)
        encoder = factory(**kwargs)
    elif callable(encoder) and not isinstance(encoder, type | ImageEncoder):
        from flagst.encoders.callable_encoder import CallableEncoder

        encoder = CallableEncoder(encoder, **kwargs)
    elif kwargs:
        raise TypeError(f"Settings {sorted(kwargs)} need an encoder name; got an encoder that exists already.")
    if isinstance(encoder, type) or not isinstance(encoder, ImageEncoder):
        found = f"the class {encoder.__name__}" if isinstance(encoder, type) else type(encoder).__name__
        raise TypeError(f"encoder must be a name, a function or follow flagst.encoders.ImageEncoder; got {found}.")
    return encoder


def _require_settings(name: str, factory: Callable, given: dict) -> None:
    """Raise a ``TypeError`` that names the required settings that were not given."""
    wanted = [
        f"{p.name}="
        for p in signature(factory).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in given
    ]
    if wanted:
        raise TypeError(
            f"The encoder {name!r} needs {' and '.join(wanted)}; got {sorted(given)}. "
            f"Call get_encoder({name!r}, {', '.join(f'{one}...' for one in wanted)})."
        )
