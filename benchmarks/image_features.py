"""How fast image features are made on a HER2ST section or on a large slide, and in how much memory.

    python benchmarks/image_features.py --data-dir DIR [--section C2] [--n-jobs 1 2]
    python benchmarks/image_features.py --pyramid 30000 [--n-jobs 2]

"patches/s" counts one spot at all its scales as one patch. "whole" is flagst.pp.image_features from a cold
image cache, decoding the JPEG included; "encoder" is the encoder alone on patches in memory.

--pyramid writes a tiled, pyramidal TIFF of that side (JPEG tiles, simulated tissue repeated, taken as 0.5 um per
pixel) to a temporary folder, in a process of its own. Then flagst.io.read_slide, flagst.pp.tissue_spots every 100 um
and flagst.pp.image_features are timed; "peak memory" is that of this process, libraries included.
"""

import argparse
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import flagst
from flagst._keys import OBSM, TABLE
from flagst.encoders import get_encoder

#: Of the slide that ``--pyramid`` writes.
UM_PER_PX, PITCH_UM, TILE = 0.5, 100.0, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; downloaded when not given")
    parser.add_argument("--section", default="C2")
    parser.add_argument("--encoder", default="handcrafted")
    parser.add_argument("--n-jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs is shown")
    parser.add_argument("--pyramid", type=int, metavar="SIDE", help="side of a slide to write and read, pixels")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("flagst").setLevel(logging.WARNING)
    if options.write:
        write_pyramid(options.write, options.pyramid)
    elif options.pyramid:
        time_pyramid(options)
    else:
        time_section(options)


def time_section(options: argparse.Namespace) -> None:
    """A section of HER2ST: the whole step, and the encoder alone."""
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
    print(f"peak memory: {peak_mb():.0f} MB, {before:.0f} MB of it before the first feature (libraries, counts)")


def time_pyramid(options: argparse.Namespace) -> None:
    """A slide on disk: opening it, finding its tissue, extracting features."""
    import spatialdata  # noqa: F401  what is measured is the slide, not the first import

    encoder = get_encoder(options.encoder)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.ome.tif"
        command = [sys.executable, __file__, "--pyramid", str(options.pyramid), "--write", str(path)]
        subprocess.run(command, check=True)
        print(f"slide: {options.pyramid} x {options.pyramid} pixels, {path.stat().st_size / 2**20:.0f} MB on disk")
        before, start = peak_mb(), time.perf_counter()
        slide = flagst.io.read_slide(path)
        opened = time.perf_counter()
        flagst.pp.tissue_spots(slide, PITCH_UM)
        placed, n_spots = time.perf_counter(), slide.tables[TABLE].n_obs
        print(f"open {opened - start:.2f} s, {n_spots} spots placed in {placed - opened:.1f} s", flush=True)
        for n_jobs in options.n_jobs:
            busy = time.process_time()
            seconds = time_whole(slide, options.encoder, n_jobs)
            busy = time.process_time() - busy
            alone = time_encoder(encoder, min(n_spots, 500), n_jobs) / min(n_spots, 500)
            print(f"{n_jobs} thread(s): {seconds:.1f} s, {n_spots / seconds:.0f} patches/s", end="; ")
            print(f"{n_spots / busy:.0f} per second of one core, whatever else the machine does", end="; ")
            print(f"the encoder alone {1 / alone:.0f} patches/s", flush=True)
        shape = slide.tables[TABLE].obsm[OBSM.image].shape
        print(f"features: {shape[0]} x {shape[1]}")
        print(f"peak memory: {peak_mb():.0f} MB, {before:.0f} MB of it before the slide was opened (libraries)")


def write_pyramid(path: Path, side: int) -> None:
    """Simulated tissue side by side as a tiled OME-TIFF, tile by tile, with levels down to about a thousand pixels."""
    import tifffile

    tissue = flagst.datasets.simulated_sections(n_sections=1, n_spots=1000).images["S1_image"]["scale0"]["image"]
    tissue = tissue.transpose("y", "x", "c").to_numpy()
    n_levels = max(1, int(np.log2(side / 1000)) + 1)
    whole = [n - n % 2**n_levels for n in tissue.shape[:2]]
    tissue = tissue[: whole[0], : whole[1]]
    options = {"dtype": np.uint8, "photometric": "rgb", "tile": (TILE, TILE), "compression": "jpeg"}
    size = {f"PhysicalSize{axis}": UM_PER_PX for axis in "XY"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(n_levels):
            extent = side // 2**level
            more = {"subfiletype": 1} if level else {"subifds": n_levels - 1, "metadata": {"axes": "YXS"} | size}
            file.write(tiles(tissue, extent), shape=(extent, extent, 3), **options, **more)
            halves = tissue.reshape(tissue.shape[0] // 2, 2, tissue.shape[1] // 2, 2, 3)
            tissue = halves.mean(axis=(1, 3)).astype(np.uint8)


def tiles(tissue: np.ndarray, extent: int) -> Iterator[np.ndarray]:
    """Tiles of a square of repeated tissue, row by row."""
    for y in range(0, extent, TILE):
        rows = np.take(tissue, np.arange(y, y + TILE), axis=0, mode="wrap")
        for x in range(0, extent, TILE):
            yield np.take(rows, np.arange(x, x + TILE), axis=1, mode="wrap")


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
