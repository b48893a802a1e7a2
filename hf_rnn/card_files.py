"""The two files of a card in a finished folder: `README.md` for people, `card_facts.json` for programs."""

from __future__ import annotations

import dataclasses
import json
import logging

from .card_facts import CardFacts
from .errors import UserError
from .folder import FinishedFolder
from .model_card import render

logger = logging.getLogger(__name__)


def write_card(folder: FinishedFolder, facts: CardFacts) -> None:
    """Write the card, and the facts it is made of."""
    for name, content in _contents(folder, facts).items():
        (folder.root / name).write_bytes(content)


def card_for_repo(folder: FinishedFolder, repo_id: str) -> dict[str, bytes]:
    """Return the files of a card that names the repo where the folder's own names the folder.

    Args:
        folder: A finished folder; it is not changed.
        repo_id: Where it goes, `owner/name`.

    Returns:
        Contents by file name. None where there are no facts, or the card is not what they give: somebody has written
        in it, and it goes as it is.
    """
    if not folder.card_facts.is_file():
        return {}
    try:
        facts = CardFacts.from_dict(json.loads(folder.card_facts.read_text(encoding="utf-8")))
        if render(facts) != folder.card.read_text(encoding="utf-8"):
            return {}
        return _contents(folder, dataclasses.replace(facts, repo_id=repo_id))
    except (UserError, ValueError, TypeError, KeyError, AttributeError) as error:  # facts of another version
        logger.info("the card goes as it is: %s (%s)", folder.card_facts.name, " ".join(str(error).split()))
        return {}


def _contents(folder: FinishedFolder, facts: CardFacts) -> dict[str, bytes]:
    stored = json.dumps(facts.to_dict(), indent=2, ensure_ascii=False) + "\n"
    return {folder.card_facts.name: stored.encode(), folder.card.name: render(facts).encode()}
