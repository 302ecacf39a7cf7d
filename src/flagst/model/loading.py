"""Loading a saved model: is a table the one it was trained on?"""

from collections.abc import Iterable
from pathlib import Path

from anndata import AnnData

from flagst.data.record import table_of
from flagst.data.section import Section
from flagst.model.quiet import quiet_libraries

HINT = "Load the model without adata, and pass other sections to predict(adata)."


class Loading:
    """How a model comes back from disk; a part of :class:`flagst.FLAG`."""

    @classmethod
    def load(cls, dir_path: str, adata: AnnData | None = None, **kwargs) -> "Loading":
        """Load a saved model; no AnnData is needed to predict.

        Parameters
        ----------
        dir_path
            Folder written by ``save``.
        adata
            Training data, only to go on training; genes in any order. New sections are for
            :meth:`predict`. ``None`` takes what was saved beside the model, if anything; so does ``False``.
        **kwargs
            As in scvi-tools.

        Raises
        ------
        KeyError, ValueError
            ``adata`` is not the training data: other genes, sections or image features.
        """
        dir_path = str(dir_path)
        with quiet_libraries():
            if adata is None or adata is False:
                saved = f"{kwargs.get('prefix') or ''}adata.h5ad"
                return super().load(dir_path, None if (Path(dir_path) / saved).exists() else False, **kwargs)
            model, adata = super().load(dir_path, False, **kwargs), table_of(adata)
            require_same_genes(model.get_var_names(), adata.var_names, where=dir_path)
            sections = model._sections(adata, measured=True)
            require_same_sections(model.sections_, sections, where=dir_path)
            model._check_features(adata, sections[0].image.shape[1])
            return super().load(dir_path, adata, **kwargs)


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
