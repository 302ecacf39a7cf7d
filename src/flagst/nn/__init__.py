"""Torch networks. Torch and torch_geometric only; no AnnData, no noise schedules."""

from flagst.nn.alignment import AlignmentHead, GeneReadout, alignment_loss, contextual_embedding
from flagst.nn.gene_denoiser import GeneDenoiser
from flagst.nn.graph_encoder import EdgeModulatedAttention, SpatialGraphEncoder
from flagst.nn.latent_denoiser import LatentDenoiser
from flagst.nn.network import FlagNetwork

__all__ = [
    "AlignmentHead",
    "EdgeModulatedAttention",
    "FlagNetwork",
    "GeneDenoiser",
    "GeneReadout",
    "LatentDenoiser",
    "SpatialGraphEncoder",
    "alignment_loss",
    "contextual_embedding",
]
