"""Torch networks. Torch and torch_geometric only; no AnnData, no noise schedules."""

import warnings

with warnings.catch_warnings():
    # torch_geometric compiles some helpers on its first import: nothing a user could act on
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    import torch_geometric.nn  # noqa: F401

from flagst.nn.alignment import GeneReadout, alignment_loss, contextual_embedding
from flagst.nn.alignment_heads import LOSS, AlignmentHead, CellHead, ContextualHead, choose_genes
from flagst.nn.gene_denoiser import GeneDenoiser
from flagst.nn.graph_encoder import EdgeModulatedAttention, SpatialGraphEncoder
from flagst.nn.latent_denoiser import LatentDenoiser
from flagst.nn.network import FlagNetwork

__all__ = [
    "LOSS",
    "AlignmentHead",
    "CellHead",
    "ContextualHead",
    "EdgeModulatedAttention",
    "FlagNetwork",
    "GeneDenoiser",
    "GeneReadout",
    "LatentDenoiser",
    "SpatialGraphEncoder",
    "alignment_loss",
    "choose_genes",
    "contextual_embedding",
]
