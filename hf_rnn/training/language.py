"""Leave the encoder of the default recipe where it knows almost nothing of the texts."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping
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


def suit_language(arguments: Arguments, given: Mapping[str, Any], task: Task, texts: Iterable[str]) -> Arguments:
    """Return the arguments with the recipe from nothing if most tokens of the texts are unknown to the default start.

    A recipe or a model that is `given` by the user stays. Texts in words become sub-words, others characters.
    """
    start = arguments.data.model_name_or_path
    if start is None or find_built_in(start) is None or any(map(given.get, ("recipe", "model_name_or_path"))):
        return arguments
    sample = list(islice(texts, SAMPLE))
    tokenizer = load_without_weights(start, FinishedFolder(find_folder(start)))[1]
    unknown = measure_pieces(tokenizer, sample)["unknown_token_share"]
    if unknown <= _MOST_UNKNOWN:
        return arguments
    words = " ".join(sample).split()
    characters = "".join(words)
    length, wide = len(characters) / len(words), sum(map(_is_wide, characters)) / len(characters)
    kind = "char" if length > _LONGEST_WORD or wide > _MOST_WIDE else "bpe"
    recipe = scratch_recipe(task.recipe)
    message = (
        "%.0f %% of the tokens of the texts are unknown to %s (limit %.0f %%): this run takes recipe %s with "
        "tokenizer %s (%.1f characters between spaces, %.0f %% wide ones); --model_name_or_path %s keeps it"
    )
    logger.warning(message, 100 * unknown, start, 100 * _MOST_UNKNOWN, recipe, kind, length, 100 * wide, start)
    output = {"task": task.name, "output_dir": arguments.training.output_dir}
    return parse_settings({"tokenizer": kind, **given, **output, "recipe": recipe})


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) == "W"
