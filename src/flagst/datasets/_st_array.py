"""Files of a legacy Spatial Transcriptomics array: counts by array position, and where positions lie."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def read_counts(path: Path) -> "pd.DataFrame":
    """Spots x genes int32, index ``{x}x{y}``; line by line, ten times faster than a general reader."""
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


def spot_names(x: "pd.Series", y: "pd.Series") -> "pd.Index":
    """Array positions as the names that count files give their rows."""
    import pandas as pd

    return pd.Index(x.astype(int).astype(str) + "x" + y.astype(int).astype(str))


def pitch_px(spots: "pd.DataFrame") -> float:
    """Pixels per array step, from the linear map that takes array positions to pixels best.

    The median distance to the nearest spot would be too short by 6 %: the array jitters, and the nearest of
    four neighbours is the one that jitter brought closer.
    """
    steps = np.column_stack([spots["x"], spots["y"], np.ones(len(spots))])
    coords = spots[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)
    linear, _, rank, _ = np.linalg.lstsq(steps, coords, rcond=None)
    if rank < 3:
        raise ValueError("The spots lie on one line of the array: the pitch cannot be measured.")
    return float(np.sqrt(abs(np.linalg.det(linear[:2]))))
