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
) -> tuple[Arguments, str | None]:
    """Return the arguments for the language of the texts, and a warning for the card or None.

    If most tokens are unknown to the default start, they take the recipe that starts from nothing: texts in words
    become sub-words, others characters. A recipe, a model or a tokenizer that is `given` by the user stays, as all do
    without `given`.
    """
    data, start = arguments.data, arguments.data.model_name_or_path
    if start is None:
        chosen = data.tokenizer != "word" or data.tokenizer_name_or_path or data.vectors
        if chosen or given is None or given.get("tokenizer") or given.get("recipe") not in (None, *recipe_names()):
            return arguments, None
        kind, length, wide = _choose_tokenizer(list(islice(texts, _SAMPLE)))
        if kind != "char" or length < _SEGMENTED:
            return arguments, None
        logger.warning(
            "the texts have few spaces (%.1f characters between them, %.0f %% wide ones): this run takes tokenizer "
            "char; --tokenizer word keeps words",
            *(length, 100 * wide),
        )
        return arguments._replace(data=dataclasses.replace(data, tokenizer=kind)), None
    if not (folder := FinishedFolder(find_folder(start))).pretraining.is_file():
        return arguments, None
    sample = list(islice(texts, _SAMPLE))
    text_stats = measure_pieces(load_without_weights(start, folder)[1], sample)
    encoder_stats = read_mapping(folder.pretraining, folder.pretraining.read_bytes())
    pieces, unknown, recipe = "pieces_per_word", "unknown_token_share", scratch_recipe(task.recipe)
    stays = given is None or any(map(given.get, ("recipe", "model_name_or_path"))) or find_built_in(start) is None
    if not stays and text_stats[unknown] > _MOST_UNKNOWN:
        kind, length, wide = _choose_tokenizer(sample)
        logger.warning(
            "%.0f %% of the tokens of the texts are unknown to %s (limit %.0f %%): this run takes recipe %s with "
            "tokenizer %s (%.1f characters between spaces, %.0f %% wide ones); --model_name_or_path %s keeps it",
            *(100 * text_stats[unknown], start, 100 * _MOST_UNKNOWN, recipe, kind, length, 100 * wide, start),
        )
        output = {"task": task.name, "output_dir": arguments.training.output_dir}
        return parse_settings({"tokenizer": kind, **(given or {}), **output, "recipe": recipe}), None
    alike = text_stats[pieces] <= _MANY_PIECES * encoder_stats[pieces]
    if alike and text_stats[unknown] <= _MORE_UNKNOWN + encoder_stats[unknown]:
        return arguments, None
    note = (
        f"the texts do not look like the language of {start}: they have {text_stats[pieces]:.1f} tokens per word, "
        f"{text_stats[unknown]:.0%} of them unknown, its own texts {encoder_stats[pieces]:.1f} and "
        f"{encoder_stats[unknown]:.0%}"
    )
    logger.warning("%s; with many rows --recipe %s may be better", note, recipe)
    return arguments, note


def _choose_tokenizer(texts: Sequence[str]) -> tuple[str, float, float]:
    """Return char or bpe, the characters between two spaces of the texts, and the share of wide characters."""
    words = " ".join(texts).split()
    characters = "".join(words)
    wide = sum(unicodedata.east_asian_width(character) == "W" for character in characters) / max(1, len(characters))
    length = len(characters) / max(1, len(words))
    return "char" if length > _LONGEST_WORD or wide > _MOST_WIDE else "bpe", length, wide
