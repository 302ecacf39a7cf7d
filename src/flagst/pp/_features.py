"""Image features of every spot: check the arguments, reuse what is there, record how the features were made."""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_key, require_lengths, require_one_of
from flagst._keys import FEATURES, OBS, OBSM, SLOT, TABLE, UNS
from flagst.data.measured import plain
from flagst.data.patches import check_inside, thumbnail
from flagst.encoders import ImageEncoder, get_encoder
from flagst.pp._extract import encode_sections
from flagst.pp._sources import SectionImage, from_anndata, from_spatialdata
from flagst.pp._stain import Overview, Stain
from flagst.pp._workers import require_client

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client
    from spatialdata import SpatialData

logger = logging.getLogger("flagst")

STAIN_NORMALISE = ("section", "none")
# If swapping x and y moves more than these shares of the spots onto tissue: a warning, and an error.
_SWAP_DOUBT, _SWAP_CERTAIN = 0.1, 0.3
_COARSE = 2.0  # warn if an image is this many times coarser than the encoder needs


def image_features(
    data: "SpatialData | AnnData",
    *,
    encoder: str | ImageEncoder | Callable = "handcrafted",
    patch_um: float | Sequence[float] | None = None,
    section_key: str = OBS.section,
    table_key: str = TABLE,
    key_added: str = OBSM.image,
    stain_normalise: str | None = "section",
    n_jobs: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    cache: str | os.PathLike | None = None,
    client: "Client | None" = None,
) -> None:
    """Compute image features of the tissue around every spot.

    Squares around each spot are cut from the image at the resolution that the encoder needs. The encoder turns each
    square into a vector. The vectors of several scales are concatenated. Every section is processed separately. Images,
    shapes and counts are never modified.

    Parameters
    ----------
    data
        A SpatialData with images ``S_image``, where S is the name of a section; the spot centres are those of the
        shapes that the table annotates. Or an AnnData with ``obsm["spatial"]``, (n_spots, 2) float, x then y,
        full-resolution pixels, and with ``uns["spatial"][S]``, the small image and its scale factor. Both need
        micrometres per full-resolution pixel of each section in ``uns["flagst"]["params"]["um_per_px"]``.
    encoder
        Anything that :func:`flagst.encoders.get_encoder` accepts: a name, an encoder, or a function of patches. For a
        pathology model, pass ``get_encoder("uni", path=...)``.
    patch_um
        Side of the squares, micrometres, one number per scale. By default the encoder's own.
    section_key
        Column of ``obs`` with the section names.
    table_key
        Name of the table of a SpatialData.
    key_added
        Name of the features in ``obsm``.
    stain_normalise
        ``"section"``: make the background of each section white and scale its stain to one strength. ``None``: leave
        the colours unmodified.
    n_jobs
        Number of threads. By default one per core.
    progress
        Show a progress bar.
    overwrite
        Compute the features again even if ``obsm`` already has features with the same settings at the same positions.
        This is needed if only the colours of an image have changed, because pixels are not compared.
    cache
        Folder for finished blocks of patches. A run that was stopped continues from there, and an image is not encoded
        twice, whichever table it belongs to. A block is identified by the encoder with its weights and data type, by
        the patches, and by the pixels of the resolution that the patches are cut from. That resolution is read once
        more to compare the pixels; of an image above 4,096 px, only some pixels are compared. ``overwrite`` does not
        empty the folder.
    client
        Client of a dask.distributed cluster. Its workers read and encode the patches, and ``n_jobs`` is ignored. The
        features are the same, except for rounding where the device of a worker chooses the ``precision``. Workers must
        be able to read the images: as files that all of them see, or from memory, whose parts are then sent. Each
        worker loads an encoder that was made from a path again, from the same path.

    Writes
    ------
    ``obsm[key_added]``
        (n_spots, n_scales * d_encoder) float32, finite.
    ``uns["flagst"]["features"][key_added]``
        Name, version and settings of the encoder (for a network also a hash of its weights and the pooling), licence of
        the weights, scales, names of the features. For each section: micrometres per pixel, a hash of the spot
        positions, and the stain.
    ``cache``
        One ``.npy`` file per block of patches, in one folder per encoder.

    Raises
    ------
    KeyError
        The table, the section column, the coordinates, the shapes, or micrometres per pixel are missing.
    ValueError
        Sections have no image (they are named), spots lie outside the image, x and y are swapped, an image is not RGB,
        the encoder returns NaN or infinite values, or an argument is out of range.
    TypeError
        ``data``, ``encoder`` or ``client`` has another type, an image is not uint8, or the encoder cannot be sent to
        workers.

    Examples
    --------
    >>> flagst.pp.image_features(sdata, patch_um=220, key_added="X_wide", progress=False)
    >>> record = sdata["table"].uns["flagst"]["features"]["X_wide"]
    >>> record["encoder"], record["patch_um"]
    ('handcrafted', [220.0])
    >>> sdata["table"].obsm["X_wide"].shape == (180, len(record["feature_names"]))
    True
    """
    encoder = get_encoder(encoder)
    scales = require_lengths(encoder.patch_um if patch_um is None else patch_um, name="patch_um")
    stain_normalise = checked_normalisation(stain_normalise)
    n_jobs = _check_jobs(n_jobs)
    if client is not None:
        require_client(client)
    adata, sections, source = resolve(data, section_key, table_key)

    settings = {
        FEATURES.encoder: encoder.name,
        FEATURES.version: encoder.version,
        FEATURES.params: encoder.params(),
        FEATURES.patch_um: scales,
        FEATURES.patch_px: int(encoder.patch_px),
        FEATURES.stain_normalise: stain_normalise,
        FEATURES.source: source,
    }
    of_sections = {
        FEATURES.um_per_px: {s.name: s.um_per_px for s in sections},
        FEATURES.positions: {s.name: _positions_hash(s) for s in sections},
    }
    # the licence is not part of the settings: correcting it does not change the numbers
    terms = {FEATURES.licence: encoder.licence} if isinstance(getattr(encoder, "licence", None), str) else {}
    width = len(scales) * encoder.n_features
    if not overwrite and _is_cached(adata, key_added, settings, of_sections, width):
        adata.uns[UNS.flagst][SLOT.features][key_added].update(terms)
        logger.info("Image features with the same settings are in obsm[%r]; reused.", key_added)
        return
    stains = {section.name: look_over(section, scales, encoder.patch_px) for section in sections}
    applied = stains if stain_normalise == "section" else {}
    features = encode_sections(
        adata.n_obs, sections, applied, encoder, scales, n_jobs=n_jobs, progress=progress, cache=cache, client=client
    )
    made = {
        FEATURES.stain: {name: [*stain.background, stain.strength] for name, stain in applied.items()},
        FEATURES.names: [f"{name}_{scale:g}um" for scale in scales for name in encoder.feature_names],
    }
    _write(adata, key_added, features, settings | of_sections | made | terms)
    logger.info("Wrote %d image features of %d spots to obsm[%r].", width, adata.n_obs, key_added)


