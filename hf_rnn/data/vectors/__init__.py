"""Pretrained word vectors → the rows of an embedding table, for the vocabulary of a tokenizer.

Nothing is trained here, and no vectors come with the package or are got by name: a file, a folder or a repo id says
where they are.
"""

from .extend_vocabulary import widen_vocabulary
from .loading import Coverage, Vectors, load_vectors

__all__ = ["Coverage", "Vectors", "load_vectors", "widen_vocabulary"]
