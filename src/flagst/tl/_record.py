"""Tables of scores with sections in rows, and where their record is written."""

from typing import TYPE_CHECKING

from flagst._keys import UNS

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def section_table(scores: dict[str, dict[str, float]]) -> "pd.DataFrame":
    """Sections in rows, scores in columns, the average last."""
    import pandas as pd

    table = pd.DataFrame.from_dict(scores, orient="index").astype(float)
    average = table.mean(skipna=False).to_frame("mean").T
    return pd.concat([table, average]).rename_axis("section")


def section_records(table: "pd.DataFrame") -> dict[str, dict]:
    """``"mean"`` and ``"sections"`` of a table of :func:`section_table` as plain numbers."""
    sections = {name: table.iloc[row].to_dict() for row, name in enumerate(table.index[:-1])}
    return {"mean": table.iloc[-1].to_dict(), "sections": sections}


def write_record(adata: "AnnData", record: dict, *path: str) -> None:
    """Store ``record`` in ``adata.uns["flagst"]`` under ``path``, one key per level.

    Every level is a new dict, so that a view or a copy never shares the record with its parent.
    """
    slot = level = dict(adata.uns.get(UNS.flagst, {}))
    for key in path[:-1]:
        level[key] = dict(level.get(key, {}))
        level = level[key]
    level[path[-1]] = record
    adata.uns[UNS.flagst] = slot
