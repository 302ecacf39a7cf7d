"""Genes by name: symbols, Ensembl identifiers with or without version, upper and lower case, aliases."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flagst._files import load_json
from flagst.gfm._files import load_pickle

_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d+)(\.\d+)?$")
#: A smaller share of known genes means names of another kind, not a small panel.
LEAST_SHARE = 0.1


def match_genes(genes: Sequence[str], known: Sequence[str], *, aliases: Mapping[str, str] | None = None) -> np.ndarray:
    """Find each gene among known genes.

    The first match in this order is used: the name itself; its alias, or the alias of an Ensembl identifier without its
    version; either of them without version (``ENSG00000141510.17``); either of them in another case, for mouse symbols
    (``Actb``, ``ACTB``), unless two known genes differ by case only.

    Parameters
    ----------
    genes
        ``n_genes`` names to look for.
    known
        Names that have vectors. Of repeated names the first is used.
    aliases
        From gene to another name of it, such as symbol to Ensembl identifier.

    Returns
    -------
    ``(n_genes,)`` int64, position in ``known``; -1 for a gene that is not found.

    Examples
    --------
    >>> known = ["ACTB", "ENSG00000141510.17"]
    >>> flagst.gfm.match_genes(["TP53", "Actb", "GNAS"], known, aliases={"TP53": "ENSG00000141510"})
    array([ 1,  0, -1])
    """
    aliases = aliases or {}
    exact = _first(known)
    bare = _first([_bare(name) for name in known])
    folded: dict[str, int] = {}
    for name, position in bare.items():
        same = name.casefold()
        folded[same] = -1 if same in folded else position
    index = np.full(len(genes), -1, dtype=np.int64)
    for i, gene in enumerate(genes):
        names = [gene, *[aliases[name] for name in (gene, _bare(gene)) if name in aliases][:1]]
        for table, form in ((exact, str), (bare, _bare), (folded, lambda name: _bare(name).casefold())):
            found = next((table[form(name)] for name in names if form(name) in table), -1)
            if found >= 0:
                index[i] = found
                break
    return index


def read_names(path: str | Path) -> dict[str, str]:
    """Read a file of gene names, for ``names=`` of gene models and tables.

    The result goes both ways, so that symbols find vectors by identifier, and identifiers find vectors by symbol. If an
    identifier has several symbols, the first in the file is used.

    Parameters
    ----------
    path
        Dict of symbol to Ensembl identifier as ``.json`` or ``.pkl``, such as Geneformer's ``gene_name_id_dict``.
        Nothing in a pickle is run.

    Returns
    -------
    Dict of symbol to Ensembl identifier, and of identifier (without version) to symbol.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is broken, or is no dict of names; the message names it.

    Examples
    --------
    >>> import json, pathlib
    >>> n = pathlib.Path("names.json").write_text(json.dumps({"TP53": "ENSG00000141510"}))
    >>> flagst.gfm.read_names("names.json")
    {'ENSG00000141510': 'TP53', 'TP53': 'ENSG00000141510'}
    """
    path = Path(path)
    held = load_json(path) if path.suffix == ".json" else load_pickle(path)
    if not isinstance(held, dict) or not all(isinstance(name, str) for pair in held.items() for name in pair):
        raise ValueError(f"{path.name} is no dict of symbol to Ensembl identifier.")
    back: dict[str, str] = {}
    for symbol, identifier in held.items():
        back.setdefault(_bare(identifier), symbol)
    return back | held


def require_overlap(index: np.ndarray, genes: Sequence[str], known: Sequence[str], *, where: str) -> None:
    """Raise a ``ValueError`` that shows names of both kinds when hardly any gene is known.

    ``index`` is the result of :func:`match_genes`; ``where`` says in the message what the known genes belong to.
    """
    found = int((index >= 0).sum())
    if found < max(1, LEAST_SHARE * len(genes)):
        raise ValueError(
            f"{where} knows {found} of {len(genes)} genes. These genes have names like {list(genes[:3])}, it knows "
            f"names like {list(known[:3])}. Pass names=, a dict from one to the other or a column of adata.var."
        )


def rows_of(index: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of matched genes, (n_genes, d) float32, and which genes have one; a row of zeros is no vector."""
    known = (index >= 0) & (vectors[index] != 0).any(axis=1)
    return np.where(known[:, None], vectors[index], 0).astype(np.float32), known


def aliases_of(adata, names: "str | Mapping[str, str] | None") -> dict[str, str]:
    """Other names of genes, from a mapping or from a column of ``adata.var``; a ``KeyError`` without that column."""
    if names is None:
        return {}
    if isinstance(names, str):
        if names not in adata.var:
            raise KeyError(f"adata.var has no column {names!r}; found {list(adata.var.columns)}.")
        column = adata.var[names]
        return {str(gene): str(name) for gene, name in column[column.notna()].items()}
    return {str(gene): str(name) for gene, name in names.items()}


def _bare(name: str) -> str:
    found = _ENSEMBL.match(name)
    return found[1] if found else name


def _first(names: Sequence[str]) -> dict[str, int]:
    positions: dict[str, int] = {}
    for i, name in enumerate(names):
        positions.setdefault(name, i)
    return positions
