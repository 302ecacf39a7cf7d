"""Mouse olfactory bulb on a legacy Spatial Transcriptomics array of about 2,000 spots."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flagst.datasets._her2st import DATA_DIR_VARIABLE
from flagst.datasets._st_array import pitch_px, read_counts, read_spots, require_known, st_section
from flagst.io import Section, build_sdata

if TYPE_CHECKING:
    from spatialdata import SpatialData

SECTIONS = ("MOB1", "MOB2")
#: Distance of rows and of columns of the array. Every other position is used: the nearest spots are 141 um apart.
STEP_UM = 100.0
SPOT_DIAMETER_UM = 100.0


def mob(sections: str | Sequence[str] = SECTIONS, data_dir: str | Path | None = None) -> "SpatialData":
    """Load sections of the mouse olfactory bulb from STUtility.

    They have 1,000 genes. Only spots under tissue are loaded. Files are read in place and not downloaded.

    Parameters
    ----------
    sections
        ``"MOB1"``, ``"MOB2"`` or both.
    data_dir
        Folder with ``MOB1.tsv.gz``, ``alignment_table_MOB1.tsv`` and ``MOB1.jpg`` (and the same for MOB2), or the
        folder that contains it as ``mob``. By default the folder in the environment variable ``FLAGST_DATA_DIR``.

    Returns
    -------
    SpatialData as described in :func:`flagst.io.build_sdata`, with (n_spots, n_genes) raw counts. Spots
    are named ``{section}_{x}x{y}``, and genes by versioned Ensembl identifier. ``obs`` also has ``array_row`` and
    ``array_col``, int. ``total_counts`` sums the 1,000 genes, because no others were published. The image has about 4.4
    micrometres per pixel.

    Raises
    ------
    ValueError
        A section is unknown or repeated.
    FileNotFoundError
        No folder is given, or a file is missing.

    Source
    ------
    github.com/jbergenstrahle/STUtility at 9a8f421, MIT. The distance of 100 um between positions of the array follows
    from its published size of 6.2 by 6.6 mm.

    Examples
    --------
    >>> sdata = flagst.datasets.mob("MOB1", data_dir="mob")  # doctest: +SKIP
    """
    names = require_known(sections, SECTIONS, data_set="The mouse olfactory bulb")
    root = _root(data_dir or os.environ.get(DATA_DIR_VARIABLE))
    return build_sdata([_read_section(name, root) for name in names])


def _root(data_dir: str | Path | None) -> Path:
    given = [] if data_dir is None else [Path(data_dir), Path(data_dir) / "mob"]
    for candidate in given:
        if any(candidate.glob("MOB*.tsv.gz")):
            return candidate
    raise FileNotFoundError(
        f"{data_dir or 'No folder'} holds no MOB1.tsv.gz or MOB2.tsv.gz. Pass data_dir= or set {DATA_DIR_VARIABLE} to "
        "the folder of these files out of github.com/jbergenstrahle/STUtility."
    )


def _read_section(name: str, root: Path) -> Section:
    paths = [root / f"{name}.tsv.gz", root / f"alignment_table_{name}.tsv", root / f"{name}.jpg"]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {root} has {sorted(p.name for p in root.iterdir())[:10]}.")
    counts, spots = read_counts(paths[0]), read_spots(paths[1])
    um_per_px = STEP_UM / pitch_px(spots)
    on_tissue = spots[spots["selected"] == 1]
    # spots off the tissue are left out here, so that st_section does not log them
    counts = counts.loc[~counts.index.isin(spots.index) | counts.index.isin(on_tissue.index)]
    return st_section(name, counts, on_tissue, um_per_px=um_per_px, spot_diameter_um=SPOT_DIAMETER_UM, image=paths[2])
