"""The encoder that made features, found again from the record next to them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagst._checks import require_key
from flagst._keys import FEATURES, NETWORK
from flagst.data.measured import plain
from flagst.encoders._base import ImageEncoder
from flagst.encoders._registry import available_encoders, get_encoder


def recorded_encoder(record: Mapping[str, Any], *, path: str | Path | None = None) -> ImageEncoder:
    """Return the encoder that made image features, with the same settings.

    Parameters
    ----------
    record
        ``uns["flagst"]["features"][key]`` of the training data; a model keeps it in ``features_[key]``.
    path
        Weights of a network, as for :func:`get_encoder`. The record holds their hash, and other weights are refused.

    Returns
    -------
    The encoder, for :func:`flagst.pp.image_features`.

    Raises
    ------
    FileNotFoundError
        The encoder is a network, and ``path`` is missing.
    KeyError
        The record does not name an encoder.
    ValueError
        There is no such encoder, or its version, weights or settings differ from the record.

    Examples
    --------
    >>> flagst.encoders.recorded_encoder(model.features_["X_image"]).name
    'handcrafted'
    """
    hint = "Extract the features of the slide with the encoder of the training data, and predict from that table."
    require_key(record, FEATURES.encoder, where="The record of image features", hint=hint)
    known = plain(dict(record))
    name, settings = known[FEATURES.encoder], known.get(FEATURES.params, {})
    if name not in available_encoders():
        raise ValueError(
            f"The image features were made by the encoder {name!r}, which is not there; found {available_encoders()}. "
            f"Make it known with flagst.encoders.register_encoder. {hint}"
        )
    try:
        encoder = get_encoder(name, **(settings if path is None else {"path": path}))
    except TypeError as error:
        if path is None and NETWORK.sha256 in settings:
            raise FileNotFoundError(
                f"The image features were made by the encoder {name!r}, which needs the file of its weights: path=."
            ) from None
        given = f"the recorded settings {settings}" if path is None else f"path={str(path)!r}"
        raise ValueError(f"The encoder {name!r} does not take {given}: {error}. {hint}") from None
    found = (encoder.version, plain(encoder.params()))
    if found != (known.get(FEATURES.version), settings):
        raise ValueError(
            f"The image features were made by version {known.get(FEATURES.version)!r} of the encoder {name!r} with "
            f"settings {settings}; this one is version {found[0]!r} with {found[1]}. {hint}"
        )
    return encoder
