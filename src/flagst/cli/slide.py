"""``flagst predict --image``: predict the expression of a slide."""

import argparse
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flagst._keys import FEATURES, OBS, OBSM, TABLE
from flagst.cli.console import Steps, hush, interactive

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from flagst.encoders import ImageEncoder
    from flagst.model import FLAG

#: Distance of spots if the model does not know that of its training sections, micrometres.
PITCH_UM = 100.0
LAYOUT = "hex"
LAYOUTS = ("hex", "square")
#: In the folder of an unfinished run: blocks of image features, and the result.
FEATURES_FOLDER, RESULT = "features", "result.zarr"


def predict(arguments: argparse.Namespace, options: dict) -> None:
    """Read the slide, place spots, compute image features, predict, and write the result.

    Nothing exists at ``out`` before the result is complete. A run that is stopped leaves its files in a folder beside
    it. With ``resume``, the image features in that folder are used if pixels, spots and encoder are the same.

    Parameters
    ----------
    arguments
        ``image``, ``model``, ``out``, ``um_per_px``, ``pitch_um``, ``layout``, ``section``, ``image_key``,
        ``encoder_path``, ``without_image``, ``resume``.
    options
        For :meth:`flagst.FLAG.predict`.

    Raises
    ------
    FileNotFoundError
        There is no such image, or the weights of the encoder are not at ``encoder_path``.
    ValueError
        ``out`` does not end in ``.zarr`` or is the image itself; the image has no tissue or no micrometres per pixel;
        or the encoder is not available.
    """
    from flagst.model import FLAG

    hush()
    if arguments.out.suffix != ".zarr":
        raise ValueError(f"--out must end in .zarr for a slide; got {arguments.out}.")
    if arguments.out.resolve() == arguments.image.resolve():
        raise ValueError(f"--out is the input {arguments.image}; name another folder.")
    steps = Steps(4)
    model = FLAG.load(str(arguments.model))
    key = model.setup_["image_key"]
    record = model.features_.get(key, {})
    partial = arguments.out.with_name(f".{arguments.out.name}.partial")
    encoder = open_encoder(record, arguments.encoder_path)
    with steps("Finding tissue"):
        slide = lay_spots(model, arguments)
    if partial.exists() and not arguments.resume:
        shutil.rmtree(partial)
    with steps(f"Image features of {slide.tables[TABLE].n_obs} spots"):
        extract(slide, encoder, record, key, cache=partial / FEATURES_FOLDER)
    with steps("Predicting"):
        slide.tables[TABLE] = model.prepare_query(slide)
        prediction = model.predict(slide, **options)
    with steps("Writing"):
        if arguments.without_image:
            slide.images.clear()
        write(slide, partial / RESULT, arguments.out)
    shutil.rmtree(partial)
    print(f"Predicted {prediction.n_obs} spots and {prediction.n_vars} genes; written to {arguments.out}")


def open_encoder(record: dict, path: Path | None) -> "ImageEncoder":
    """The image encoder of the training data, see :func:`flagst.encoders.recorded_encoder`."""
    from flagst.encoders import recorded_encoder

    try:
        return recorded_encoder(record, path=path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} On the command line: --encoder-path.") from None


def lay_spots(model: "FLAG", arguments: argparse.Namespace) -> "SpatialData":
    """The slide with spots on its tissue; by default with the distance of the training spots."""
    from flagst import io, pp

    spacing = model.spacing_ or {}
    known = spacing.get("layout")
    slide = io.read_slide(
        arguments.image, um_per_px=arguments.um_per_px, section=arguments.section, image_key=arguments.image_key
    )
    pitch_um = spacing.get("pitch_um", PITCH_UM) if arguments.pitch_um is None else arguments.pitch_um
    pp.tissue_spots(slide, pitch_um, layout=arguments.layout or (known if known in LAYOUTS else LAYOUT))
    table, setup = slide.tables[TABLE], model.setup_
    table.obs[setup["section_key"]] = table.obs[OBS.section]
    table.obsm[setup["spatial_key"]] = table.obsm[OBSM.spatial]
    return slide


def extract(
    data: "AnnData | SpatialData",
    encoder: "ImageEncoder",
    record: dict,
    key: str,
    *,
    section_key: str = OBS.section,
    cache: Path | None = None,
) -> None:
    """Compute image features with the settings of the training data. A run with ``resume`` reuses finished blocks."""
    from flagst import pp

    pp.image_features(
        data,
        encoder=encoder,
        patch_um=np.asarray(record.get(FEATURES.patch_um, encoder.patch_um), dtype=float).tolist(),
        stain_normalise=str(record.get(FEATURES.stain_normalise, "section")),
        section_key=section_key,
        key_added=key,
        cache=cache,
        progress=interactive(),
    )


def write(slide: "SpatialData", unfinished: Path, out: Path) -> None:
    """Write beside ``out``, then rename, so that ``out`` is complete at all times."""
    from dask.diagnostics import ProgressBar

    if unfinished.exists():
        shutil.rmtree(unfinished)
    with ProgressBar(out=sys.stderr) if interactive() else nullcontext():
        slide.write(unfinished)
    replaced = unfinished.with_name(f"{out.name}.replaced")
    if replaced.exists():
        shutil.rmtree(replaced)
    if out.exists():
        os.replace(out, replaced)
    os.replace(unfinished, out)
