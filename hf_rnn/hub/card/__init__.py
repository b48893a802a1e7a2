"""Facts about a model → the card of its folder."""

from .facts import CardFacts
from .template import render

__all__ = ["CardFacts", "render"]
