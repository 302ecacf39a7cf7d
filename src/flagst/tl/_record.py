"""Tables of scores with sections in rows, and where their record is written."""

from typing import TYPE_CHECKING

from flagst._keys import SLOT, UNS

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def section_table(scores: dict[str, dict[str, float]]) -> "pd.DataFrame":
    """Sections in rows, scores in columns, the average last."""
    import pandas as pd

    table = pd.DataFrame.from_dict(scores, orient="index").astype(float)
    average = table.mean(skipna=False).to_frame("mean").T
    return pd.concat([table, average]).rename_axis("section")


def section_records(table: "pd.DataFrame", names: list[str]) -> dict[str, dict]:
    """``"mean"`` and ``"sections"`` of a table of :func:`section_table` as plain numbers."""
    sections = {name: table.iloc[row].to_dict() for row, name in enumerate(names)}
    return {"mean": table.iloc[-1].to_dict(), "sections": sections}


def write_record(adata: "AnnData", layer: str, part: str | None, record: dict) -> None:
    """Store ``record`` in ``uns["flagst"]["metrics"][layer]``, or as one ``part`` of it.

    New dicts all the way down, so that a view or a copy never shares the record with its parent.
    """
    slot = dict(adata.uns.get(UNS.flagst, {}))
    scores = dict(slot.get(SLOT.metrics, {}))
    scores[layer] = record if part is None else {**scores.get(layer, {}), part: record}
    slot[SLOT.metrics] = scores
    adata.uns[UNS.flagst] = slot
