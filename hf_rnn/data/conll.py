"""Tagged sentences: CoNLL files, tables, or any data set of the `datasets` library, every token counted.

A line of a CoNLL file is a token with its tag and possibly other columns, separated by tabs or, in a file without
tabs, by spaces. An empty line or `-DOCSTART-` ends a sentence. Comments are skipped, and so are the ranges and empty
nodes of CoNLL-U. A line `# ...` is a comment if its number of columns is not that of the first token. Before the first
token it is one also if no token has its tag. Splits have the columns `tokens` (lists of strings) and `ner_tags` (lists
of ClassLabel).

Tags of entities, such as B-person, are delivered in IOB2: the first token of every entity is B-, each further one is
I-. Other tags, such as parts of speech, stay unchanged.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

import datasets
import numpy as np

from ..evaluation.scores import entity_types
from ..utils.errors import UserError
from .labels import sort_labels, unknown_label
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
    listed,
    text_fault,
)
from .rows import RowOptions
from .splits import SplitRows, deliver
from .tables import Table, is_table, open_lines, take_column

_ENTITY_TAG = re.compile(r"[BIMELSUW]-(.+)")
_NOT_A_WORD = re.compile(r"\d+[-.]\d+\t")  # a range of words or an empty node of CoNLL-U


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Convert tags of entities from IOB1, IOB2, IOBES, BILOU or BMES to IOB2; an I- without an entity begins one.

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
    """The names of the tags by id; `types` are the types of entities, and empty for other tags."""

    names: tuple[str, ...]
    types: tuple[str, ...]

    @classmethod
    def find(cls, counts: Mapping[str, int]) -> TagSet:
        """Return the tags of the training rows, in IOB2 if at least half of them are tags of entities."""
        matches = list(filter(None, map(_ENTITY_TAG.fullmatch, counts)))
        if 2 * len(matches) < len(counts.keys() - {"O"}) or not matches:
            return cls(tuple(sort_labels(counts)), ())
        types = tuple(sorted({match[1] for match in matches}))
        return cls(("O", *(f"{mark}-{kind}" for kind in types for mark in "BI")), types)

    def check(self, word: Word) -> Word | BadRow:
        """Return a word, or its rejection for an unknown tag."""
        if word.tag in self.names or (_ENTITY_TAG.fullmatch(word.tag) and word.tag[2:] in self.types):
            return word
        return replace(word.place, fault=unknown_label(word.tag, self.names, "tag"))

    def ids(self, tags: Sequence[str]) -> list[int]:
        """Return the ids of the tags of a sentence."""
        return [self.names.index(tag) for tag in (to_iob2(tags) if self.types else tags)]


Sentence: TypeAlias = "list[Word | BadRow]"


class Word(NamedTuple):
    """A token with its tag; `place` becomes its rejection if the tag turns out to be unknown."""

    place: BadRow
    token: str
    tag: str


def _make_word(place: BadRow, token: str, tag: str) -> Word | BadRow:
    """Return a word, or its rejection; some data have tokens of white space, such as U+00A0."""
    fault = text_fault(token)
    fault = label_fault(tag) if fault is None or fault.reason is Reason.BLANK_TEXT else fault
    return Word(place, token, tag) if fault is None else replace(place, fault=fault)


def _read_file(path: str, token_column: int, tag_column: int) -> Iterator[Sentence]:
    """Yield the sentences of a file; negative columns count from the last."""
    rows: list[BadRow | tuple[int, str, list[str]]] = []
    for batch in open_lines(path):
        lines = ((line, _split(line)) for line in batch.rows.column(0).to_pylist())
        rows += batch.in_order((place, *line) for place, line in zip(batch.places.tolist(), lines, strict=True))
    tokens = [row[2] for row in rows if isinstance(row, tuple) and row[2] and not row[1].startswith("# ")]
    if not tokens:
        raise DataError.for_file(path, Reason.EMPTY_FILE, "found no token")
    fields = len(tokens[0])
    if fields < 2 or not all(-fields <= column < fields for column in (token_column, tag_column)):
        detail = f"found {fields}, and token and tag are {token_column} and {tag_column}, from 0"
        raise DataError.for_file(path, Reason.MISSING_COLUMN, f"{detail}; set --text_column, --label_column")
    tags = {parts[tag_column] for parts in tokens if len(parts) == fields}
    words: Sentence = []
    is_start = True  # a comment before the first token may have as many columns
    for row in rows:
        if isinstance(row, BadRow):
            words.append(row)
            continue
        number, line, parts = row
        if not parts:
            yield words
            words = []
            continue
        is_whole = len(parts) == fields
        is_comment = line.startswith("# ") and not (is_whole and (not is_start or parts[tag_column] in tags))
        if is_comment or (fields == 10 and _NOT_A_WORD.match(line)):
            continue
        is_start = False
        reason = Reason.TOO_FEW_FIELDS if len(parts) < fields else Reason.TOO_MANY_FIELDS
        fault = Fault(reason, f"found {len(parts)} columns where the first token has {fields}")
        place = BadRow(path, number, fault, line[:EXCERPT_CHARACTERS])
        words.append(_make_word(place, parts[token_column], parts[tag_column]) if is_whole else place)
    yield words


def _split(line: str) -> list[str]:
    """Return the columns of a line, none for one that ends a sentence."""
    if not line.strip(" ") or line.startswith("-DOCSTART-"):
        return []
    # other white space of Unicode is part of a token
    return line.split("\t") if "\t" in line else [part.decode() for part in line.encode().split()]


def _read_table(table: Table, token_column: str, tag_column: str) -> Iterator[Sentence]:
    """Yield the rows of a table with lists of tokens and of tags."""
    names = table.class_names.get(tag_column)
    for batch in table.batches([token_column, tag_column]):
        for bad_row in batch.bad:
            yield [bad_row]
        columns = []
        for name in (token_column, tag_column):
            columns.append(take_column(batch.rows, name))
            if not hasattr(columns[-1].type, "value_field"):
                detail = f"column {name!r} must hold lists: found {columns[-1].type}"
                advice = "set --text_column, --label_column"
                raise DataError.for_file(table.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")
        for number, *row in zip(batch.places.tolist(), *(column.to_pylist() for column in columns), strict=True):
            tokens, tags = (["" if item is None else item for item in items or ()] for items in row)
            fault = Fault(Reason.TOO_FEW_FIELDS, f"found {len(tokens)} tokens and {len(tags)} tags")
            place = BadRow(table.path, number, fault, " ".join(map(str, tokens))[:EXCERPT_CHARACTERS], table.unit)
            if len(tokens) != len(tags):
                yield [place] * len(tokens)
                continue
            words: Sentence = []
            for token, tag in zip(tokens, tags, strict=True):
                if names is not None and tag not in range(len(names)):
                    words.append(replace(place, fault=unknown_label(str(tag), names, "tag")))
                else:
                    words.append(_make_word(place, token, str(tag) if names is None else names[int(tag)]))
            yield words


def load_conll(  # noqa: D417 - the other arguments are those of load_tsv
    source: object,
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

    Other arguments and errors are those of [`load_tsv`]. Rejected rows are lines or tokens. The `label_counts` of the
    report are sentences.

    Args:
        source: A folder with `train.conll`, `dev.conll`, `test.conll`; files by split; or one file of training rows.
            Or any other source of [`load_tsv`] with a column of lists of strings and one of lists of tags (ClassLabel,
            strings or integers); a row with a bad token is rejected as a whole.
        token_column: Number of the token's column, from 0; or its name, by default `tokens`.
        tag_column: Number of the tag's column, by default the last; or its name, by default `ner_tags`.
        class_names: Tags by id; by default those of train, "O" first.
    """
    parts: dict[str, list[tuple[str, Iterator[Sentence]]]]  # by split: names of files, and their sentences
    columns: tuple[int, int] | tuple[str, str]
    if is_conll := _is_conll(source):
        try:
            numbers = columns = int(token_column or 0), int(-1 if tag_column is None else tag_column)
        except ValueError:
            both = f"found {token_column}, {tag_column}"
            raise UserError(f"columns of CoNLL files are numbers from 0: {both}") from None
        files = find_files(source, splits, class_names is not None, (".conll",))
        parts = {split: [(path, _read_file(path, *numbers)) for path in paths] for split, paths in files.items()}
    else:
        named = columns = str(token_column or "tokens"), str(tag_column or "ner_tags")
        options = RowOptions(text_column=named[0], label_column=named[1], class_names=class_names)
        tables = open_tables(source, config, splits, options)
        parts = {split: [(part.path, _read_table(part, *named)) for part in read] for split, read in tables.items()}
    sentences = {split: [row for _, rows in part for row in rows] for split, part in parts.items()}
    if class_names is None:
        words = chain.from_iterable(next(iter(sentences.values())))
        tags = TagSet.find(Counter(word.tag for word in words if isinstance(word, Word)))
    else:
        tags = TagSet(tuple(class_names), tuple(entity_types(class_names)))
    report = report or DataReport()
    read: dict[str, SplitRows] = {}
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        report.columns = dict(zip(("text", "label"), map(str, columns), strict=True))
        report.class_names = list(tags.names)
        for split, rows in sentences.items():
            names = [name for name, _ in parts[split]]
            report.splits[split] = SplitReport(names)
            kept = _keep(split, rows, tags, ledger, whole=not is_conll)
            if not kept:
                ledger.check()
                raise DataError.for_file(", ".join(names), Reason.EMPTY_FILE, "found no usable token")
            read[split] = _build(kept, tags)
            report.label_counts[split] = [len(kept)]
    if len(tags.names) < 2:
        raise UserError(f"a tagger needs at least two tags: found {listed(tags.names)}")
    return deliver(read, validation_share if splits is None else 0, seed, report)


