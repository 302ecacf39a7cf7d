"""Vectors of genes and spots, from co-expression, tables and gene foundation models. Nothing is downloaded."""

from flagst.gfm._base import GeneEncoder, SpotEncoder, open_gene_model
from flagst.gfm.coexpression import CoExpression, coexpression
from flagst.gfm.geneformer import Geneformer
from flagst.gfm.names import match_genes, read_names
from flagst.gfm.scgpt import ScGPT
from flagst.gfm.table import Table
from flagst.gfm.tokens import RankTokeniser

__all__ = [
    "CoExpression",
    "GeneEncoder",
    "Geneformer",
    "RankTokeniser",
    "ScGPT",
    "SpotEncoder",
    "Table",
    "coexpression",
    "match_genes",
    "open_gene_model",
    "read_names",
]
