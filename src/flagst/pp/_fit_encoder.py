"""Fit an image encoder to patches of the tissue of some sections."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_lengths
from flagst._keys import OBS, TABLE
from flagst.data.patches import crop_block, plan_blocks
from flagst.encoders import Handcrafted, SelfSupervisedEncoder
from flagst.encoders._vicreg import N_STEPS
from flagst.pp._features import checked_normalisation, look_over, resolve
from flagst.pp._sources import SectionImage

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

logger = logging.getLogger("flagst")


def fit_encoder(
    data: "SpatialData | AnnData",
    *,
    sections: Sequence[str] | None = None,
    patch_um: float | Sequence[float] = Handcrafted.patch_um,
    with_handcrafted: bool = True,
    n_steps: int = N_STEPS,
    max_patches: int = 20_000,
    section_key: str = OBS.section,
    table_key: str = TABLE,
    stain_normalise: str | None = "section",
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> SelfSupervisedEncoder:
    """Fit a small image encoder to the tissue around the spots, for :func:`flagst.pp.image_features`.

    The encoder is trained without labels. It sees images and never expression. Leave the sections that a model will be
    tested on out of ``sections``: if the encoder has seen their images, the test is not on unseen sections.

    Parameters
    ----------
    data
        As for :func:`flagst.pp.image_features`.
    sections
        Names of the sections to fit on; by default all.
    patch_um
        Side of the squares, micrometres, one number per scale. All scales share one network.
    with_handcrafted
        Put the handcrafted features before those of the network. Together they predict better than either alone.
    n_steps
        Number of optimiser steps, each on 128 patches.
    max_patches
        Upper limit of the number of patches. If there are more, this many are sampled at random. A patch takes 38 kB.
    section_key, table_key
        As for :func:`flagst.pp.image_features`.
    stain_normalise
        Use the same value as for :func:`flagst.pp.image_features` later.
    seed
        Seed of the initial weights, the order of the patches and the augmentation. Results differ between machines and
        numbers of threads, because training enlarges rounding errors. Save the encoder to use the same one again.
    device
        By default the GPU if there is one.
    progress
        Show a progress bar.

    Returns
    -------
    The encoder. :meth:`~flagst.encoders.SelfSupervisedEncoder.save` writes it to a file.

    Raises
    ------
    KeyError
        The table, the section column, the coordinates, the shapes, or micrometres per pixel are missing.
    ValueError
        Sections do not exist or have no image, spots lie outside the image, there are fewer than 64 patches, or an
        argument is out of range.
    TypeError
        ``data`` has another type, or an image is not uint8.
    RuntimeError
        The training diverged.

    Examples
    --------
    >>> quick = {"n_steps": 1, "max_patches": 64, "progress": False}
    >>> encoder = flagst.pp.fit_encoder(sdata, sections=["S1", "S2"], patch_um=100, **quick)
    >>> encoder.name, encoder.patch_um
    ('self-supervised', (100.0,))
    """
    scales = require_lengths(patch_um, name="patch_um")
    if max_patches < 1:
        raise ValueError(f"max_patches must be 1 or more; got {max_patches!r}.")
    normalise = checked_normalisation(stain_normalise) == "section"
    _, found, _ = resolve(data, section_key, table_key)
    names = [section.name for section in found]
    wanted = names if sections is None else [sections] if isinstance(sections, str) else list(sections)
    if not wanted or not set(wanted) <= set(names):
        raise ValueError(f"sections must name some of the sections that are there, {names}; got {wanted}.")
    chosen = [section for section in found if section.name in wanted]

    patches = _cut(chosen, scales, normalise, most=max_patches, rng=np.random.default_rng(seed))
    encoder = SelfSupervisedEncoder.fit(
        patches,
        patch_um=scales,
        with_handcrafted=with_handcrafted,
        n_steps=n_steps,
        seed=seed,
        device=device,
        progress=progress,
    )
    logger.info("Fitted an image encoder on %d patches of %d sections.", len(patches), len(chosen))
    return encoder


def _cut(
    sections: list[SectionImage], scales: list[float], normalise: bool, *, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Patches (n_patches, side, side, 3) uint8 of every spot at every scale, or ``most`` of them at random."""
    counts = [len(section.rows) for section in sections for _ in scales]
    rows = np.concatenate([np.arange(count) for count in counts])
    owner = np.repeat(np.arange(len(counts)), counts)
    if len(rows) > most:
        kept = np.sort(rng.choice(len(rows), most, replace=False))
        rows, owner = rows[kept], owner[kept]
    px = Handcrafted.patch_px
    patches = np.empty((len(rows), px, px, 3), dtype=np.uint8)
    stains = [look_over(section, scales, px) for section in sections]
    for i in np.unique(owner):
        section, scale = sections[i // len(scales)], scales[i % len(scales)]
        mine = np.flatnonzero(owner == i)
        centres = section.centres[rows[mine]]
        for block in plan_blocks(section.levels, centres, side=scale / section.um_per_px, out_px=px):
            for members, cut in crop_block(block):
                patches[mine[members]] = stains[i // len(scales)].apply(cut) if normalise else cut
    return patches
