"""Choose what a run starts from by the language of the texts: an encoder of the package, or nothing but its tokens."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..hub.model_folder import FinishedFolder, find_built_in
from ..settings.merge import CAUSAL, ENGLISH, Arguments, parse_settings, recipe_names, scratch_recipe
from ..tasks.base import Task

logger = logging.getLogger(__name__)

_MULTILINGUAL = "multilingual"
_SAMPLE, _BEGINNING = 1_000, 400  # training texts that are looked at, and characters of each
_FIRST = 100_000  # texts that they are taken from, at equal distances
_MOST_UNKNOWN = 0.3  # share of the pieces of multilingual; Cherokee has 0.5, the 100 languages that it read 0.001
_LEAST_CHARACTERS = 1.7  # per piece of multilingual, in ASCII; random letters have 1.5, Hindi in Latin letters 2.6
_MOST_ASCII = 0.9  # share of characters: the pieces of some scripts are short too, Tamil has 1.5
_LONGEST_WORD = 12  # characters between two spaces on average; German has 6, Thai 19
_MOST_WIDE = 0.3  # share of characters of Chinese and Japanese
_FEW_TEXTS = 500  # with fewer training rows, a token that occurs twice is kept
_SEGMENTED = 3  # characters per word where spaces were put between Chinese or Japanese words


@dataclass(frozen=True)
class Comparison:
    """How the encoders of the package read some texts."""

    is_english: bool  # whether the texts become no more tokens with english than with multilingual
    reason: str
    is_known: bool  # whether multilingual, which knows most scripts, knows the texts
    detail: str
    sample: Sequence[str]


def suit_language(
    arguments: Arguments, overrides: Mapping[str, Any] | None, task: Task, texts: Iterable[str]
) -> tuple[Arguments, str | None]:
    """Return the arguments for the language of the texts, and a reason for the card or None.

    A run that would start from `english` starts from `multilingual` if the texts become fewer tokens with it. If
    neither encoder knows the texts, the run takes the recipe that starts from nothing: words become sub-words or
    characters. `overrides` are the settings of the user: a start, a tokenizer, or the file of a recipe stays. Without
    `overrides`, keep everything.
    """
    start, explicit = arguments.data.model_name_or_path, overrides or {}
    fixed = overrides is None or explicit.get("model_name_or_path")
    fixed = fixed or explicit.get("recipe") not in (None, *recipe_names())
    if start is None:
        return arguments if fixed or explicit.get("tokenizer") else _suit_spaces(arguments, texts), None
    if start not in (ENGLISH, CAUSAL) or find_built_in(_MULTILINGUAL) is None:
        return arguments, None
    result = _compare_encoders(list(islice(texts, _FIRST)))
    if result.is_known and result.is_english and not arguments.training.language:
        arguments.training.language = ["en"]  # for the card
    if fixed:
        if not result.is_english and start == ENGLISH:
            logger.warning("%s: --model_name_or_path %s may be better", result.reason, _MULTILINGUAL)
        return arguments, result.reason
    settings = {**explicit, "task": task.name, "output_dir": arguments.training.output_dir}
    if not result.is_known or (start == CAUSAL and not result.is_english):
        return _start_from_nothing(settings, task, result)
    name = start if result.is_english else _MULTILINGUAL
    logger.info("the run starts from %s: %s", name, result.reason)
    suited = arguments if result.is_english else parse_settings({**settings, "model_name_or_path": name})
    return suited, result.reason


def _suit_spaces(arguments: Arguments, texts: Iterable[str]) -> Arguments:
    """Return the arguments of a run without a start, with characters as tokens if its texts have few spaces."""
    data = arguments.data
    if data.tokenizer != "word" or data.tokenizer_name_or_path or data.vectors:
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


def _start_from_nothing(settings: Mapping[str, Any], task: Task, result: Comparison) -> tuple[Arguments, str]:
    recipe, kind = scratch_recipe(task.recipe), _choose_tokenizer(result.sample)[0]
    reason = f"no encoder of the package knows the texts: {result.detail}"
    if result.is_known:
        reason = f"{result.reason}, and {_MULTILINGUAL} reads in both directions"
    logger.warning("recipe %s with tokenizer %s: %s", recipe, kind, reason)
    return parse_settings({"tokenizer": kind, **settings, "recipe": recipe}), reason


def _compare_encoders(texts: Sequence[str]) -> Comparison:
    sample = [text[:_BEGINNING] for text in texts[:: -(-len(texts) // _SAMPLE) or 1]]
    (english, _), (pieces, unknown) = (_count_pieces(name, sample) for name in (ENGLISH, _MULTILINGUAL))
    ratio = english / max(1, pieces)  # sets of English have 0.81 to 0.95, of other languages 1.07 to 2.3
    names = (ENGLISH, _MULTILINGUAL) if ratio <= 1 else (_MULTILINGUAL, ENGLISH)
    fewer = 1 - min(ratio, 1 / ratio) if ratio else 0
    reason = f"the texts become {fewer:.0%} fewer tokens with {names[0]} than with {names[1]}"
    text = "".join("".join(sample).split())
    length, ascii_share = len(text) / max(1, pieces), sum(map(str.isascii, text)) / max(1, len(text))
    is_known = unknown <= _MOST_UNKNOWN and not (ascii_share > _MOST_ASCII and length < _LEAST_CHARACTERS)
    detail = f"{unknown:.0%} of their tokens are unknown, {length:.1f} characters per token"
    return Comparison(ratio <= 1, reason, is_known, detail, sample)


def suit_vocabulary(arguments: Arguments, overrides: Mapping[str, Any], rows: int) -> Arguments:
    """Return the arguments with a `min_frequency` for few rows and for characters, unless the user set it."""
    data = arguments.data
    most = 1 if data.tokenizer == "char" else 2  # a word of one text can be private
    new = data.tokenizer_name_or_path is None and data.model_name_or_path is None
    if not new or rows >= _FEW_TEXTS or data.min_frequency <= most or overrides.get("min_frequency") is not None:
        return arguments
    logger.info(
        "%d training rows are few: words that occur %s stay (min_frequency)", rows, ("once", "twice")[most - 1]
    )
    return arguments._replace(data=dataclasses.replace(data, min_frequency=most))


def drop_scripts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
    """Leave out the pieces of a Unigram tokenizer with letters of scripts that fewer than 2 of 1,000 texts have.

    Pieces without letters stay, such as emoji, and those of Latin letters, which all languages use.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "Unigram":
        return
    rows, counts = 0, Counter({"LATIN": sys.maxsize})
    for text in texts:
        rows += 1
        counts.update(_find_scripts(text))
    pieces = content["model"]["vocab"]
    kept = [
        piece
        for index, piece in enumerate(pieces)
        if index == content["model"]["unk_id"] or all(counts[name] > rows / 500 for name in _find_scripts(piece[0]))
    ]
    content["model"]["vocab"] = kept
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    counts_of_tokens = f"{len(kept):,} of the encoder's {len(pieces):,} tokens"
    logger.info("the model has %s: the others are in scripts that the texts do not use", counts_of_tokens)


