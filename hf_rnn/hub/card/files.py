"""The two files of a card in a finished folder: `README.md` for people, `card_facts.json` for programs."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

from ...utils.atomic_write import write_whole
from ...utils.errors import reason_of
from ..model_folder import FinishedFolder
from .template import CardFacts, render

logger = logging.getLogger(__name__)


def write_card(folder: FinishedFolder, facts: CardFacts) -> None:
    """Write the card and its facts."""
    for name, content in _contents(folder, facts).items():
        write_whole(folder.root / name, content)


def read_facts(folder: FinishedFolder) -> CardFacts | None:
    """Return the facts of a card; None if the folder has no facts that this version understands."""
    if not folder.card_facts.is_file():
        return None
    try:
        return CardFacts.from_dict(json.loads(folder.card_facts.read_text(encoding="utf-8")))
    except (TypeError, ValueError, AttributeError) as error:
        logger.info("the card stays unchanged: %s (%s)", folder.card_facts.name, reason_of(error))
        return None


def amend_card(folder: FinishedFolder, facts: CardFacts, **changes: Any) -> bool:
    """Change facts of a card, unless the card was edited by hand; return whether it was changed."""
    if _is_edited(folder, facts):
        return False
    write_card(folder, dataclasses.replace(facts, **changes))
    return True


def card_for_repo(folder: FinishedFolder, repo_id: str, examples: bool = True) -> dict[str, bytes]:
    """Return the files of a card that names the repo in place of the folder, with its texts or without.

    The result has contents by file name; it is empty without facts, or if the card was edited by hand.
    """
    facts = read_facts(folder)
    if facts is None or _is_edited(folder, facts):
        return {}
    facts = dataclasses.replace(facts, repo_id=repo_id, examples=facts.examples if examples else None)
    return _contents(folder, facts)


def _is_edited(folder: FinishedFolder, facts: CardFacts) -> bool:
    """Return whether a card differs from its facts."""
    return not folder.card.is_file() or render(facts) != folder.card.read_text(encoding="utf-8")


def _contents(folder: FinishedFolder, facts: CardFacts) -> dict[str, bytes]:
    stored = json.dumps(dataclasses.asdict(facts), indent=2, ensure_ascii=False) + "\n"
    return {folder.card_facts.name: stored.encode(), folder.card.name: render(facts).encode()}
