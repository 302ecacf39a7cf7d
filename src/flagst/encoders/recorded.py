"""The encoder behind features that were made earlier, from what was written beside them."""

from collections.abc import Mapping
from typing import Any

from flagst._checks import require_key
from flagst._keys import FEATURES
from flagst.data.measured import plain
from flagst.encoders._base import ImageEncoder, available_encoders, get_encoder


def recorded_encoder(record: Mapping[str, Any]) -> ImageEncoder:
    """The encoder that made recorded image features, with the same settings.

    Parameters
    ----------
    record
        ``uns["flagst"]["features"][key]`` of the training data, as a model keeps it in ``features_[key]``.

    Returns
    -------
    The encoder, for :func:`flagst.pp.image_features`.

    Raises
    ------
    KeyError
        The record names no encoder.
    ValueError
        An encoder that is not there, or is there in another version or with settings that it no longer takes.

    Example
    -------
    >>> encoder = recorded_encoder(model.features_["X_image"])  # doctest: +SKIP
    """
    hint = "Extract features of the slide as those of the training data were, and predict from that table."
    require_key(record, FEATURES.encoder, where="The record of image features", hint=hint)
    known = plain(dict(record))
    name, settings = known[FEATURES.encoder], known.get(FEATURES.params, {})
    if name not in available_encoders():
        raise ValueError(
            f"The image features were made by the encoder {name!r}, which is not there; found {available_encoders()}. "
            f"Make it known with flagst.encoders.register_encoder. {hint}"
        )
    try:
        encoder = get_encoder(name, **settings)
    except TypeError as error:
        raise ValueError(
            f"The encoder {name!r} does not take the recorded settings {settings}: {error}. {hint}"
        ) from None
    found = (encoder.version, plain(encoder.params()))
    if found != (known.get(FEATURES.version), settings):
        raise ValueError(
            f"The image features were made by version {known.get(FEATURES.version)!r} of the encoder {name!r} with "
            f"settings {settings}; this one is version {found[0]!r} with {found[1]}. {hint}"
        )
    return encoder
