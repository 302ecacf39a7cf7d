"""Saved models: ``save``, ``load``, and the files between them.

A saved model is a folder with two files. They hold values only: no code and no module paths.

``model.safetensors``
    Every array. The weights of the networks are called ``network.<name>``; every other array bears the name of the
    place in ``model.json`` that refers to it, such as ``fitted/stage/scaler/mean``.
``model.json``
    Everything else, an object with these keys:

    ``format``
        :data:`FORMAT`, the number of the layout that is described here.
    ``flagst``
        Version of flagst that wrote it.
    ``arrays``
        SHA-256 of ``model.safetensors``.
    ``seed``, ``settings``
        Arguments of the constructor; ``settings`` are the attributes of :class:`flagst.settings.Settings`.
    ``registry``
        What scvi-tools knows of the training data: arguments of ``setup_anndata`` with the genes, names of all genes,
        and the summary statistics that the networks' sizes follow from.
    ``history``
        Losses: name -> ``epoch`` and ``value``, two lists.
    ``is_trained``, ``fitted``, ...
        The other attributes of a model, :data:`STATE` without the last underscore.

:mod:`flagst._values` says how values are written that JSON does not have. With ``save_anndata=True`` the training data
stands beside both files as ``adata.h5ad``. A ``prefix`` is put before the names of all files.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from safetensors.torch import save_file
from scvi.data import AnnDataManager

from flagst import __version__
from flagst._files import MODEL_FILE, drafted_folder, guarded, load_json, load_weights, sha256_of
from flagst._values import decode, encode
from flagst._weights import fit_weights
from flagst.data.identity import require_same_genes, require_same_spots, spot_digests
from flagst.data.measured import plain
from flagst.data.prediction_record import table_of
from flagst.regression import (
    ContextFeatures,
    GeneTransfer,
    KernelFeatures,
    LatentBasis,
    RegressionMean,
    RegressionStage,
    RidgeRegression,
    TargetScaler,
)
from flagst.sampling.fit import Fitted
from flagst.sampling.out_of_distribution import OutOfDistribution
from flagst.sampling.quantiles import IntervalCalibration
from flagst.sampling.unmeasured_genes import UnmeasuredGenes
from flagst.train.quiet import quiet_libraries

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Number of the layout of a saved model. Every change that an earlier version cannot read makes it one larger.
FORMAT = 1
#: The dataclasses that a saved model consists of. Their names and those of their fields are part of the format.
CLASSES = (
    ContextFeatures,
    Fitted,
    GeneTransfer,
    IntervalCalibration,
    KernelFeatures,
    LatentBasis,
    OutOfDistribution,
    RegressionMean,
    RegressionStage,
    RidgeRegression,
    TargetScaler,
    UnmeasuredGenes,
)
#: Attributes of a model that are saved as they are.
STATE = (
    "is_trained_",
    "features_",
    "spots_",
    "spacing_",
    "fitted_",
    "intervals_",
    "ood_",
    "unmeasured_",
)
ARRAYS_FILE = "model.safetensors"
ANNDATA_FILE = "adata.h5ad"
#: File of scvi-tools, which flagst used before its first release.
PICKLE_FILE = "model.pt"
#: What stands before the names of the networks' weights.
NETWORK = "network."


class Persistence:
    """How a model is written to disk and comes back; a part of :class:`flagst.FLAG`."""

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict | None = None,
        legacy_mudata_format: bool = False,
        datamodule: None = None,
        **anndata_write_kwargs,
    ) -> None:
        """Save the model in a folder, without its training data unless that is asked for.

        The folder holds values only, in JSON and safetensors: later versions of flagst can read it, and nothing in it
        can run. The files are written elsewhere first; a save that fails leaves an earlier model as it was.

        Parameters
        ----------
        dir_path
            Folder to write.
        prefix
            Put before the names of the files, so that a folder can hold several models.
        overwrite
            Replace the model in a folder that exists.
        save_anndata
            Also write the training data, to ``adata.h5ad``.
        save_kwargs, legacy_mudata_format, datamodule
            Of scvi-tools; they have no meaning here.
        **anndata_write_kwargs
            Passed to :func:`anndata.io.write_h5ad`.

        Writes
        ------
        ``model.json`` and ``model.safetensors``, and ``adata.h5ad``, in the folder.

        Raises
        ------
        ValueError
            The folder exists and ``overwrite`` is not given, there is no training data to save, or an argument has no
            meaning here.

        Examples
        --------
        >>> model.save("my_model")
        >>> flagst.FLAG.load("my_model").genes_ == model.genes_
        True
        """
        refuse(save_kwargs=save_kwargs, legacy_mudata_format=legacy_mudata_format, datamodule=datamodule)
        folder, prefix = Path(dir_path), prefix or ""
        if folder.exists() and not overwrite:
            raise ValueError(f"{folder} already exists. Name another folder, or pass overwrite=True to replace it.")
        table = self._registered() if save_anndata else None
        document, arrays = document_of(self)
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        tensors |= {f"{NETWORK}{name}": weight.contiguous() for name, weight in self.module.state_dict().items()}
        with drafted_folder(folder, last=f"{prefix}{MODEL_FILE}") as draft:
            save_file(tensors, draft / f"{prefix}{ARRAYS_FILE}")
            document["arrays"] = sha256_of(draft / f"{prefix}{ARRAYS_FILE}")
            if table is not None:
                # not the table's own method: of a table in a file, it would go on to read from the draft
                anndata.io.write_h5ad(draft / f"{prefix}{ANNDATA_FILE}", table, **anndata_write_kwargs)
            text = json.dumps(document, indent=1, allow_nan=False)
            (draft / f"{prefix}{MODEL_FILE}").write_text(text, encoding="utf-8")
        if table is None:
            (folder / f"{prefix}{ANNDATA_FILE}").unlink(missing_ok=True)  # of the model that was replaced

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: "AnnData | SpatialData | bool | None" = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule: None = None,
        allowed_classes_names_list: list[str] | None = None,
    ) -> "Persistence":
        """Load a saved model. No AnnData is needed to predict.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        adata
            Training data, with genes and spots in any order. It is needed only to train again; pass new sections to
            :meth:`predict`. ``None`` takes the data that was saved with the model, if there is any. ``False`` loads
            the model without data.
        accelerator, device
            Where the networks are put: ``"auto"``, ``"cpu"``, ``"gpu"`` or ``"mps"``, and the number of the device.
        prefix
            As in :meth:`save`.
        backup_url, datamodule
            Of scvi-tools; they have no meaning here.
        allowed_classes_names_list
            Names of other classes whose saved models may be loaded.

        Returns
        -------
        The model, as it was when it was saved.

        Raises
        ------
        FileNotFoundError
            The folder holds no model.
        KeyError, ValueError
            The model was written by a version of flagst with another format, or its files are damaged; or ``adata`` is
            not the training data: other genes, sections, spots or image features.

        Examples
        --------
        >>> model.save("my_model")
        >>> loaded = flagst.FLAG.load("my_model")
        >>> loaded.is_trained_, loaded.adata is None
        (True, True)
        """
        refuse(backup_url=backup_url, datamodule=datamodule)
        folder, prefix = Path(dir_path), prefix or ""
        document, tensors = read_model(folder, prefix)
        name = document["registry"]["model_name"]
        if name not in {cls.__name__, *(allowed_classes_names_list or [])}:
            raise ValueError(f"The model in {folder} is of the class {name}; load it with that class.")
        if adata is None and (folder / f"{prefix}{ANNDATA_FILE}").exists():
            adata = anndata.read_h5ad(folder / f"{prefix}{ANNDATA_FILE}")
        with quiet_libraries():
            model = cls._rebuilt(document, None)
            if adata is not None and adata is not False:
                table = table_of(adata)
                model._require_training_data(table, str(folder))
                cls.setup_anndata(table, **document["registry"]["setup_args"])
                model = cls._rebuilt(document, table)
        weights = {name.removeprefix(NETWORK): t for name, t in tensors.items() if name.startswith(NETWORK)}
        fit_weights(model.module, weights, file=f"{prefix}{ARRAYS_FILE}", model="this model")
        model.to_device(single_device(accelerator, device))
        model.module.eval()
        return model

    @staticmethod
    def load_registry(dir_path: str | Path, prefix: str | None = None) -> dict:
        """What scvi-tools knows of the training data of a saved model.

        Parameters
        ----------
        dir_path, prefix
            As in :meth:`load`.

        Returns
        -------
        The registry: plain values only.

        Raises
        ------
        FileNotFoundError, ValueError
            As in :meth:`load`.

        Examples
        --------
        >>> model.save("my_model")
        >>> flagst.FLAG.load_registry("my_model")["setup_args"]["section_key"]
        'section'
        """
        return read_model(Path(dir_path), prefix or "")[0]["registry"]

    @staticmethod
    def view_setup_args(dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the arguments of ``setup_anndata`` of a saved model.

        Parameters
        ----------
        dir_path, prefix
            As in :meth:`load`.

        Raises
        ------
        FileNotFoundError, ValueError
            As in :meth:`load`.

        Examples
        --------
        >>> model.save("my_model")
        >>> flagst.FLAG.view_setup_args("my_model")
        Setup via `FLAG.setup_anndata` with arguments:
        ...
        """
        AnnDataManager.view_setup_method_args(Persistence.load_registry(dir_path, prefix))

    @classmethod
    def _rebuilt(cls, document: dict, table: AnnData | None) -> "Persistence":
        """A model with everything but its weights."""
        registry = None if table is not None else document["registry"]
        model = cls(table, registry, seed=document["seed"], **document["settings"])
        for name in STATE:
            setattr(model, name, document[name.removesuffix("_")])
        model.history_ = frames_of(document["history"])
        return model

    def _require_training_data(self, table: AnnData, where: str) -> None:
        """Raise a ``KeyError`` or ``ValueError`` unless a table is the one that the model was trained on."""
        require_same_genes(self.get_var_names(), table.var_names, where=where)
        sections = self._sections(table, measured=True)
        require_same_spots(self.spots_, spot_digests(table, self.setup_["section_key"]), where=where)
        self._check_features(table, sections[0].image.shape[1])


