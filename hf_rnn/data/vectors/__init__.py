"""Pretrained word vectors for the embedding of a model: from a file, or from the table of a transformers model."""

from .loading import Coverage, Vectors, load_vectors, widen_vocabulary
from .vector_file import split_archive

__all__ = ["Coverage", "Vectors", "load_vectors", "split_archive", "widen_vocabulary"]
