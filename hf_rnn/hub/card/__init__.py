"""Facts about a model → the card of its folder."""

from .template import CardFacts, amend_card, card_for_repo, read_facts, render, write_card

__all__ = ["CardFacts", "amend_card", "card_for_repo", "read_facts", "render", "write_card"]