def checked_normalisation(stain_normalise: str | None) -> str:
    """The name of a stain normalisation; ``"none"`` for None. Raises a ``ValueError`` for other values."""
    stain_normalise = "none" if stain_normalise is None else stain_normalise
    require_one_of(stain_normalise, STAIN_NORMALISE, name="stain_normalise")
    return stain_normalise


def _check_jobs(n_jobs: int | None) -> int:
    if n_jobs is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n_jobs < 1:
        raise ValueError(f"n_jobs must be 1 or more; got {n_jobs!r}. None uses all cores.")
    return int(n_jobs)


def resolve(data, section_key: str, table_key: str) -> tuple["AnnData", list[SectionImage], str]:
    """The table, its sections, and the source of the pixels (``"image"`` or ``"hires"``)."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        return data, from_anndata(data, section_key), "hires"
    if not (hasattr(data, "tables") and hasattr(data, "images")):
        raise TypeError(f"data must be a SpatialData or an AnnData; got {type(data).__name__}.")
    require_key(data.tables, table_key, where="sdata.tables", hint="Pass table_key=, the table of the spots.")
    adata = data.tables[table_key]
    return adata, from_spatialdata(data, adata, section_key), "image"


def _positions_hash(section: SectionImage) -> str:
    """A hash of the spot centres and of the size of the image."""
    size = tuple(int(n) for n in section.levels[0].pixels.shape)
    centres = np.round(section.centres, 3) + 0.0  # minus zero is zero
    return hashlib.sha256(repr(size).encode() + centres.astype("<f8").tobytes()).hexdigest()[:16]


def _is_cached(adata: "AnnData", key: str, settings: dict, of_sections: dict[str, dict], width: int) -> bool:
    """Whether ``obsm`` has features with these settings; ``of_sections``: key -> section -> value."""
    record = adata.uns.get(UNS.flagst, {}).get(SLOT.features, {}).get(key)
    values = adata.obsm.get(key)
    if record is None or values is None or values.shape != (adata.n_obs, width) or not np.isfinite(values).all():
        return False
    known = plain({name: record.get(name) for name in (*settings, *of_sections)})
    # the record may have more sections than the table: sections may have been removed since
    return all(known[name] == plain(value) for name, value in settings.items()) and all(
        (known[name] or {}).get(section) == value
        for name, values in of_sections.items()
        for section, value in values.items()
    )


def look_over(section: SectionImage, scales: list[float], patch_px: int) -> Stain:
    """Check that the spots of a section lie on its image, and measure its stain."""
    sides = [scale / section.um_per_px for scale in scales]
    try:
        check_inside(section.levels, section.centres, side=0)
    except ValueError as error:
        raise ValueError(f"Section {section.name!r}: {error}") from None
    if min(sides) < patch_px / _COARSE:
        logger.warning(
            "Section %r: the image has %.2f um/px, the encoder works at %.2f um/px. "
            "Features will be blurred. Use the full-resolution image of a SpatialData.",
            section.name, section.um_per_px, min(scales) / patch_px,
        )  # fmt: skip
    small = thumbnail(section.levels)
    overview = Overview.of(small, factor=small.shape[1] / section.levels[0].pixels.shape[2])
    _check_swapped(section, overview)
    return overview.stain(section.centres, side=max(sides))


def _check_swapped(section: SectionImage, overview: Overview) -> None:
    """Detect swapped x and y: on a nearly square image such spots lie inside the image, but off the tissue."""
    given = overview.share_on_tissue(section.centres)
    swapped = overview.share_on_tissue(section.centres[:, ::-1])
    if swapped <= given + _SWAP_DOUBT:
        return
    message = (
        f"Section {section.name!r}: {given:.0%} of the spots lie on tissue, but {swapped:.0%} would "
        "with x and y swapped. Coordinates must be x (column), y (row)."
    )
    if swapped > given + _SWAP_CERTAIN:
        raise ValueError(message)
    warnings.warn(message, UserWarning, stacklevel=4)


def _write(adata: "AnnData", key: str, features: np.ndarray, record: dict) -> None:
    slot = dict(adata.uns.get(UNS.flagst, {}))
    adata.uns[UNS.flagst] = slot | {SLOT.features: dict(slot.get(SLOT.features, {})) | {key: record}}
    adata.obsm[key] = features
