"""One text and a model → how much each token has to do with the answer, as numbers and as coloured words."""

from .explanation import Explanation, Piece, explain, words_read

__all__ = ["Explanation", "Piece", "explain", "words_read"]
