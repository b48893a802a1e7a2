"""Facts about a model → the card of its folder."""

from .template import CardFacts, render

__all__ = ["CardFacts", "render"]
