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
#: Legacy Spatial Transcriptomics array: spot diameter and centre-to-centre distance, micrometres.
SPOT_DIAMETER_UM = 100.0
PITCH_UM = 200.0
UNLABELLED = "unlabelled"

_Locate = Callable[[str, str], "Path | None"]


def her2st(sections: str | Sequence[str], data_dir: str | Path | None = None, *, verify: bool = False) -> "SpatialData":
    """Load sections of the HER2ST breast cancer data set.

    Files come from ``data_dir``, else from the folder named by the environment variable ``FLAGST_DATA_DIR``
    (both read in place, without any network), else they are downloaded one by one from the upstream
    repository into ``pooch.os_cache("flagst")``, each checked against the hash it must have.

    Parameters
    ----------
    sections
        Section names, patient letter and number: ``"C2"`` or ``["C2", "C3"]``.
    data_dir
        The data set's folder (with ``data/ST-cnts`` in it) or the folder that holds it as ``her2st``.
    verify
        Also check files read in place against the manifest's hashes. Downloads are always checked.

    Returns
    -------
    SpatialData as described in :func:`flagst.io.build_sdata`. Spots are in the order of the count files (one
    of D5 has no count at all and is left out) and named ``{section}_{x}x{y}``. Images are decoded on first
    use. ``obs`` also has ``patient``, ``array_row`` and ``array_col`` (int, array position), ``cluster``
    (expression cluster; comparable between sections of one patient only, hence ``{patient}_{number}``) and
    ``pathologist_label``; the last two are there when a section has them, with ``"unlabelled"`` where a spot
    has none.

    Raises
    ------
    ValueError
        Unknown or repeated section, or a file that does not match its hash.
    FileNotFoundError
        ``data_dir`` is not such a folder, or lacks a section's counts or spots.
    ConnectionError
        A section's counts or spots could not be downloaded.

    Source
    ------
    Andersson et al., Nat. Commun. 2021; github.com/almaan/her2st; catalogued as CC BY 4.0.

    Example
    -------
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
    """Locator that finds files in a folder and never touches the network."""

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
    """Locator that downloads; a section can do without image and labels, not without counts and spots."""
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
    """Column of ``obs`` -> label by array position, of the label files that the section has."""
    import pandas as pd

    labels = {}
    if path := locate(name, "cluster_labels"):
        table = pd.read_csv(path, sep="\t")
        values = table["patient_id"].astype(str) + "_" + table["label"].astype(str)
        labels[OBS.cluster] = pd.Series(values.to_numpy(dtype=object), index=spot_names(table["x"], table["y"]))
    if path := locate(name, "pathologist_labels"):
        # the file holds jittered array positions, some of them empty
        table = pd.read_csv(path, sep="\t").dropna(subset=["x", "y", "label"])
        names = spot_names(table["x"].round(), table["y"].round())
        labels[OBS.pathologist] = pd.Series(table["label"].str.strip().to_numpy(dtype=object), index=names)
    return labels
