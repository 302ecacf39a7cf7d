"""Read sections of a legacy Spatial Transcriptomics array: counts by array position, and positions in pixels."""

import gzip
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flagst._keys import OBS
from flagst.io import Section, lazy_pyramid

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("flagst")


def require_known(sections: str | Sequence[str], known: Sequence[str], *, data_set: str) -> list[str]:
    """Section names as a list. Raises a ``ValueError`` if there are none, or if one is unknown."""
    names = [sections] if isinstance(sections, str) else list(sections)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        said = f"{data_set} has no section {unknown}" if names else "No section was named"
        raise ValueError(f"{said}; known sections: {list(known)}.")
    return names


def st_section(
    name: str,
    counts: "pd.DataFrame",
    spots: "pd.DataFrame",
    *,
    um_per_px: float,
    spot_diameter_um: float,
    image: Path | None,
) -> Section:
    """A section of the spots that have counts and a position.

    Parameters
    ----------
    name
        Section.
    counts
        From :func:`read_counts`.
    spots
        From :func:`read_spots`, with the columns ``pixel_x`` (column) and ``pixel_y`` (row).
    um_per_px
        Micrometres per pixel.
    spot_diameter_um
        Diameter of a spot, micrometres.
    image
        Image file, if there is one.
    """
    import pandas as pd

    kept = counts.index.isin(spots.index) & (counts.to_numpy().sum(axis=1) > 0)
    if not kept.all():
        left_out = list(counts.index[~kept])
        logger.warning("Section %r: spots without position or counts are left out: %s.", name, left_out)
        counts = counts.loc[kept]
    spots = spots.loc[counts.index]
    obs = pd.DataFrame(index=name + "_" + counts.index)
    obs[OBS.array_row] = spots["y"].to_numpy(dtype=np.int64)
    obs[OBS.array_col] = spots["x"].to_numpy(dtype=np.int64)
    return Section(
        name=name,
        # pixels, because the integer array positions ignore the jitter of the array
        coords=spots[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64),
        counts=counts.to_numpy(),
        genes=list(counts.columns),
        obs=obs,
        spot_diameter_px=spot_diameter_um / um_per_px,
        um_per_px=um_per_px,
        layout="square",
        image=None if image is None else lazy_pyramid(image),
    )


def read_counts(path: Path) -> "pd.DataFrame":
    """Counts (n_spots, n_genes) int32, index ``{x}x{y}``. Ten times faster than a general reader."""
    import pandas as pd

    names, rows = [], []
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        genes = handle.readline().rstrip("\n").split("\t")[1:]
        for line in handle:
            name, _, values = line.partition("\t")
            rows.append(np.fromstring(values, dtype=np.int32, sep="\t"))
            names.append(name)
            if len(rows[-1]) != len(genes):
                raise ValueError(f"{path}: spot {name!r} has {len(rows[-1])} counts for {len(genes)} genes.")
    return pd.DataFrame(np.stack(rows), index=names, columns=genes)


def read_spots(path: Path) -> "pd.DataFrame":
    """Array positions and their pixels, index ``{x}x{y}``."""
    import pandas as pd

    spots = pd.read_csv(path, sep="\t")
    spots.index = spot_names(spots["x"], spots["y"])
    return spots


def spot_names(x: "pd.Series", y: "pd.Series") -> "pd.Index":
    """Names ``{x}x{y}`` of array positions, as in the count files."""
    import pandas as pd

    return pd.Index(x.astype(int).astype(str) + "x" + y.astype(int).astype(str))


def pitch_px(spots: "pd.DataFrame") -> float:
    """Pixels per step of the array, from a least-squares affine map of array positions to pixels.

    The median distance to the nearest spot would be 6 % too short: positions jitter, and the nearest of four
    neighbours is the one that the jitter moved closer.
    """
    steps = np.column_stack([spots["x"], spots["y"], np.ones(len(spots))])
    coords = spots[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)
    linear, _, rank, _ = np.linalg.lstsq(steps, coords, rcond=None)
    if rank < 3:
        raise ValueError("The spots lie on one line of the array: the pitch cannot be measured.")
    return float(np.sqrt(abs(np.linalg.det(linear[:2]))))
