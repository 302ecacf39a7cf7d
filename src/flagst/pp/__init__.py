"""Preprocessing: image features of spots, and the gene panel."""

from flagst.pp._features import image_features
from flagst.pp._genes import select_genes

__all__ = ["image_features", "select_genes"]
