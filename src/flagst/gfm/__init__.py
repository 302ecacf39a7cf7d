"""Gene embeddings: from co-expression, from a table, from a gene foundation model. Nothing is downloaded."""

from flagst.gfm._base import GeneEncoder, open_gene_model
from flagst.gfm.coexpression import CoExpression, coexpression
from flagst.gfm.geneformer import Geneformer
from flagst.gfm.names import match_genes
from flagst.gfm.scgpt import ScGPT
from flagst.gfm.table import Table
from flagst.gfm.tokens import RankTokeniser

__all__ = [
    "CoExpression",
    "GeneEncoder",
    "Geneformer",
    "RankTokeniser",
    "ScGPT",
    "Table",
    "coexpression",
    "match_genes",
    "open_gene_model",
]
