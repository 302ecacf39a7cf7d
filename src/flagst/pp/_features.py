"""Image features of every spot, section by section."""

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
# Shares of spots that swapping x and y would move onto tissue: doubtful, and beyond doubt.
_SWAP_DOUBT, _SWAP_CERTAIN = 0.1, 0.3
_COARSE = 2.0  # an image this many times coarser than the encoder wants is worth a warning


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
    """Describe the tissue around every spot by numbers.

    Squares around each spot are cut from the image at the resolution the encoder wants, and encoded; the
    vectors of several scales stand side by side. Every section is treated on its own. Images, shapes and
    counts are never modified.

    Parameters
    ----------
    data
        SpatialData (images ``S_image``; spot centres from the shapes that the table annotates), or AnnData
        with ``obsm["spatial"]`` in full-resolution pixels and ``uns["spatial"][S]`` (small image and its
        scale factor). Micrometres per full-resolution pixel of each section in
        ``uns["flagst"]["params"]["um_per_px"]``.
    encoder
        Whatever :func:`flagst.encoders.get_encoder` takes: a name, an encoder, or a function of patches. A pathology
        model is ``get_encoder("uni", path=...)``.
    patch_um
        Side of the squares, micrometres, one per scale. By default the encoder's own.
    section_key
        ``obs`` column that holds the section names.
    table_key
        Table of a SpatialData.
    key_added
        Name of the features in ``obsm``.
    stain_normalise
        ``"section"``: make each section's background white and bring its stain to one strength. ``None``:
        leave colours as they are.
    n_jobs
        Threads; by default as many as there are cores.
    progress
        Show a progress bar.
    overwrite
        Compute anew even when features made with the same settings at the same positions are there. Needed
        when only colours of an image have changed: pixels are not compared.
    cache
        Folder where finished blocks of patches are kept. An extraction that was stopped goes on from there, and the
        same image is not encoded again, in whichever table it comes. What is kept goes with the pixels of the
        resolution that the patches are cut from (beyond 4,096 px, with some of them), with the encoder, its weights
        and the type it computes in, and with the patches; ``overwrite`` does not empty it. To compare pixels, that
        resolution is read once more.
    client
        Of a dask.distributed cluster, whose workers then read and encode the patches; ``n_jobs`` does not count.
        The numbers are the same, but for rounding where ``precision`` is left to their devices. Images must be where
        workers can read them: files they all see, or an image in memory, whose parts are sent. Encoders made from a
        path are made anew on each worker from the same path.

    Writes
    ------
    ``obsm[key_added]``
        (n_spots, n_scales * n_features) float32.
    ``uns["flagst"]["features"][key_added]``
        Encoder, version, settings (of a network hash of the weights and pooling), licence of the weights, scales,
        feature names; of each section micrometres per pixel, a hash of the spots' positions, and the stain.
    ``cache``
        One ``.npy`` file per block of patches, in a folder per encoder.

    Raises
    ------
    KeyError
        Table, section column, coordinates or micrometres per pixel that are missing.
    ValueError
        Sections without an image (named), spots outside the image, x and y swapped, or settings out of range.
    TypeError
        ``data``, ``encoder`` or ``client`` of another type, or an encoder that cannot be sent to workers.

    Example
    -------
    >>> sdata = flagst.datasets.simulated_sections(n_sections=1)  # doctest: +SKIP
    >>> flagst.pp.image_features(sdata)  # doctest: +SKIP
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
    # beside the settings: the same numbers under terms that were corrected are the same numbers
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
    """``"section"`` or ``"none"``."""
    stain_normalise = "none" if stain_normalise is None else stain_normalise
    require_one_of(stain_normalise, STAIN_NORMALISE, name="stain_normalise")
    return stain_normalise


def _check_jobs(n_jobs: int | None) -> int:
    if n_jobs is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n_jobs < 1:
        raise ValueError(f"n_jobs must be 1 or more; got {n_jobs!r}. None takes all cores.")
    return int(n_jobs)


def resolve(data, section_key: str, table_key: str) -> tuple["AnnData", list[SectionImage], str]:
    """Table, sections and where the pixels come from."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        return data, from_anndata(data, section_key), "hires"
    if not (hasattr(data, "tables") and hasattr(data, "images")):
        raise TypeError(f"data must be a SpatialData or an AnnData; got {type(data).__name__}.")
    require_key(data.tables, table_key, where="sdata.tables", hint="Pass table_key=, the table of the spots.")
    adata = data.tables[table_key]
    return adata, from_spatialdata(data, adata, section_key), "image"


def _positions_hash(section: SectionImage) -> str:
    """Changes with the spot centres and the size of the image."""
    size = tuple(int(n) for n in section.levels[0].pixels.shape)
    centres = np.round(section.centres, 3) + 0.0  # minus zero is zero
    return hashlib.sha256(repr(size).encode() + centres.astype("<f8").tobytes()).hexdigest()[:16]


def _is_cached(adata: "AnnData", key: str, settings: dict, of_sections: dict[str, dict], width: int) -> bool:
    """Whether features made with ``settings`` are there; ``of_sections``: key -> section -> value."""
    record = adata.uns.get(UNS.flagst, {}).get(SLOT.features, {}).get(key)
    values = adata.obsm.get(key)
    if record is None or values is None or values.shape != (adata.n_obs, width) or not np.isfinite(values).all():
        return False
    known = plain({name: record.get(name) for name in (*settings, *of_sections)})
    # a record may know more sections than are left in the table
    return all(known[name] == plain(value) for name, value in settings.items()) and all(
        (known[name] or {}).get(section) == value
        for name, values in of_sections.items()
        for section, value in values.items()
    )


def look_over(section: SectionImage, scales: list[float], patch_px: int) -> Stain:
    """Check a section's spots against its image, and measure its stain."""
    sides = [scale / section.um_per_px for scale in scales]
    try:
        check_inside(section.levels, section.centres, side=0)
    except ValueError as error:
        raise ValueError(f"Section {section.name!r}: {error}") from None
    if min(sides) < patch_px / _COARSE:
        logger.warning(
            "Section %r: the image has %.2f um/px, the encoder works at %.2f um/px. "
            "Features will be blurred; use the full-resolution image of a SpatialData.",
            section.name, section.um_per_px, min(scales) / patch_px,
        )  # fmt: skip
    small = thumbnail(section.levels)
    overview = Overview.of(small, factor=small.shape[1] / section.levels[0].pixels.shape[2])
    _check_swapped(section, overview)
    return overview.stain(section.centres, side=max(sides))


def _check_swapped(section: SectionImage, overview: Overview) -> None:
    """On nearly square images swapped coordinates stay inside, but leave the tissue."""
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
