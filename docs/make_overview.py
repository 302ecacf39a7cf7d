"""Draw the picture of the README from what ``flagst demo --data her2st`` saved.

``python docs/make_overview.py DEMO_FOLDER`` writes ``docs/_static/overview.png``.
"""

import argparse
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

import spatialdata
from PIL import Image

from flagst import pl
from flagst.cli.demo import mapped_genes
from flagst.cli.files import table

TARGET = Path(__file__).resolve().parent / "_static" / "overview.png"
DPI = 100
#: Colours of the palette, which keeps an H&E image in a small file: of the image, and of the colour scale.
N_IMAGE, N_SCALE = 176, 80


def main() -> None:
    """Draw, reduce to a palette, save."""
    parser = argparse.ArgumentParser(description="Draw docs/_static/overview.png.")
    parser.add_argument("demo", type=Path, help="output folder of flagst demo")
    arguments = parser.parse_args()
    prediction = table(spatialdata.read_zarr(arguments.demo / "prediction.zarr"), predicted=True)
    figure = pl.spatial(prediction, mapped_genes(prediction), return_fig=True, show=False)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=DPI, bbox_inches="tight")
    picture = Image.open(drawn).convert("RGB")
    reduced(picture).save(TARGET, optimize=True)
    print(f"{TARGET}: {picture.width} x {picture.height}, {TARGET.stat().st_size / 1000:.0f} kB")


def reduced(picture: Image.Image) -> Image.Image:
    """The picture with 256 colours; those of the scale are kept, few pixels as they cover."""
    common = picture.quantize(N_IMAGE, dither=Image.Dither.NONE).getpalette()[: 3 * N_IMAGE]
    scale = matplotlib.colormaps["viridis"](np.linspace(0, 1, N_SCALE))[:, :3]
    palette = Image.new("P", (1, 1))
    palette.putpalette(common + np.rint(255 * scale).astype(int).ravel().tolist())
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
