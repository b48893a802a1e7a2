"""Texts that only the teacher labels: a file of unlabelled texts, and modified copies of the training texts."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...data.audit import normalize_text
from ...data.row_errors import BadRow, text_fault
from ...data.tables import read_column
from ...utils.errors import UserError

logger = logging.getLogger(__name__)

MASKED = "\ufdd0"  # a hidden word, before the tokenizer is known: a code point that is never used in texts
_HIDDEN, _CUT, _LONGEST_NGRAM = 0.1, 0.25, 5  # share of hidden words, share of short copies, their length
# Words that are in no vocabulary, for tokenizers that read special tokens as text; some tokenizers keep letters only.
_UNKNOWN_WORDS = (MASKED, "qzxjwv")


def read_unlabeled(
    path: Path,
    held_out: Set[str] = frozenset(),
    labeled: Set[str] = frozenset(),
    text_column: str | None = None,
    encoding: str | None = None,
) -> tuple[list[str], dict[str, Any]]:
    """Read texts as [`~hf_rnn.data.tables.read_column`] does, and log how many are left out and why.

    Left out are `held_out` (validation and test) and `labeled` (training) texts, both normalized by
    [`~hf_rnn.data.audit.normalize_text`].

    Returns:
        The texts in their order, and a record of the name of the `file` and of the numbers of `lines`, `refused`,
        `blank`, `held_out`, `labeled` and `kept` ones; `lines` is the sum of the others.

    Raises:
        DataError: For a file that cannot be read, and a table without a column of texts.
        UserError: If no text is left.
    """
    texts: list[str] = []
    counts: Counter[str] = Counter()
    first_refused = ""
    for text in read_column(path, text_column, encoding=encoding):
        counts["lines"] += 1
        if isinstance(text, BadRow):
            counts["refused"] += 1
            first_refused = first_refused or text.describe()
        elif text_fault(text):
            counts["blank"] += 1
        elif (normalized := normalize_text(text)) in held_out:
            counts["held_out"] += 1
        elif normalized in labeled:
            counts["labeled"] += 1
        else:
            texts.append(text)
    lines = counts["lines"]
    reasons = {
        "refused": f"invalid (the first is {first_refused})",
        "blank": "blank",
        "held_out": "in the validation or test split",
        "labeled": "in the training split",
    }
    left_out = ", ".join(f"{counts[name]:,} {reason}" for name, reason in reasons.items() if counts[name])
    if not texts:
        raise UserError(
            f"unlabeled {path} has no text to learn from: found {lines:,} lines ({left_out or 'empty file'})"
        )
    if left_out:
        logger.warning("%s: of %s lines, these are left out: %s", path.name, f"{lines:,}", left_out)
    record = {"lines": lines, **{name: counts[name] for name in reasons}, "kept": len(texts)}
    return texts, {"file": path.name, **record}


def augment(texts: Sequence[str], copies: int) -> Iterator[tuple[int, str]]:
    """Yield modified copies of texts with the number of each text; the first copies of all come first.

    A tenth of the words of a copy are hidden, written as `MASKED`; a quarter of the copies are then cut to one to five
    neighbouring words. Copies that equal their text or an earlier copy, or that have only hidden words, are left out.
    After R. Tang et al.: Distilling Task-Specific Knowledge from BERT into Simple Neural Networks. arXiv:1903.12136,
    2019, without its replacement by part of speech.

    All runs draw the same copies. More `copies` start with those of fewer, so cached logits are used again.
    """
    seen = [{" ".join(text.split())} for text in texts]
    for round_number in range(copies):
        chance = random.Random(f"0 {round_number}")
        for number, (text, copies_of_text) in enumerate(zip(texts, seen, strict=True)):
            words = [MASKED if chance.random() < _HIDDEN else word for word in text.split()]
            if chance.random() < _CUT:
                size = min(chance.randint(1, _LONGEST_NGRAM), len(words))
                start = chance.randint(0, len(words) - size)
                words = words[start : start + size]
            copy = " ".join(words)
            if copy not in copies_of_text and any(word != MASKED for word in words):
                copies_of_text.add(copy)
                yield number, copy


def write_masks(copies: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Replace the hidden words of copies by a word that becomes the tokenizer's mask token, else its unknown token.

    A tokenizer without either, such as one of bytes, leaves hidden words out.
    """
    wanted = [[index] for index in (tokenizer.mask_token_id, tokenizer.unk_token_id) if index is not None]
    mask = ""
    for word in (tokenizer.mask_token, tokenizer.unk_token, *_UNKNOWN_WORDS):
        if word is not None and tokenizer(word, add_special_tokens=False)["input_ids"] in wanted:
            mask = word
            break
    return [copy.replace(MASKED, mask) for copy in copies]
