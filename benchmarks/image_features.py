"""How fast image features are made on a HER2ST section, and in how much memory.

    python benchmarks/image_features.py --data-dir DIR [--section C2] [--n-jobs 1 2]

"patches/s" counts one spot at all its scales as one patch. "whole" is flagst.pp.image_features from a cold
image cache, decoding the JPEG included; "encoder" is the encoder alone on patches in memory.
"""

import argparse
import logging
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import flagst
from flagst._keys import OBSM, TABLE
from flagst.encoders import get_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; downloaded when not given")
    parser.add_argument("--section", default="C2")
    parser.add_argument("--encoder", default="handcrafted")
    parser.add_argument("--n-jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs is shown")
    options = parser.parse_args()
    logging.getLogger("flagst").setLevel(logging.WARNING)

    encoder = get_encoder(options.encoder)
    sdata = flagst.datasets.her2st(options.section, options.data_dir)
    n_spots = sdata.tables[TABLE].n_obs
    before = peak_mb()
    print(f"{options.section}: {n_spots} spots, encoder {encoder.name} {encoder.version}")
    print(f"{'threads':>8s} {'whole, patches/s':>18s} {'encoder, patches/s':>20s}")
    for n_jobs in options.n_jobs:
        whole = min(time_whole(sdata, options.encoder, n_jobs) for _ in range(options.repeat))
        alone = min(time_encoder(encoder, n_spots, n_jobs) for _ in range(options.repeat))
        print(f"{n_jobs:8d} {n_spots / whole:18.0f} {n_spots / alone:20.0f}")
    width = sdata.tables[TABLE].obsm[OBSM.image].shape[1]
    print(f"features per spot: {width} ({len(encoder.patch_um)} scales x {encoder.n_features}),", end=" ")
    print(f"{2 * width} with the mean of the neighbours beside them")
    print(
        f"peak memory: {peak_mb():.0f} MB, {before:.0f} MB of it before the first feature (libraries, counts)"
    )


def time_whole(sdata, encoder: str, n_jobs: int) -> float:
    """Seconds for a section, nothing decoded before."""
    flagst.io.clear_image_cache()
    start = time.perf_counter()
    flagst.pp.image_features(sdata, encoder=encoder, n_jobs=n_jobs, progress=False, overwrite=True)
    return time.perf_counter() - start


def time_encoder(encoder, n_spots: int, n_jobs: int) -> float:
    """Seconds for as many random patches as a section has, at all scales."""
    shape = (32, encoder.patch_px, encoder.patch_px, 3)
    patches = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    n_batches = -(-n_spots * len(encoder.patch_um) // len(patches))
    with ThreadPoolExecutor(n_jobs) as pool:
        start = time.perf_counter()
        list(pool.map(encoder.encode, [patches] * n_batches))
    return (time.perf_counter() - start) * n_spots * len(encoder.patch_um) / (n_batches * len(patches))


def peak_mb() -> float:
    """Largest memory of this process so far; the unit of ru_maxrss differs between systems."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
