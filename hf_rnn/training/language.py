"""Compare the language of the texts with the tokens of a run, and leave the default start or words if need be."""

from __future__ import annotations

import dataclasses
import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from ..data.encoding import measure_pieces
from ..hub.loading import find_built_in, find_folder, load_without_weights
from ..hub.model_folder import FinishedFolder, read_mapping
from ..tasks.base import Task
from .recipes import recipe_names, scratch_recipe
from .settings import Arguments, parse_settings

logger = logging.getLogger(__name__)

_SAMPLE = 2_000  # training texts that are looked at
_MOST_UNKNOWN = 0.3  # share of the tokens; Chinese has 1.0 of them, Arabic 0.47, German none
_LONGEST_WORD = 12  # characters between two spaces on average; German has 6, Thai 19
_MOST_WIDE = 0.3  # share of characters of Chinese and Japanese
_SEGMENTED = 3  # characters per word where spaces were put between Chinese or Japanese words
# Limits for the tokens of another language, against the texts of the encoder.
_MANY_PIECES = 1.25  # times the tokens per word
_MORE_UNKNOWN = 0.1  # added to the share


def suit_language(
    arguments: Arguments, given: Mapping[str, Any] | None, task: Task, texts: Iterable[str]
) -> Arguments:
    """Return the arguments with the recipe from nothing if most tokens of the texts are unknown to the default start.

    A recipe, a model or a tokenizer that is `given` by the user stays, as all do without `given`; a line in the log
    says if the texts do not look like the language of the start. Texts in words become sub-words, others characters,
    also in a run from nothing by a recipe of this package.
    """
    data, start = arguments.data, arguments.data.model_name_or_path
    if start is None:
        has_tokens = data.tokenizer != "word" or data.tokenizer_name_or_path or data.vectors
        if has_tokens or given is None or given.get("tokenizer") or given.get("recipe") not in (None, *recipe_names()):
            return arguments
        kind, length, wide = _choose_tokenizer(list(islice(texts, _SAMPLE)))
        if kind != "char" or length < _SEGMENTED:
            return arguments
        logger.warning(
            "the texts have few spaces (%.1f characters between them, %.0f %% wide ones): this run takes tokenizer "
            "char; --tokenizer word keeps words",
            *(length, 100 * wide),
        )
        return arguments._replace(data=dataclasses.replace(data, tokenizer=kind))
    if not (folder := FinishedFolder(find_folder(start))).pretraining.is_file():
        return arguments
    sample = list(islice(texts, _SAMPLE))
    ours = measure_pieces(load_without_weights(start, folder)[1], sample)
    its = read_mapping(folder.pretraining, folder.pretraining.read_bytes())
    pieces, unknown, recipe = "pieces_per_word", "unknown_token_share", scratch_recipe(task.recipe)
    stays = given is None or any(map(given.get, ("recipe", "model_name_or_path"))) or find_built_in(start) is None
    if stays or ours[unknown] <= _MOST_UNKNOWN:
        if ours[pieces] > _MANY_PIECES * its[pieces] or ours[unknown] > _MORE_UNKNOWN + its[unknown]:
            logger.warning(
                "the texts do not look like the language of %s: they have %.1f tokens per word, %.0f %% of them "
                "unknown, its own texts %.1f and %.0f %%; with many rows --recipe %s may be better",
                *(start, ours[pieces], 100 * ours[unknown], its[pieces], 100 * its[unknown], recipe),
            )
        return arguments
    kind, length, wide = _choose_tokenizer(sample)
    logger.warning(
        "%.0f %% of the tokens of the texts are unknown to %s (limit %.0f %%): this run takes recipe %s with "
        "tokenizer %s (%.1f characters between spaces, %.0f %% wide ones); --model_name_or_path %s keeps it",
        *(100 * ours[unknown], start, 100 * _MOST_UNKNOWN, recipe, kind, length, 100 * wide, start),
    )
    output = {"task": task.name, "output_dir": arguments.training.output_dir}
    return parse_settings({"tokenizer": kind, **(given or {}), **output, "recipe": recipe})


def _choose_tokenizer(texts: Sequence[str]) -> tuple[str, float, float]:
    """Return char or bpe, the characters between two spaces of the texts, and the share of wide characters."""
    words = " ".join(texts).split()
    characters = "".join(words)
    wide = sum(unicodedata.east_asian_width(character) == "W" for character in characters) / max(1, len(characters))
    length = len(characters) / max(1, len(words))
    return "char" if length > _LONGEST_WORD or wide > _MOST_WIDE else "bpe", length, wide
