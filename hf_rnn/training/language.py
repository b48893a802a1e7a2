"""Leave the encoder of the default recipe where it knows almost nothing of the texts."""

from __future__ import annotations

import dataclasses
import logging
import unicodedata
from collections.abc import Iterable
from enum import Enum
from itertools import islice
from typing import Any

from ..data.encoding import measure_pieces
from ..hub.loading import find_built_in, find_folder, load_without_weights
from ..hub.model_folder import FinishedFolder
from ..tasks.base import Task
from .arguments.run_arguments import Arguments, parse_settings
from .recipes import scratch_recipe

logger = logging.getLogger(__name__)

SAMPLE = 2_000  # training texts that are looked at
_MOST_UNKNOWN = 0.3  # share of the tokens; Chinese has 1.0 of them, Arabic 0.47, German none
_LONGEST_WORD = 12  # characters between two spaces on average; German has 6, Thai 19
_MOST_WIDE = 0.3  # share of characters of Chinese and Japanese


def suit_language(arguments: Arguments, task: Task, texts: Iterable[str]) -> Arguments:
    """Return the arguments with the recipe from nothing if most tokens of the texts are unknown to the default start.

    Other settings of the run stay. Texts in words become sub-words, others characters.
    """
    start = arguments.data.model_name_or_path
    if start is None or find_built_in(start) is None or arguments.training.recipe != task.recipe:
        return arguments
    sample = list(islice(texts, SAMPLE))
    tokenizer = load_without_weights(start, FinishedFolder(find_folder(start)))[1]
    unknown = measure_pieces(tokenizer, sample)["unknown_token_share"]
    if unknown <= _MOST_UNKNOWN:
        return arguments
    own: dict[str, Any] = {}
    usual = parse_settings({"output_dir": str(arguments.training.output_dir), "task": task.name})
    parts: Any = zip(arguments, usual, strict=True)
    for part, same in parts:
        for name in (known.name for known in dataclasses.fields(part) if known.init):
            value = getattr(part, name)
            if value != getattr(same, name):
                own[name] = value.value if isinstance(value, Enum) else value
    recipe, tokenizer_kind = scratch_recipe(task.recipe), choose_tokenizer(sample)
    own |= {"task": task.name, "output_dir": arguments.training.output_dir, "model_name_or_path": None}
    logger.warning(
        "%.0f %% of the tokens of the texts are unknown to %s: this run takes recipe %s with tokenizer %s",
        *(100 * unknown, start, recipe, tokenizer_kind),
    )
    return parse_settings({**own, "recipe": recipe, "tokenizer": tokenizer_kind})


def choose_tokenizer(texts: Iterable[str]) -> str:
    """Return `char` for languages written without spaces, otherwise `bpe`."""
    words = " ".join(texts).split()
    characters = "".join(words)
    wide = sum(unicodedata.east_asian_width(character) == "W" for character in characters)
    without_spaces = len(characters) > _LONGEST_WORD * len(words) or wide > _MOST_WIDE * len(characters)
    return "char" if without_spaces else "bpe"
