"""``flagst predict --image``: from a slide without expression to a SpatialData with a prediction, in one go."""

import argparse
import json
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from flagst._keys import FEATURES, OBS, OBSM, SLOT, TABLE, UNS
from flagst.cli.console import Steps, hush, interactive

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from flagst.model import FLAG

#: Distance of spots where the model does not know that of its training sections, micrometres.
PITCH_UM = 100.0
LAYOUT = "hex"
LAYOUTS = ("hex", "square")
#: In the folder of what is not finished: the spots with their features, of which image, and the whole result.
SPOTS, IMAGE, RESULT = "spots.h5ad", "image.json", "result.zarr"


def predict(arguments: argparse.Namespace, options: dict) -> None:
    """Read the slide, lay spots, extract features, predict, write.

    Nothing stands at ``out`` before all of it is written. What a broken run leaves is beside it, under a name of its
    own; with ``resume`` the features in there are taken, where they are of the same image, spots and encoder.

    Parameters
    ----------
    arguments
        ``image``, ``model``, ``out``, ``um_per_px``, ``pitch_um``, ``layout``, ``section``, ``image_key``,
        ``resume``, ``overwrite``, ``without_image``.
    options
        For :meth:`flagst.FLAG.predict`.

    Raises
    ------
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
    partial = arguments.out.with_name(f".{arguments.out.name}.partial")
    with steps("Finding tissue"):
        slide = lay_spots(model, arguments)
    table = slide.tables[TABLE]
    if arguments.resume:
        restore_features(table, partial, arguments.image, key)
    with steps(f"Image features of {table.n_obs} spots"):
        extract(slide, model.features_.get(key, {}), key)
        keep_features(table, partial, arguments.image)
    with steps("Predicting"):
        slide.tables[TABLE] = model.prepare_query(slide)
        prediction = model.predict(slide, **options)
    with steps("Writing"):
        if arguments.without_image:
            slide.images.clear()
        write(slide, partial / RESULT, arguments.out)
    shutil.rmtree(partial)
    print(f"Predicted {prediction.n_obs} spots and {prediction.n_vars} genes; written to {arguments.out}")


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


def extract(slide: "SpatialData", record: dict, key: str) -> None:
    """Image features as those of the training data, see :func:`flagst.encoders.recorded_encoder`."""
    import numpy as np

    from flagst import pp
    from flagst.encoders import recorded_encoder

    encoder = recorded_encoder(record)
    pp.image_features(
        slide,
        encoder=encoder,
        patch_um=np.asarray(record.get(FEATURES.patch_um, encoder.patch_um), dtype=float).tolist(),
        stain_normalise=str(record.get(FEATURES.stain_normalise, "section")),
        key_added=key,
        progress=interactive(),
    )


def keep_features(table: "AnnData", partial: Path, image: Path) -> None:
    """Leave the spots and their features for a run that resumes this one."""
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    (partial / IMAGE).write_text(json.dumps(_identity(image)))
    unfinished = partial / f"{SPOTS}.part"
    table.write_h5ad(unfinished)
    os.replace(unfinished, partial / SPOTS)


def restore_features(table: "AnnData", partial: Path, image: Path, key: str) -> None:
    """Take the features of an earlier run, if they are of this image; whether they fit is seen when they are used."""
    import anndata

    if not (partial / SPOTS).exists() or json.loads((partial / IMAGE).read_text()) != _identity(image):
        return
    earlier = anndata.read_h5ad(partial / SPOTS)
    if list(earlier.obs_names) != list(table.obs_names) or key not in earlier.obsm:
        return
    table.obsm[key] = earlier.obsm[key]
    table.uns[UNS.flagst][SLOT.features] = earlier.uns[UNS.flagst][SLOT.features]


def _identity(image: Path) -> dict:
    info = image.stat()
    return {"path": str(image.resolve()), "modified": info.st_mtime_ns, "bytes": info.st_size}


def write(slide: "SpatialData", unfinished: Path, out: Path) -> None:
    """Write beside ``out``, then rename: what stands there is whole, or what was there before."""
    from dask.diagnostics import ProgressBar

    if unfinished.exists():
        shutil.rmtree(unfinished)
    with ProgressBar(out=sys.stderr) if interactive() else nullcontext():
        slide.write(unfinished)
    replaced = unfinished.with_name(f"{out.name}.replaced")
    if out.exists():
        os.replace(out, replaced)
    os.replace(unfinished, out)