def _find_scripts(text: str) -> set[str]:
    """Return the first words of the Unicode names of the letters of a text, such as LATIN and CJK."""
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in set(text) if letter.isalpha()}


def _count_pieces(encoder: str, texts: Sequence[str]) -> tuple[int, float]:
    """Return the pieces with letters of texts, an unknown one as one per character, and the share of unknown ones."""
    folder = FinishedFolder(find_built_in(encoder))  # type: ignore[arg-type]  # it exists
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    unknown = tokenizer.token_to_id(folder.read_tokenizer_config()["unk_token"])
    lengths = [
        start - end if index == unknown else 1  # negative for an unknown piece
        for text, row in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True)
        for index, (start, end) in zip(row.ids, row.offsets, strict=True)
        if any(map(str.isalpha, text[start:end]))
    ]
    return sum(map(abs, lengths)), sum(length < 0 for length in lengths) / max(1, len(lengths))


def _choose_tokenizer(texts: Sequence[str]) -> tuple[str, float, float]:
    """Return char or bpe, the characters between two spaces of the texts, and the share of wide characters."""
    words = " ".join(texts).split()
    characters = "".join(words)
    wide = sum(unicodedata.east_asian_width(character) == "W" for character in characters) / max(1, len(characters))
    length = len(characters) / max(1, len(words))
    return "char" if length > _LONGEST_WORD or wide > _MOST_WIDE else "bpe", length, wide
