"""Preprocessing: place spots on tissue, compute image features, fit encoders, select genes, add gene embeddings."""

from flagst.pp._add_genes import add_genes
from flagst.pp._features import image_features
from flagst.pp._fit_encoder import fit_encoder
from flagst.pp._gene_embeddings import gene_embeddings
from flagst.pp._genes import select_genes
from flagst.pp._tissue_spots import tissue_spots

__all__ = ["add_genes", "fit_encoder", "gene_embeddings", "image_features", "select_genes", "tissue_spots"]
