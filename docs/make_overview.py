"""Draw the picture of the README from what ``flagst demo --data her2st`` saved.

``python docs/make_overview.py DEMO_FOLDER`` writes ``docs/_static/overview.png``.
"""

import argparse
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from PIL import Image  # noqa: E402
import spatialdata  # noqa: E402

from flagst import pl  # noqa: E402
from flagst.cli.files import table  # noqa: E402

TARGET = Path(__file__).resolve().parent / "_static" / "overview.png"
GENES = ("ERBB2", "COL1A1")
DPI = 110
#: Colours of the palette: what keeps an H&E image in a small file.
N_COLOURS = 200


def main() -> None:
    """Draw, reduce to a palette, save."""
    parser = argparse.ArgumentParser(description="Draw docs/_static/overview.png.")
    parser.add_argument("demo", type=Path, help="output folder of flagst demo")
    parser.add_argument("--genes", nargs="+", default=GENES)
    arguments = parser.parse_args()
    prediction = table(spatialdata.read_zarr(arguments.demo / "prediction.zarr"), predicted=True)
    figure = pl.spatial(prediction, list(arguments.genes), return_fig=True, show=False)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=DPI, bbox_inches="tight")
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(N_COLOURS, dither=Image.Dither.NONE).save(TARGET, optimize=True)
    print(f"{TARGET}: {picture.width} x {picture.height}, {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
