"""HER2-positive breast cancer sections on legacy Spatial Transcriptomics arrays."""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flagst._keys import OBS
from flagst.datasets import _download
from flagst.datasets._st_array import pitch_px, read_counts, read_spots, require_known, spot_names, st_section
from flagst.io import Section, build_sdata

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

logger = logging.getLogger("flagst")

DATA_DIR_VARIABLE = "FLAGST_DATA_DIR"
#: Of a legacy Spatial Transcriptomics array: spot diameter, and distance between centres, micrometres.
SPOT_DIAMETER_UM = 100.0
PITCH_UM = 200.0
UNLABELLED = "unlabelled"

_Locate = Callable[[str, str], "Path | None"]


def her2st(sections: str | Sequence[str], data_dir: str | Path | None = None, *, verify: bool = False) -> "SpatialData":
    """Load sections of the HER2ST breast cancer data set.

    Files are read from ``data_dir``, else from the folder in the environment variable ``FLAGST_DATA_DIR``. Both are
    read in place, without network. Without either, files are downloaded one by one from the public repository into
    ``pooch.os_cache("flagst")``, and each is compared with its known hash.

    Parameters
    ----------
    sections
        Section names, the letter of the patient and a number: ``"C2"`` or ``["C2", "C3"]``.
    data_dir
        The folder of the data set (it contains ``data/ST-cnts``), or the folder that contains it as ``her2st``.
    verify
        Compare files that are read in place with their known hashes too. Downloads are always compared.

    Returns
    -------
    SpatialData as described in :func:`flagst.io.build_sdata`, with (n_spots, n_genes) raw counts. Spots
    are in the order of the count files and named ``{section}_{x}x{y}``. One spot of D5 has no counts and is left out.
    Images are decoded when they are first used. ``obs`` has these columns too:

    - ``patient``;
    - ``array_row`` and ``array_col``: int, position on the array;
    - ``cluster``: expression cluster, named ``{patient}_{number}``, because clusters of different patients cannot be
      compared; ``"unlabelled"`` for spots without one;
    - ``pathologist_label``, if a section has them; ``"unlabelled"`` for spots without one.

    Raises
    ------
    ValueError
        A section is unknown or repeated, or a file does not match its hash.
    FileNotFoundError
        ``data_dir`` is not such a folder, or counts or spots of a section are missing.
    ConnectionError
        Counts or spots of a section could not be downloaded.

    Warns
    -----
    UserWarning
        An image or labels of a section could not be downloaded.

    Source
    ------
    Andersson et al., Nat. Commun. 2021; github.com/almaan/her2st; catalogued as CC BY 4.0.

    Examples
    --------
    >>> sdata = flagst.datasets.her2st(["C2", "C3"])  # doctest: +SKIP
    """
    names = require_known(sections, _download.known_sections(), data_set="HER2ST")
    data_dir = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    locate = _download_or_none if data_dir is None else _in_place(_root(Path(data_dir)), verify)
    parts = [_read_section(name, locate) for name in names]
    for column in (OBS.cluster, OBS.pathologist):
        if any(column in part.obs for part in parts):
            for part in parts:
                part.obs[column] = part.obs[column] if column in part.obs else UNLABELLED
    return build_sdata(parts)


def _root(data_dir: Path) -> Path:
    for candidate in (data_dir, data_dir / "her2st"):
        if (candidate / "data" / "ST-cnts").is_dir():
            return candidate
    raise FileNotFoundError(
        f"{data_dir} holds no HER2ST data: neither it nor its folder 'her2st' has data/ST-cnts. "
        f"Pass data_dir= or set {DATA_DIR_VARIABLE} to a copy of github.com/almaan/her2st."
    )


def _in_place(root: Path, verify: bool) -> _Locate:
    """A function that finds files in a folder, without network."""

    def locate(section: str, kind: str) -> Path | None:
        entry = _download.manifest().get((section, kind))
        path = root / entry.path if entry else None
        if path is None or not path.is_file():
            if kind in ("counts", "spots"):
                found = sorted(p.name.split(".")[0] for p in (root / "data" / "ST-cnts").glob("*.tsv.gz"))
                raise FileNotFoundError(
                    f"{path} is missing; {root} has counts of sections {found}. "
                    "Add the file, or leave data_dir out to download it."
                )
            return None
        if verify:
            _download.check_file(path, entry)
        return path

    return locate


def _download_or_none(section: str, kind: str) -> Path | None:
    """Download a file. None, with a warning, if an image or labels cannot be downloaded; they are optional."""
    entry = _download.manifest().get((section, kind))
    if entry is None:
        return None
    try:
        return _download.fetch(entry)
    except ConnectionError as error:
        if kind in ("counts", "spots"):
            raise
        message = f"Section {section!r} is loaded without its {kind.replace('_', ' ')}. {error}"
        logger.warning(message)
        warnings.warn(message, UserWarning, stacklevel=4)
        return None


def _read_section(name: str, locate: _Locate) -> Section:
    counts, spots = read_counts(locate(name, "counts")), read_spots(locate(name, "spots"))
    section = st_section(
        name,
        counts,
        spots,
        um_per_px=PITCH_UM / pitch_px(spots),
        spot_diameter_um=SPOT_DIAMETER_UM,
        image=locate(name, "image"),
    )
    section.obs.insert(0, OBS.patient, name[0])
    positions = section.obs.index.str.removeprefix(f"{name}_")
    for column, labels in _read_labels(name, locate).items():
        section.obs[column] = labels.reindex(positions).fillna(UNLABELLED).to_numpy(dtype=object)
    return section


def _read_labels(name: str, locate: _Locate) -> dict[str, "pd.Series"]:
    """Column of ``obs`` -> labels by array position, from the label files that the section has."""
    import pandas as pd

    labels = {}
    if path := locate(name, "cluster_labels"):
        table = pd.read_csv(path, sep="\t")
        values = table["patient_id"].astype(str) + "_" + table["label"].astype(str)
        labels[OBS.cluster] = pd.Series(values.to_numpy(dtype=object), index=spot_names(table["x"], table["y"]))
    if path := locate(name, "pathologist_labels"):
        # positions in this file are jittered, and some are empty
        table = pd.read_csv(path, sep="\t").dropna(subset=["x", "y", "label"])
        names = spot_names(table["x"].round(), table["y"].round())
        labels[OBS.pathologist] = pd.Series(table["label"].str.strip().to_numpy(dtype=object), index=names)
    return labels
