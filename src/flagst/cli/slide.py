"""``flagst predict --image``: from a slide without expression to a SpatialData with a prediction, in one go."""

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

#: Distance of spots where the model does not know that of its training sections, micrometres.
PITCH_UM = 100.0
LAYOUT = "hex"
LAYOUTS = ("hex", "square")
#: In the folder of what is not finished: blocks of image features, and the result.
FEATURES_FOLDER, RESULT = "features", "result.zarr"


def predict(arguments: argparse.Namespace, options: dict) -> None:
    """Read the slide, lay spots, extract features, predict, write.

    Nothing stands at ``out`` before all of it is written. What a broken run leaves is beside it, under a name of its
    own; with ``resume`` the features in there are taken, where they are of the same pixels, spots and encoder.

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
        No such image, or an encoder's weights that are not at ``encoder_path``.
    ValueError
        ``out`` is no ``.zarr`` or the image itself; no tissue; no micrometres per pixel; an encoder that is not there.
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
    """The encoder of the training data, see :func:`flagst.encoders.recorded_encoder`."""
    from flagst.encoders import recorded_encoder

    try:
        return recorded_encoder(record, path=path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} On the command line: --encoder-path.") from None


def lay_spots(model: "FLAG", arguments: argparse.Namespace) -> "SpatialData":
    """The slide with spots on its tissue, as far apart as those the model was trained on if nothing else is asked."""
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
    """Image features as those of the training data; finished blocks are kept for a run that resumes this one."""
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
    """Write beside ``out``, then rename: what stands there is whole, or what was there before."""
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
