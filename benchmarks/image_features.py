"""How fast image features of a large slide are made, and in how much memory.

    python benchmarks/image_features.py --pyramid 30000 --n-jobs 1 2

Writes a tiled, pyramidal TIFF of that side (JPEG tiles, simulated tissue repeated, taken as 0.5 um per pixel) to a
temporary folder, in a process of its own. Then flagst.io.read_slide, flagst.pp.tissue_spots every 100 um and
flagst.pp.image_features are timed. "patches/s" counts one spot at all its scales as one patch; "peak memory" is that
of this process, libraries included.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np

import flagst
from flagst.encoders import get_encoder

UM_PER_PX, PITCH_UM, TILE = 0.5, 100.0, 512


def run(job: dict) -> None:
    """Write the slide: simulated tissue side by side as a tiled OME-TIFF, with levels down to about 1,000 pixels."""
    import tifffile

    side = job["side"]
    tissue = flagst.datasets.simulated_sections(n_sections=1, n_spots=1000).images["S1_image"]["scale0"]["image"]
    tissue = tissue.transpose("y", "x", "c").to_numpy()
    n_levels = max(1, int(np.log2(side / 1000)) + 1)
    whole = [n - n % 2**n_levels for n in tissue.shape[:2]]
    tissue = tissue[: whole[0], : whole[1]]
    options = {"dtype": np.uint8, "photometric": "rgb", "tile": (TILE, TILE), "compression": "jpeg"}
    size = {f"PhysicalSize{axis}": UM_PER_PX for axis in "XY"}
    with tifffile.TiffWriter(job["path"], bigtiff=True) as file:
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


def main(arguments: list[str] | None = None) -> None:
    """Open a slide on disk, find its tissue, extract features."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pyramid", type=int, metavar="SIDE", default=30_000, help="side of the slide, pixels")
    parser.add_argument("--encoder", default="handcrafted")
    parser.add_argument("--n-jobs", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    logging.getLogger("flagst").setLevel(logging.WARNING)
    import spatialdata  # noqa: F401  what is measured is the slide, not the first import

    encoder = get_encoder(options.encoder)
    with tempfile.TemporaryDirectory(prefix="flagst_") as folder:
        path = Path(folder) / "slide.ome.tif"
        common.run_job({"script": "image_features", "path": str(path), "side": options.pyramid}, Path(folder))
        print(f"slide: {options.pyramid} x {options.pyramid} pixels, {path.stat().st_size / 2**20:.0f} MB on disk")
        before, start = common.peak_memory_mb(), time.perf_counter()
        slide = flagst.io.read_slide(path)
        opened = time.perf_counter()
        flagst.pp.tissue_spots(slide, PITCH_UM)
        placed, table = time.perf_counter(), slide.tables["table"]
        print(f"open {opened - start:.2f} s, {table.n_obs} spots placed in {placed - opened:.1f} s", flush=True)
        for n_jobs in options.n_jobs:
            flagst.io.clear_image_cache()
            start, busy = time.perf_counter(), time.process_time()
            flagst.pp.image_features(slide, encoder=encoder, n_jobs=n_jobs, progress=False, overwrite=True)
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            print(
                f"{n_jobs} thread(s): {seconds:.1f} s, {table.n_obs / seconds:.0f} patches/s; "
                f"{table.n_obs / busy:.0f} per second of one core, whatever else the machine does",
                flush=True,
            )
        print(f"features: {table.n_obs} x {table.obsm['X_image'].shape[1]}")
        peak = common.peak_memory_mb()
        print(f"peak memory: {peak:.0f} MB, {before:.0f} MB of it before the slide was opened (libraries)")


if __name__ == "__main__":
    main()