def _is_conll(source: object) -> bool:
    """Return whether a source is CoNLL files, or an empty folder."""
    if isinstance(source, Mapping):
        return all(map(_is_conll, source.values()))
    if isinstance(source, list):
        return bool(source) and all(map(_is_conll, source))
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return bool(list(path.glob("*.conll*"))) or not any(path.iterdir())
    return path.suffix == ".conll" or (path.is_file() and not is_table(path))


def _keep(split: str, sentences: list[Sentence], tags: TagSet, ledger: Ledger, whole: bool) -> list[list[Word]]:
    """Return the good words of each sentence, and count all words; with `whole`, one bad word rejects its sentence."""
    kept, counts = [], ledger.report.splits[split]
    for sentence in sentences:
        known = [word if isinstance(word, BadRow) else tags.check(word) for word in sentence]
        good = [word for word in known if isinstance(word, Word)]
        bad = [word for word in known if isinstance(word, BadRow)]
        if whole and bad:
            good, bad = [], bad[:1] * len(sentence)
        for row in bad:
            ledger.reject(split, row)
        counts.rows_read += len(sentence)
        counts.rows_kept += len(good)
        kept += [good] if good else []
    return kept


def _build(sentences: Sequence[Sequence[Word]], tags: TagSet) -> SplitRows:
    feature = datasets.List(datasets.ClassLabel(names=list(tags.names)))
    features = datasets.Features(tokens=datasets.List(datasets.Value("string")), ner_tags=feature)
    tokens = [[word.token for word in sentence] for sentence in sentences]
    columns = {"tokens": tokens, "ner_tags": [tags.ids([word.tag for word in sentence]) for sentence in sentences]}
    digest = hashlib.sha256(repr((tags.names, columns)).encode()).hexdigest()
    strata = np.zeros(len(sentences), dtype=np.int64)
    return SplitRows((), datasets.Dataset.from_dict(columns, features), strata, strata, digest)
