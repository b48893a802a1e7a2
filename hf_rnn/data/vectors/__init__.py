"""Pretrained word vectors for the embedding of a model: from a file, or from the table of a transformers model."""

from .loading import Coverage, Vectors, load_vectors, widen_vocabulary

__all__ = ["Coverage", "Vectors", "load_vectors", "widen_vocabulary"]
