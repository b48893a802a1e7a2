"""Tagged sentences: CoNLL files, tables, or any data set of the `datasets` library, every token counted.

A line of a CoNLL file is a token with its tag and possibly other columns, separated by tabs or, in a file without
tabs, by spaces. An empty line or `-DOCSTART-` ends a sentence. Skipped are comments (`# ...`: with another number of
columns than the tokens, or before a sentence and without a known tag) and the ranges and empty nodes of CoNLL-U.
Splits have the columns `tokens` (list of strings) and `ner_tags` (list of ClassLabel).

Tags of entities, such as B-person, are read in BIO, IOB1, IOB2, IOBES, BILOU and BMES, and delivered in IOB2: the
first token of every entity is B-, each further one is I-. Other tags, such as parts of speech, stay unchanged.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import datasets
import numpy as np
import xxhash

from ..evaluation.scores import entity_types
from ..utils.errors import UserError
from .labels import listed, sort_labels, warn_of_twins
from .loading import find_files, open_tables
from .row_errors import (
    EXCERPT_CHARACTERS,
    BadRow,
    DataError,
    DataReport,
    Fault,
    Ledger,
    Reason,
    SplitReport,
    label_fault,
    text_fault,
)
from .rows import RowOptions
from .stratified_split import hold_out
from .tables import Table, is_table, open_lines, take_column

logger = logging.getLogger(__name__)

_ENTITY_TAG = re.compile(r"[BIMELSUW]-(.+)")
_DOCUMENT, _COMMENT = "-DOCSTART-", "# "
_CONLL_U, _NOT_A_WORD = 10, re.compile(r"\d+[-.]\d+\t")  # columns; a range of words or an empty node
_MOST_WORDS = 0.9


# ---- tags ----


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Return tags of entities, of any scheme, in IOB2; an I- or E- that continues nothing of its type begins one.

    Example:
        >>> to_iob2(["I-person", "L-person", "O", "U-place"])
        ['B-person', 'I-person', 'O', 'B-place']
    """
    written, before = [], "O"
    for tag in tags:
        begins = tag[0] in "BSUW" or tag[2:] != before[2:] or before[0] in "ELSUW"
        written.append(tag if tag == "O" else ("B" if begins else "I") + tag[1:])
        before = tag
    return written


