"""Loading a saved model: is a table the one it was trained on?"""

from collections.abc import Iterable
from pathlib import Path

from anndata import AnnData

from flagst.data.measured import section_rows
from flagst.data.prediction_record import table_of
from flagst.model.fingerprint import fingerprint
from flagst.model.quiet import quiet_libraries
from flagst.model.saved import require_own_file

#: As scvi-tools calls it.
MODEL_FILE = "model.pt"
HINT = "Load the model without adata, and pass other sections to predict(adata)."


class Loading:
    """How a model comes back from disk; a part of :class:`flagst.FLAG`."""

    @classmethod
    def load(cls, dir_path: str, adata: AnnData | None = None, *, trusted: bool = False, **kwargs) -> "Loading":
        """Load a saved model; no AnnData is needed to predict.

        A saved model is a pickle, which can run code when it is read. It is first looked through with nothing allowed
        but what a model of flagst consists of, so that a file from elsewhere that holds more is refused.

        Parameters
        ----------
        dir_path
            Folder written by ``save``.
        adata
            Training data, only to go on training; genes in any order. New sections are for
            :meth:`predict`. ``None`` takes what was saved beside the model, if anything; so does ``False``.
        trusted
            Do not look first: whatever code the file holds is run.
        **kwargs
            As in scvi-tools; ``backup_url`` with ``trusted=True`` only.

        Raises
        ------
        FileNotFoundError
            The folder holds no model.
        KeyError, ValueError
            The file holds more than a model, or is broken; or ``adata`` is not the training data: other genes,
            sections, spots or image features.
        """
        dir_path = str(dir_path)
        if not trusted:
            require_own_file(Path(dir_path) / f"{kwargs.get('prefix') or ''}{MODEL_FILE}")
        with quiet_libraries():
            if adata is None or adata is False:
                saved = f"{kwargs.get('prefix') or ''}adata.h5ad"
                return super().load(dir_path, None if (Path(dir_path) / saved).exists() else False, **kwargs)
            model, adata = super().load(dir_path, False, **kwargs), table_of(adata)
            require_same_genes(model.get_var_names(), adata.var_names, where=dir_path)
            sections = model._sections(adata, measured=True)
            require_same_spots(model.spots_, spot_digests(adata, model.setup_["section_key"]), where=dir_path)
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


def require_same_spots(expected: dict[str, str], found: dict[str, str], *, where: str) -> None:
    """Raise a ``ValueError`` unless both, as from :func:`spot_digests`, have the same sections of the same spots."""
    missing, extra = [s for s in expected if s not in found], [s for s in found if s not in expected]
    if missing or extra:
        raise ValueError(
            f"The model in {where} was trained on sections {list(expected)}; adata has {list(found)}: "
            f"missing {missing}, not expected {extra}. {HINT}"
        )
    other = [section for section, digest in expected.items() if found[section] != digest]
    if other:
        raise ValueError(f"The model in {where} was trained on other spots of sections {other}. {HINT}")


def spot_digests(adata: AnnData, section_key: str) -> dict[str, str]:
    """Hash of the names of every section's spots, whatever their order."""
    names = adata.obs_names.to_numpy(dtype=str)
    return {name: fingerprint(sorted(names[rows])) for name, rows in section_rows(adata, section_key).items()}
