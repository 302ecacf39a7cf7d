"""From sections to features: blocks of patches, read and encoded by several threads or by other processes."""

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flagst.data.patches import Block, plan_blocks
from flagst.encoders import ImageEncoder
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
        Rows of the result.
    sections
        Images and spots.
    stains
        Section -> stain that its colours are brought from; sections that are not there keep their colours.
    encoder
        Called from several threads.
    scales
        Sides of the patches, micrometres.
    n_jobs
        Threads.
    progress
        Show a progress bar.
    cache
        Folder of finished blocks, or ``None``. Read and written here, never by a worker.
    client
        Its workers read and encode in place of threads.

    Returns
    -------
    (n_spots, n_scales * n_features) float32, finite.

    Raises
    ------
    ValueError
        The encoder gave NaN or infinite values.
    """
    from tqdm.auto import tqdm

    width = encoder.n_features
    features = np.full((n_spots, len(scales) * width), np.nan, dtype=np.float32)
    kept = None if cache is None else FeatureCache(cache, encoder)
    compute = partial(encode_block, encoder)
    if client is not None:
        # threads wait for the workers, which shall find a next block whenever one is done
        compute, n_jobs = Workers(client, encoder), max(4, 2 * sum(client.nthreads().values()))
    images = {} if kept is None else {section.name: fingerprint(section.levels) for section in sections}

    def encode(section: SectionImage, block: Block, first: int) -> int:
        stain, place = stains.get(section.name), np.s_[section.rows[block.rows], first : first + width]
        key = None if kept is None else kept.key(images[section.name], block, stain)
        known = None if kept is None else kept.load(key, (len(block.rows), width))
        if known is not None:
            features[place] = known
            return len(block.rows)
        features[place] = compute(block, stain)
        if not np.isfinite(features[place]).all():
            raise ValueError(f"Encoder {encoder.name!r} returned NaN or infinite values.")
        if kept is not None:
            kept.store(key, features[place])
        return len(block.rows)

    with (
        ThreadPoolExecutor(n_jobs) as pool,
        tqdm(total=n_spots * len(scales), unit="patch", desc="image features", disable=not progress) as bar,
    ):
        jobs = [
            pool.submit(encode, section, block, i * width)
            for section in sections
            for i, scale in enumerate(scales)
            for block in plan_blocks(
                section.levels, section.centres, side=scale / section.um_per_px, out_px=encoder.patch_px
            )
        ]
        try:
            for job in as_completed(jobs):
                bar.update(job.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return features