@dataclass(frozen=True)
class TagSet:
    """The names of the tags by id; with `types`, those of entities in IOB2. `seen` are further tags of the data."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    seen: tuple[str, ...] = ()

    @classmethod
    def find(cls, counts: Mapping[str, int]) -> TagSet:
        """Return the tags of the training rows; for entities, B and I of each type.

        Tags are those of entities if half of them are, or nearly all words with another tag than O have one.
        """
        marked = [tag for tag in counts if _ENTITY_TAG.fullmatch(tag)]
        words, others = sum(counts[tag] for tag in marked), len(counts.keys() - {*marked, "O"})
        all_words = sum(counts.values()) - counts.get("O", 0)
        if not marked or (2 * len(marked) < len(marked) + others and words < _MOST_WORDS * all_words):
            warn_of_twins(counts)
            return cls(tuple(sort_labels(counts)), ())
        types: Counter[str] = Counter()
        for tag in marked:
            types[tag[2:]] += counts[tag]
        warn_of_twins(types)
        kinds = sorted(types)
        return cls(("O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI")), tuple(kinds), tuple(marked))

    def fault(self, tag: str) -> Fault | None:
        """Return what is wrong with a tag of the data."""
        known = tag in self.names or (self.types and _ENTITY_TAG.fullmatch(tag) and tag[2:] in self.types)
        if known:
            return None
        names = {name.casefold(): name for name in (*self.names, *self.seen)}
        near = difflib.get_close_matches(tag.casefold(), names, 1) or ["o"] * (len(tag) == 1)
        hint = f"; did you mean {names[near[0]]!r:.80}?" if near and near[0] in names else ""
        return Fault(Reason.UNKNOWN_LABEL, f"tag {tag!r:.80}, known are {listed(self.names)}{hint}")

    def ids(self, tags: Sequence[str]) -> list[int]:
        """Return the ids of the tags of a sentence."""
        return [self.names.index(tag) for tag in (to_iob2(tags) if self.types else tags)]


# ---- reading ----


class Word(NamedTuple):
    """A token with its tag, and its place; a possible comment is a word only if its tag is known."""

    line: int
    byte_offset: int | None
    token: str
    tag: str
    excerpt: str
    is_comment: bool = False


Sentence: TypeAlias = list[Word | BadRow]


def _word_fault(token: str, tag: str) -> Fault | None:
    """Return what is wrong with a word; some data have tokens of white space, such as U+00A0."""
    fault = text_fault(token)
    return fault if fault and fault.reason is not Reason.BLANK_TEXT else label_fault(tag)


@dataclass(frozen=True)
class ConllFile:
    """One file, with the numbers of its columns of tokens and tags; negative ones count from the last."""

    path: str
    token_column: int
    tag_column: int
    whole = False

    def sentences(self) -> Iterator[Sentence]:
        """Yield the words and the refused lines of each sentence."""
        lines = list(self._lines())
        texts = (line[2] for line in lines if not isinstance(line, BadRow))
        first = next((text for text in texts if not _ends_sentence(text) and not text.startswith(_COMMENT)), None)
        if first is None:
            raise DataError.for_file(self.path, Reason.EMPTY_FILE, "found no token")
        has_tabs = "\t" in first
        fields = self._count_fields(_split(first, has_tabs))
        words: Sentence = []
        for row in lines:
            if isinstance(row, BadRow):
                words.append(row)
                continue
            number, offset, line = row
            if _ends_sentence(line):
                yield words
                words = []
                continue
            is_comment = line.startswith(_COMMENT)
            parts = _split(line, has_tabs)
            if (is_comment and len(parts) != fields) or (fields == _CONLL_U and _NOT_A_WORD.match(line)):
                continue
            is_comment = is_comment and all(isinstance(word, Word) and word.is_comment for word in words)
            token, tag, excerpt = "", "", line[:EXCERPT_CHARACTERS]
            if len(parts) == fields:
                token, tag = parts[self.token_column], parts[self.tag_column]
                fault = _word_fault(token, tag)
            else:
                reason = Reason.TOO_FEW_FIELDS if len(parts) < fields else Reason.TOO_MANY_FIELDS
                fault = Fault(reason, f"found {len(parts)} columns where the first token has {fields}")
            if fault is None:
                words.append(Word(number, offset, token, tag, excerpt, is_comment))
            elif not is_comment:
                words.append(BadRow(self.path, number, offset, fault, excerpt))
        yield words

    def _lines(self) -> Iterator[Any]:
        """Yield number, offset and text of each line, or its refusal."""
        for batch in open_lines(self.path):
            offsets = [] if batch.offsets is None else batch.offsets.tolist()
            lines = zip(batch.places.tolist(), offsets, batch.rows.column(0).to_pylist(), strict=True)
            yield from batch.in_order(lines)

    def _count_fields(self, parts: Sequence[str]) -> int:
        """Return the number of columns of the first token."""
        fields = len(parts)
        for name, column in (("text_column", self.token_column), ("label_column", self.tag_column)):
            if not -fields <= column < fields or fields == 1:
                found = f"{name} {column}: found {fields} column{'s' * (fields > 1)}, counted from 0"
                raise DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{found}; a line is a token and its tag")
        return fields


def _ends_sentence(line: str) -> bool:
    return not line.strip(" ") or line.startswith(_DOCUMENT)


def _split(line: str, has_tabs: bool) -> list[str]:
    # other white space of Unicode is part of a token
    return line.split("\t") if has_tabs else [part.decode() for part in line.encode().split()]


@dataclass(frozen=True)
class TaggedRows:
    """A table with a column of lists of tokens and one of lists of tags; a row with a bad token is refused."""

    table: Table
    token_column: str
    tag_column: str
    whole = True

    @property
    def path(self) -> str:
        """The file, or the name of the data set in messages."""
        return self.table.path

    def sentences(self) -> Iterator[Sentence]:
        """Yield the words of each row, or its refusal for each of them."""
        names = self.table.class_names.get(self.tag_column)
        for batch in self.table.batches([self.token_column, self.tag_column]):
            columns = [take_column(batch.rows, name) for name in (self.token_column, self.tag_column)]
            for name, column in zip((self.token_column, self.tag_column), columns, strict=True):
                if not hasattr(column.type, "value_field"):
                    detail = f"column {name!r} must hold lists: found {column.type}; set --text_column, --label_column"
                    raise DataError.for_file(self.path, Reason.MISSING_COLUMN, detail)
            for refused in batch.bad:
                yield [refused]
            for place, *row in zip(batch.places.tolist(), *(column.to_pylist() for column in columns), strict=True):
                tokens, tags = (["" if item is None else item for item in items or ()] for items in row)
                excerpt, fault = " ".join(map(str, tokens))[:EXCERPT_CHARACTERS], None
                if len(tokens) != len(tags):
                    fault = Fault(Reason.TOO_FEW_FIELDS, f"found {len(tokens)} tokens and {len(tags)} tags")
                elif names is not None and (bad := sorted(set(tags) - {"", *range(len(names))})):
                    fault = Fault(Reason.LABEL_OUT_OF_RANGE, f"tag {bad[0]}, known are 0 to {len(names) - 1}")
                tags = [str(tag) if names is None or fault or tag == "" else names[int(tag)] for tag in tags]
                fault = fault or next(filter(None, map(_word_fault, tokens, tags)), None)
                if fault is None:
                    yield [Word(place, None, *word, excerpt) for word in zip(tokens, tags, strict=True)]
                else:
                    yield [BadRow(self.path, place, None, fault, excerpt)] * len(tokens)


def load_conll(  # noqa: D417 - the other arguments are those of load_tsv
    source: Any,
    config: str | None = None,
    *,
    token_column: int | str | None = None,
    tag_column: int | str | None = None,
    class_names: Sequence[str] | None = None,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    report: DataReport | None = None,
) -> datasets.DatasetDict:
    """Read tagged sentences from CoNLL files, or lists of tokens and tags from tables, data sets or memory.

    Other arguments and errors are those of [`load_tsv`]. Bad rows are lines or tokens; `label_counts` of the report
    counts sentences.

    Args:
        source: A folder with `train.conll`, `dev.conll`, `test.conll`; files by split; or one file of training rows.
            Or any other source of [`load_tsv`] with a column of lists of strings and one of lists of tags (ClassLabel,
            strings or integers); a row with a bad token is refused as a whole.
        token_column: Number of the token's column, from 0; or its name, by default `tokens`.
        tag_column: Number of the tag's column, by default the last; or its name, by default `ner_tags`.
        class_names: Tags by id; by default those of train, "O" first.
    """
    sources: dict[str, list[Any]] = {}
    if _is_conll(source):
        try:
            numbers = int(token_column or 0), int(-1 if tag_column is None else tag_column)
        except ValueError:
            found = f"found {token_column}, {tag_column}"
            raise UserError(f"columns of CoNLL files are numbers from 0: {found}") from None
        for split, paths in find_files(source, splits, class_names is not None, (".conll",)).items():
            sources[split] = [ConllFile(path, *numbers) for path in paths]
    else:
        names = str(token_column or "tokens"), str(tag_column or "ner_tags")
        options = RowOptions(text_column=names[0], label_column=names[1], class_names=class_names)
        for split, tables in open_tables(source, config, splits, options).items():
            sources[split] = [TaggedRows(table, *names) for table in tables]
    report = report or DataReport()
    first = [list(part.sentences()) for part in next(iter(sources.values()))]
    if class_names is None:
        words = (word for sentences in first for sentence in sentences for word in sentence)
        tags = TagSet.find(Counter(word.tag for word in words if isinstance(word, Word) and not word.is_comment))
    else:
        tags = TagSet(tuple(class_names), tuple(entity_types(class_names)))
    read: dict[str, list[list[Word]]] = {split: [] for split in sources}
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        for split, parts in sources.items():
            report.splits[split] = counted = SplitReport([part.path for part in parts])
            for part, sentences in zip(parts, first or (part.sentences() for part in parts), strict=True):
                for sentence in sentences:
                    bad, kept = _check(sentence, part, tags)
                    for row in bad:
                        ledger.reject(split, row)
                    counted.rows_read += len(bad) + len(kept)
                    counted.rows_kept += len(kept)
                    read[split] += [kept] if kept else []
            first = []
            if not read[split]:
                raise DataError.for_file(", ".join(counted.files), Reason.EMPTY_FILE, "found no usable token")
    if len(tags.names) < 2:
        raise UserError(f"a tagger needs at least two tags: found {listed(tags.names)}")
    if validation_share and splits is None and "validation" not in read:
        train = read.pop("train")
        drawn: dict[str, list[list[Word]]] = {}
        texts = [" ".join(word.token for word in sentence) for sentence in train]
        mask = hold_out(texts, np.zeros(len(train), dtype=np.int64), validation_share, seed)
        for split, rows in (("train", np.flatnonzero(~mask)), ("validation", np.flatnonzero(mask))):
            drawn |= {split: [train[row] for row in rows]} if len(rows) else {}
        read, report.held_out = drawn | read, int(mask.sum())
        if report.held_out:
            message = "there is no validation split: %d of %d sentences of train are held out as one (seed %d)"
            logger.warning(message, report.held_out, len(train), seed)
    report.class_names = list(tags.names)
    feature = datasets.List(datasets.ClassLabel(names=report.class_names))
    features = datasets.Features(tokens=datasets.List(datasets.Value("string")), ner_tags=feature)
    data, hasher = datasets.DatasetDict(), xxhash.xxh3_64(repr(tags.names).encode())
    for split, sentences in read.items():
        report.label_counts[split] = [len(sentences)]
        tokens = [[word.token for word in sentence] for sentence in sentences]
        ids = [tags.ids([word.tag for word in sentence]) for sentence in sentences]
        hasher.update(repr((split, tokens, ids)).encode())
        columns = {"tokens": tokens, "ner_tags": ids}
        data[split] = datasets.Dataset.from_dict(columns, features, split=datasets.NamedSplit(split))
        data[split]._fingerprint = report.fingerprint = hasher.hexdigest()  # the same in every process
    return data


def _is_conll(source: Any) -> bool:
    """Return whether a source is CoNLL files, or an empty folder."""
    if isinstance(source, Mapping):
        return all(isinstance(part, str | os.PathLike | list) and _is_conll(part) for part in source.values())
    if isinstance(source, list):
        return bool(source) and all(map(_is_conll, source))
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return bool(list(path.glob("*.conll*"))) or not any(path.iterdir())
    return path.suffix == ".conll" or (path.is_file() and not is_table(path))


def _check(words: Sentence, part: ConllFile | TaggedRows, tags: TagSet) -> tuple[list[BadRow], list[Word]]:
    """Return the refused and the good words of a sentence."""
    bad, kept = [], []
    for word in words:
        if isinstance(word, BadRow):
            bad.append(word)
        elif (fault := tags.fault(word.tag)) is None:
            kept.append(word)
        elif not word.is_comment:
            bad.append(BadRow(part.path, word.line, word.byte_offset, fault, word.excerpt))
    return ([bad[0]] * len(words), []) if part.whole and bad else (bad, kept)
