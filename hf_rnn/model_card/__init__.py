"""Facts about a model → the card of its folder."""

from .facts import CardFacts
from .rendering import render

__all__ = ["CardFacts", "render"]
