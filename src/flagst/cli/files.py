"""``flagst train``, ``predict`` and ``evaluate``, with h5ad files and SpatialData zarrs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flagst._checks import require_key
from flagst._keys import OBS, OBSM, PREDICTION_TABLE, TABLE
from flagst.cli import slide
from flagst.cli.console import hush, interactive, scores_table

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Default number of samples for the standard deviation and quantiles.
N_SAMPLES = 50
#: Arguments of ``flagst predict`` that are only for slides.
SLIDE_OPTIONS = ("um_per_px", "pitch_um", "layout", "section", "image_key", "without_image", "resume")


def train(arguments: argparse.Namespace) -> None:
    """``flagst train``."""
    from flagst import pp
    from flagst.model import FLAG

    hush()
    refuse_existing(arguments.model, overwrite=arguments.overwrite)
    data = with_features(read(arguments.data), arguments.section_key)
    adata = table(data)
    if arguments.sections:
        require_key(adata.obs, arguments.section_key, where="adata.obs", hint="Name the column with --section-key.")
        labels = adata.obs[arguments.section_key].astype(str)
        unknown = sorted(set(arguments.sections) - set(labels))
        if unknown:
            raise ValueError(f"--sections {unknown} are not in {arguments.data}; found {sorted(set(labels))}.")
        adata = adata[labels.isin(arguments.sections).to_numpy()].copy()
    if arguments.n_genes:
        pp.select_genes(adata, arguments.n_genes, section_key=arguments.section_key, layer=arguments.layer)
    FLAG.setup_anndata(adata, section_key=arguments.section_key, layer=arguments.layer)
    model = FLAG(adata, target=arguments.target, seed=arguments.seed)
    model.train(max_epochs=arguments.max_epochs, enable_progress_bar=interactive())
    model.save(str(arguments.model), overwrite=arguments.overwrite)
    print(f"Trained on {adata.n_obs} spots and {len(model.genes_)} genes; model in {arguments.model}")


def predict(arguments: argparse.Namespace) -> None:
    """``flagst predict``, for a file with spots or a slide."""
    refuse_existing(arguments.out, overwrite=arguments.overwrite)
    given = [f"--{name.replace('_', '-')}" for name in SLIDE_OPTIONS if getattr(arguments, name) not in (None, False)]
    if (arguments.data is None) == (arguments.image is None):
        raise ValueError("Pass either DATA, a file with spots, or --image, a slide without spots.")
    if arguments.image is not None:
        slide.predict(arguments, prediction_options(arguments))
    elif given:
        raise ValueError(f"{', '.join(given)} are for --image; {arguments.data} has spots of its own.")
    else:
        _predict_file(arguments)


def prediction_options(arguments: argparse.Namespace) -> dict:
    """Keyword arguments of :meth:`flagst.FLAG.predict`."""
    uncertainty = arguments.std or bool(arguments.quantiles)
    return {
        "structure": arguments.structure,
        "seed": arguments.seed,
        "allow_missing": arguments.allow_missing,
        "n_samples": arguments.n_samples or (N_SAMPLES if uncertainty else 1),
        "return_std": arguments.std,
        "quantiles": tuple(arguments.quantiles),
    }


def _predict_file(arguments: argparse.Namespace) -> None:
    from flagst.model import FLAG

    hush()
    if arguments.out.resolve() == arguments.data.resolve():
        raise ValueError(f"--out is the input {arguments.data}; name another file.")
    if arguments.out.suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"--out must end in .h5ad or .zarr; got {arguments.out}.")
    model = FLAG.load(str(arguments.model))
    data = read(arguments.data)
    if arguments.out.suffix == ".zarr" and not hasattr(data, "tables"):
        raise ValueError(f"{arguments.data} is an h5ad file: --out must end in .h5ad too; got {arguments.out}.")
    key = model.setup_["image_key"]
    if key not in table(data).obsm:
        record = model.features_.get(key, {})
        encoder = slide.open_encoder(record, arguments.encoder_path)
        slide.extract(data, encoder, record, key, section_key=model.setup_["section_key"])
    prediction = model.predict(data, **prediction_options(arguments))
    if arguments.out.suffix == ".zarr":
        data.write(arguments.out, overwrite=arguments.overwrite)
    else:
        prediction.write_h5ad(arguments.out)
    print(f"Predicted {prediction.n_obs} spots and {prediction.n_vars} genes; written to {arguments.out}")


def evaluate(arguments: argparse.Namespace) -> None:
    """``flagst evaluate``."""
    from flagst import tl

    scores = tl.evaluate(table(read(arguments.data), predicted=True), arguments.layer, target=arguments.target)
    print(scores_table(scores))
    if arguments.out:
        scores.to_csv(arguments.out)
        print(f"All metrics in {arguments.out}")


def read(path: Path) -> "AnnData | SpatialData":
    """An h5ad file as AnnData, a folder as SpatialData.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. Pass an h5ad file or a SpatialData zarr.")
    if path.is_dir():
        import spatialdata

        return spatialdata.read_zarr(path)
    import anndata

    return anndata.read_h5ad(path)


def table(data: "AnnData | SpatialData", *, predicted: bool = False) -> "AnnData":
    """The table of a file; with ``predicted``, the table with a prediction if there is a separate one."""
    if not hasattr(data, "tables"):
        return data
    name = PREDICTION_TABLE if predicted and PREDICTION_TABLE in data.tables else TABLE
    require_key(data.tables, name, where="sdata.tables", hint="See flagst.io.build_sdata.")
    return data.tables[name]


def with_features(data: "AnnData | SpatialData", section_key: str = OBS.section) -> "AnnData | SpatialData":
    """``data`` with image features, which are computed if it has none."""
    if OBSM.image not in table(data).obsm:
        from flagst import pp

        pp.image_features(data, section_key=section_key, progress=interactive())
    return data


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise a ``FileExistsError`` if ``path`` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is already there. Pass --overwrite to replace it.")
