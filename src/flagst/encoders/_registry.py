"""The names under which encoders are found."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import Parameter, signature

from flagst._checks import require_one_of
from flagst.encoders._base import ImageEncoder
from flagst.encoders.recipes import RECIPES, open_recipe

# Names, not classes: an encoder's own imports (torch, timm) happen when it is asked for.
_encoders: dict[str, str | Callable[..., ImageEncoder]] = {
    "handcrafted": "flagst.encoders.handcrafted:Handcrafted",
    "lazyslide": "flagst.encoders.lazyslide_encoder:LazySlideEncoder",
    "self-supervised": "flagst.encoders.self_supervised_encoder:SelfSupervisedEncoder",
    "timm": "flagst.encoders.timm_encoder:TimmEncoder",
    "transformers": "flagst.encoders.transformers_encoder:TransformersEncoder",
} | {name: partial(open_recipe, name) for name in RECIPES}


def available_encoders() -> list[str]:
    """Names that :func:`get_encoder` knows."""
    return sorted(_encoders)


def register_encoder(name: str, factory: str | Callable[..., ImageEncoder]) -> None:
    """Make an encoder known by name.

    Parameters
    ----------
    name
        Its name.
    factory
        Called with the keyword arguments of :func:`get_encoder`; or ``"module:callable"``, imported on first
        use.

    Raises
    ------
    ValueError
        The name is taken by something else.
    """
    if _encoders.get(name, factory) != factory:
        raise ValueError(f"There is an encoder named {name!r} already; found {available_encoders()}.")
    _encoders[name] = factory


def get_encoder(encoder: str | ImageEncoder | Callable, **kwargs) -> ImageEncoder:
    """Encoder by name, the given one, or one made of a function.

    Parameters
    ----------
    encoder
        A name out of :func:`available_encoders`; an object that follows :class:`ImageEncoder`; or a function or
        :class:`torch.nn.Module`, which :class:`CallableEncoder` then wraps.
    **kwargs
        Passed on to the encoder that the name stands for: ``path=`` for a pathology model such as ``"uni"`` (see
        :class:`Recipe`). For a function, settings of :class:`CallableEncoder`.

    Returns
    -------
    The encoder.

    Raises
    ------
    ValueError
        Unknown name.
    FileNotFoundError
        A model without its weights; the message says which file, from where, under which licence.
    TypeError
        Not an encoder, a setting missing that the named encoder cannot do without, or settings given beside an encoder
        that exists already.

    Examples
    --------
    >>> import flagst
    >>> flagst.encoders.get_encoder("handcrafted").patch_px
    112
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
        raise TypeError(f"Settings {sorted(kwargs)} need an encoder name; got an encoder that is made already.")
    if isinstance(encoder, type) or not isinstance(encoder, ImageEncoder):
        found = f"the class {encoder.__name__}" if isinstance(encoder, type) else type(encoder).__name__
        raise TypeError(f"encoder must be a name, a function or follow flagst.encoders.ImageEncoder; got {found}.")
    return encoder


def _require_settings(name: str, factory: Callable, given: dict) -> None:
    """Raise a ``TypeError`` that names what an encoder needs and was not given."""
    wanted = [
        f"{parameter.name}="
        for parameter in signature(factory).parameters.values()
        if parameter.default is Parameter.empty
        and parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        and parameter.name not in given
    ]
    if wanted:
        raise TypeError(
            f"The encoder {name!r} needs {' and '.join(wanted)}; got {sorted(given)}. "
            f"Call get_encoder({name!r}, {', '.join(f'{one}...' for one in wanted)})."
        )