def document_of(model) -> tuple[dict, dict[str, np.ndarray]]:
    """What ``model.json`` holds of a model, and the arrays that it refers to."""
    arrays: dict[str, np.ndarray] = {}
    state = {name.removesuffix("_"): getattr(model, name) for name in STATE}
    state["features"] = plain(state["features"])  # text that comes out of a file is in arrays
    values = {"seed": model.seed_, "settings": asdict(model.settings_), "history": lists_of(model.history_), **state}
    values["registry"] = plain(model.registry_)
    values = {name: encode(value, arrays, name, classes=CLASSES) for name, value in values.items()}
    document = {"format": FORMAT, "flagst": __version__}
    return document | values, arrays


def read_model(folder: Path, prefix: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """What both files of a saved model hold, decoded and checked.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        Another format, or a damaged file.
    """
    file, arrays_file = folder / f"{prefix}{MODEL_FILE}", folder / f"{prefix}{ARRAYS_FILE}"
    if not file.exists() and (folder / f"{prefix}{PICKLE_FILE}").exists():
        raise ValueError(
            f"The model in {folder} was saved as {prefix}{PICKLE_FILE} by a development version of flagst, before its "
            "first release. It cannot be read any more: train the model again, and save it."
        )
    document = load_json(file)
    if not isinstance(document, dict) or "format" not in document:
        raise ValueError(f"{file.name} cannot be read: it is no saved model of flagst.")
    if document["format"] != FORMAT:
        version = document.get("flagst")
        raise ValueError(
            f"The model in {folder} was saved by flagst {version} in format {document['format']}; flagst {__version__} "
            f"reads format {FORMAT}. Load it with that version (pip install flagst=={version}), or train it again."
        )
    tensors = load_weights(arrays_file)
    if sha256_of(arrays_file) != document.get("arrays"):
        raise ValueError(
            f"{arrays_file.name} is not the file that {file.name} was saved with: it is damaged or of another model."
        )
    arrays = {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith(NETWORK)}

    def decoded() -> dict:
        names = ("registry", "seed", "settings", "history", *(name.removesuffix("_") for name in STATE))
        missing = [name for name in names if name not in document]
        if missing:
            raise ValueError(f"it lacks {missing}")
        return {name: decode(document[name], arrays, classes=CLASSES) for name in names}

    return guarded(file, decoded), tensors


def lists_of(history: Mapping[str, pd.DataFrame] | None) -> dict[str, dict[str, list]]:
    """Losses as plain lists; each table has one column, and a row per epoch that was logged."""
    return {
        name: {"epoch": frame.index.tolist(), "value": frame.iloc[:, 0].astype(float).tolist()}
        for name, frame in (history or {}).items()
    }


def frames_of(history: dict[str, dict[str, list]]) -> dict[str, pd.DataFrame]:
    """Losses as scvi-tools has them."""
    return {
        name: pd.DataFrame({name: logged["value"]}, index=pd.Index(logged["epoch"], name="epoch"), dtype=np.float64)
        for name, logged in history.items()
    }


def single_device(accelerator: str, device: int | str) -> torch.device:
    """The device that scvi-tools' arguments mean; ``"auto"`` takes a CUDA device where there is one, else the CPU."""
    if isinstance(device, str) and device != "auto":
        return torch.device(device)
    kind = {"auto": "cuda" if torch.cuda.is_available() else "cpu", "gpu": "cuda"}.get(accelerator, accelerator)
    return torch.device(kind) if device == "auto" or kind == "cpu" else torch.device(kind, device)


def refuse(**arguments) -> None:
    """Raise a ``ValueError`` for arguments of scvi-tools that were given and have no meaning here."""
    given = [name for name, value in arguments.items() if value]
    if given:
        raise ValueError(f"{given} have no meaning for flagst, which saves a model as {MODEL_FILE}. Leave them out.")
