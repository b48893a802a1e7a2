"""The texts of a pretraining: lines of files or a column, each once, long ones cut between sentences."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

from ...data.row_errors import BadRow
from ...data.tables import read_column
from ...utils.errors import UserError, reason_of

logger = logging.getLogger(__name__)

_END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def read_lines(paths: Iterable[str | Path], counts: Counter[str], column: str | None = None) -> Iterator[str]:
    """Yield the lines of text files, and the texts of tables; count refused ones."""
    for path in paths:
        for text in read_column(path, column):
            if isinstance(text, BadRow):
                counts["refused"] += 1
                if counts["refused"] == 1:
                    logger.warning("refused: %s", text.describe())
            else:
                yield text


def read_dataset(name: str, config: str | None, split: str, column: str) -> Iterator[str]:
    """Yield a column of a data set of the `datasets` library, streamed.

    Raises a [`UserError`] if it cannot be loaded or has no such column.
    """
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
        for row in rows:
            yield row[column]
    except KeyError as error:
        raise UserError(f"the data set {name} has no column {column}: give text_column") from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"the data set {name} cannot be loaded: {reason_of(error):.300}") from error


def cut_sentences(text: str, most_words: int) -> list[str]:
    """Cut a text between sentences into parts of at most `most_words` words; a longer sentence is one part."""
    parts: list[str] = []
    sentences: list[str] = []
    words = 0
    for sentence in _END_OF_SENTENCE.split(text):
        length = len(sentence.split())
        if sentences and words + length > most_words:
            parts.append(" ".join(sentences))
            sentences, words = [], 0
        sentences.append(sentence)
        words += length
    return [*parts, " ".join(sentences)]


def prepare_texts(lines: Iterable[str], counts: Counter[str], split_words: int | None, limit: int | None) -> Any:
    """Yield `{"text": ...}` of each distinct text, white space made single; stop after `limit` texts.

    `counts` is filled with `lines`, `blank`, `repeated` and `kept`; parts of a text that `split_words` cuts, see
    [`cut_sentences`], count like lines.
    """
    seen: set[bytes] = set()  # 8 bytes a text: the first half a million repeat by chance once in 10^8 runs
    for line in lines:
        text = " ".join(line.split())
        for part in [text] if split_words is None else cut_sentences(text, split_words):
            counts["lines"] += 1
            digest = hashlib.blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if not part:
                counts["blank"] += 1
            elif digest in seen:
                counts["repeated"] += 1
            else:
                seen.add(digest)
                counts["kept"] += 1
                yield {"text": part}
                if counts["kept"] == limit:
                    return
