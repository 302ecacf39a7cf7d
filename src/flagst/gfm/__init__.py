"""Gene embeddings for alignment."""

from flagst.gfm.coexpression import coexpression

__all__ = ["coexpression"]
