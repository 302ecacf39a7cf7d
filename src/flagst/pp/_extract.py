"""Read and encode blocks of patches, in several threads or in other processes."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flagst.data.patches import Block, plan_blocks
from flagst.encoders import ImageEncoder
from flagst.encoders._base import remedy_of_nan
from flagst.pp._cache import FeatureCache, fingerprint
from flagst.pp._sources import SectionImage
from flagst.pp._stain import Stain
from flagst.pp._workers import Workers, encode_block

if TYPE_CHECKING:
    from distributed import Client


def encode_sections(
    n_spots: int,
    sections: list[SectionImage],
    stains: dict[str, Stain],
    encoder: ImageEncoder,
    scales: list[float],
    *,
    n_jobs: int,
    progress: bool,
    cache: str | os.PathLike | None,
    client: "Client | None" = None,
) -> np.ndarray:
    """Features of all spots.

    Parameters
    ----------
    n_spots
        Number of rows of the result.
    sections
        Images and spots.
    stains
        Stain of each section to normalise. Other sections keep their colours.
    encoder
        Called from several threads.
    scales
        Sides of the patches, micrometres.
    n_jobs
        Number of threads.
    progress
        Show a progress bar.
    cache
        Folder of finished blocks, or ``None``. Workers do not read or write it.
    client
        Its workers read and encode the patches instead of threads.

    Returns
    -------
    (n_spots, n_scales * d_encoder) float32, finite.

    Raises
    ------
    ValueError
        The encoder returned NaN or infinite values.
    """
    from tqdm.auto import tqdm

    width = encoder.n_features
    features = np.full((n_spots, len(scales) * width), np.nan, dtype=np.float32)
    kept = None if cache is None else FeatureCache(cache, encoder, elsewhere=client is not None)
    compute = partial(encode_block, encoder)
    if client is not None:
        # threads only wait for the workers; twice as many keep every worker busy
        compute, n_jobs = Workers(client, encoder), max(4, 2 * sum(client.nthreads().values()))

    def encode(section: SectionImage, block: Block, first: int, image: str) -> int:
        stain, place = stains.get(section.name), np.s_[section.rows[block.rows], first : first + width]
        key = None if kept is None else kept.key(image, block, stain)
        values = None if kept is None else kept.load(key, (len(block.rows), width))
        if values is None:
            values = compute(block, stain)
            if not np.isfinite(values).all():
                raise ValueError(
                    f"Encoder {encoder.name!r} returned NaN or infinite values in section {section.name!r}. "
                    f"{remedy_of_nan(encoder)}"
                )
            if kept is not None:
                kept.store(key, values)
        features[place] = values
        return len(block.rows)

    with (
        ThreadPoolExecutor(n_jobs) as pool,
        tqdm(total=n_spots * len(scales), unit="patch", desc="image features", disable=not progress) as bar,
    ):
        jobs = [
            pool.submit(encode, section, block, i * width, image)
            for section in sections
            for i, image, blocks in _plan(section, scales, encoder.patch_px, hashed=kept is not None)
            for block in blocks
        ]
        try:
            for job in as_completed(jobs):
                bar.update(job.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return features


def _plan(
    section: SectionImage, scales: list[float], patch_px: int, *, hashed: bool
) -> Iterator[tuple[int, str, list[Block]]]:
    """Index, image and blocks of each scale. If ``hashed``, the image is the fingerprint of the level that is read."""
    prints: dict[int, str] = {}
    for i, scale in enumerate(scales):
        blocks = plan_blocks(section.levels, section.centres, side=scale / section.um_per_px, out_px=patch_px)
        level = blocks[0].level  # all blocks of a scale have the same level
        if hashed and id(level) not in prints:
            prints[id(level)] = fingerprint(level)
        yield i, prints.get(id(level), ""), blocks
