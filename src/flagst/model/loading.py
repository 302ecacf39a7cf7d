"""Is a table the one a saved model was trained on?"""

from collections.abc import Iterable

from flagst.data.section import Section

HINT = "Load the model without adata, and pass other sections to predict(adata)."


def require_same_genes(expected: Iterable[str], found: Iterable[str], *, where: str) -> None:
    """Raise a ``ValueError`` unless both name the same genes, in any order."""
    expected, found = [str(gene) for gene in expected], [str(gene) for gene in found]
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise ValueError(
            f"The model in {where} was trained on a table of {len(expected)} genes; adata has {len(found)}: "
            f"missing {missing[:5]}, not expected {extra[:5]}. {HINT}"
        )


def require_same_sections(expected: list[str], found: list[Section], *, where: str) -> None:
    """Raise a ``ValueError`` when there are sections the model was not trained on."""
    new = [section.name for section in found if section.name not in expected]
    if new:
        raise ValueError(f"The model in {where} was trained on sections {expected}; adata has {new}. {HINT}")
