"""Tagged sentences of CoNLL files, tables or data sets, every token counted.

A line of a CoNLL file is a token with its tag and possibly other columns, separated by tabs or, in
a file without tabs, by spaces. An empty line or `-DOCSTART-` ends a sentence. Comments are skipped,
and so are the ranges and empty nodes of CoNLL-U. A line `# ...` is a comment if its number of
columns is not that of the first token. Before the first token it is one also if no token has its
tag. Splits have the columns `tokens` (lists of strings) and `ner_tags` (lists of ClassLabel).

Tags of entities, such as B-person, are delivered in IOB2: the first token of every entity is B-,
each further one is I-. Other tags, such as parts of speech, stay unchanged.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..evaluation.scores import entity_types
from ..utils.errors import DataError, SettingError
from .errors import Fault, Reason, file_error, label_fault, listed, text_fault
from .labels import sort_labels, unknown_label
from .lines import is_table
from .load import RowOptions, read_tables
from .read import read_lines
from .report import DataReport, Ledger, SplitReport
from .sources import choose_splits, find_parts
from .splits import SplitRows, make_datasets
from .table import Table

_ENTITY_TAG = re.compile(r"[BIMELSUW]-(.+)")
_NOT_A_WORD = re.compile(r"\d+[-.]\d+\t")  # a range of words or an empty node of CoNLL-U


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Convert tags of entities from IOB1, IOB2, IOBES, BILOU or BMES to IOB2.

    An I- without an entity begins one.

    Example:
        >>> to_iob2(["I-person", "L-person", "O", "U-place"])
        ['B-person', 'I-person', 'O', 'B-place']
    """
    written = []
    before = "O"
    for tag in tags:
        begins = tag[0] in "BSUW" or tag[2:] != before[2:] or before[0] in "ELSUW"
        if tag != "O":
            tag = ("B" if begins else "I") + tag[1:]
        written.append(tag)
        before = tags[len(written) - 1]
    return written


class _Word(NamedTuple):
    """A token of a sentence with its tag, or why it is rejected."""

    row: int  # number of its line or sentence in the table
    line: str  # its line, or its sentence
    token: str = ""
    tag: str = ""
    fault: Fault | None = None


@dataclass
class _Sentence:
    """The words of a table that follow each other; `is_row` if one bad word rejects all."""

    table: Table
    words: list[_Word]
    is_row: bool = False


def _make_word(row: int, line: str, token: str, tag: str) -> _Word:
    """Return a word with a token, which may be white space as in some data."""
    fault = text_fault(token)
    if fault is None or fault.reason is Reason.BLANK_TEXT:
        fault = label_fault(tag)
    return _Word(row, line, token, tag, fault)


def _reject_row(table: Table, row: int) -> _Word:
    """Return the word of a row that the reader rejected."""
    bad = table.rejected[row]
    return _Word(row, bad.excerpt, fault=bad.fault)


@dataclass(frozen=True)
class _Form:
    """The columns of a CoNLL file."""

    size: int
    token: int
    tag: int
    tags: set[str]  # all tags, and cells of comments

    @classmethod
    def find(
        cls,
        table: Table,
        lines: Sequence[str],
        cells: Sequence[Sequence[str]],
        columns: Sequence[str],
    ) -> _Form:
        """Return the form of a file, whose first token has all columns; -1 is the last one."""
        token, tag = map(int, columns)
        rows = [row for line, row in zip(lines, cells, strict=True) if row and line[:2] != "# "]
        if not rows:
            raise file_error(table.path, Reason.EMPTY_FILE, "found no token")
        size = len(rows[0])
        if size < 2 or not all(-size <= column < size for column in (token, tag)):
            detail = f"found {size}, and token and tag are {token} and {tag}, from 0"
            raise _refuse_columns(table, detail)
        return cls(size, token, tag, {row[tag] for row in rows if len(row) == size})

    def is_comment(self, line: str, cells: Sequence[str], is_start: bool) -> bool:
        """Return whether a line has no token; at the start a comment may have as many columns."""
        if line.startswith("# "):
            return len(cells) != self.size or (is_start and cells[self.tag] not in self.tags)
        return self.size == 10 and _NOT_A_WORD.match(line) is not None

    def read(self, number: int, line: str, cells: Sequence[str]) -> _Word:
        """Return the word of a line, or why it is rejected."""
        if len(cells) == self.size:
            return _make_word(number, line, cells[self.token], cells[self.tag])
        reason = Reason.TOO_FEW_FIELDS if len(cells) < self.size else Reason.TOO_MANY_FIELDS
        detail = f"found {len(cells)} columns where the first token has {self.size}"
        return _Word(number, line, fault=Fault(reason, detail))


def _refuse_columns(table: Table, detail: str) -> DataError:
    advice = "set --text_column, --label_column"
    return file_error(table.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")


def _read_lines(table: Table, *columns: str) -> Iterator[_Sentence]:
    """Yield the sentences of a file with the columns of tokens and of tags."""
    lines = [line or "" for line in table.cells("text")]
    cells = list(map(_cut_line, lines))
    form = _Form.find(table, lines, cells, columns)
    words = []
    is_start = True
    for number, (line, row) in enumerate(zip(lines, cells, strict=True)):
        if number in table.rejected:
            words.append(_reject_row(table, number))
        elif not row:
            yield _Sentence(table, words)
            words = []
        elif not form.is_comment(line, row, is_start):
            is_start = False
            words.append(form.read(number, line, row))
    yield _Sentence(table, words)


def _cut_line(line: str) -> list[str]:
    """Return the cells of a line, none for the end of a sentence."""
    if not line.strip(" ") or line.startswith("-DOCSTART-"):
        return []
    if "\t" in line:
        return line.split("\t")
    # other white space of Unicode is part of a token
    return [cell.decode() for cell in line.encode(errors="surrogateescape").split()]


def _read_lists(table: Table, *columns: str) -> Iterator[_Sentence]:
    """Yield the rows of a table with lists of tokens and of tags."""
    names = table.class_names.get(columns[1])
    for number, (tokens, tags) in enumerate(zip(*map(table.cells, columns), strict=True)):
        if number in table.rejected:
            words = [_reject_row(table, number)]
        else:
            tokens = _list_items(table, columns[0], tokens)
            words = _pair_words(number, tokens, _list_items(table, columns[1], tags), names)
        yield _Sentence(table, words, is_row=True)


def _list_items(table: Table, name: str, cell: Any) -> list[Any]:
    """Return the items of a cell, "" for a missing one; refuse a column with something else."""
    if not isinstance(cell, list | tuple | None):
        detail = f"column {name!r} must hold lists: found {type(cell).__name__}"
        raise _refuse_columns(table, detail)
    return ["" if item is None else item for item in cell or ()]


def _pair_words(
    number: int, tokens: Sequence[str], tags: Sequence[Any], names: Sequence[str] | None
) -> list[_Word]:
    """Return the words of a row; tags are texts, or numbers of `names`."""
    line = " ".join(map(str, tokens))
    if len(tokens) != len(tags):
        fault = Fault(Reason.TOO_FEW_FIELDS, f"found {len(tokens)} tokens and {len(tags)} tags")
        return [_Word(number, line, fault=fault)] * len(tokens)
    words = []
    for token, tag in zip(tokens, tags, strict=True):
        if names is not None and tag not in range(len(names)):
            words.append(_Word(number, line, fault=unknown_label(str(tag), names, "tag")))
        else:
            written = str(tag) if names is None else names[int(tag)]
            words.append(_make_word(number, line, token, written))
    return words


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
    """Read tagged sentences: CoNLL files, or tables with lists of tokens and of tags.

    Other arguments and errors are those of [`load_tsv`]. Rejected rows are lines or tokens. The
    `label_counts` of the report are sentences.

    Args:
        source: A folder with `train.conll`, `dev.conll`, `test.conll`; files by split; or one file
            of training rows. Or any other source of [`load_tsv`] with a column of lists of strings
            and one of lists of tags (ClassLabel, strings or integers); a row with a bad token is
            rejected as a whole.
        token_column: Number of the token's column, from 0; or its name, by default `tokens`.
        tag_column: Number of the tag's column, by default the last; or its name, by default
            `ner_tags`.
        class_names: Tags by id; by default those of train, "O" first.
    """
    report = report or DataReport()
    ledger = Ledger(max_bad_rows, rejected_path, report)
    sentences = _read_sentences(
        *_read_tables(source, config, splits, token_column, tag_column), report
    )
    report.class_names = list(class_names or _find_names(sentences))
    rows = {split: _build_split(split, sentences[split], ledger) for split in sentences}
    ledger.close()
    if len(report.class_names) < 2:
        raise DataError(f"a tagger needs at least two tags: found {listed(report.class_names)}")
    return make_datasets(rows, validation_share if splits is None else 0, seed, report)


def _read_sentences(
    columns: dict[str, str], tables: Mapping[str, Sequence[Table]], report: DataReport
) -> dict[str, list[_Sentence]]:
    """Return the sentences of each split, and note files and columns in the report."""
    report.columns = columns
    sentences: dict[str, list[_Sentence]] = {}
    for split, parts in tables.items():
        report.splits[split] = SplitReport([table.path for table in parts])
        sentences[split] = []
        for table in parts:
            read = _read_lists if table.has_names else _read_lines
            sentences[split] += read(table, *columns.values())
    return sentences


def _read_tables(
    source: object,
    config: str | None,
    splits: Iterable[str] | None,
    token: int | str | None,
    tag: int | str | None,
) -> tuple[dict[str, str], Mapping[str, Sequence[Table]]]:
    """Return the columns of tokens, `text`, and of tags, `label`; and the tables by split."""
    if _is_conll(source):
        names = {"text": str(token or 0), "label": str(-1 if tag is None else tag)}
        return names, _read_files(source, splits, list(names.values()))
    names = {"text": str(token or "tokens"), "label": str(tag or "ner_tags")}
    options = RowOptions(text_column=names["text"], label_column=names["label"])
    tables = read_tables(source, config, splits, options)
    for table in chain.from_iterable(tables.values()):
        options.locate(table)  # or refuse it
    return names, tables


def _read_files(
    source: object, splits: Iterable[str] | None, columns: Sequence[str]
) -> dict[str, list[Table]]:
    """Return the lines of the CoNLL files of each split."""
    if not all(column.removeprefix("-").isdecimal() for column in columns):
        found = f"found {', '.join(columns)}"
        raise SettingError(f"columns of CoNLL files are numbers from 0: {found}")
    where, files = find_parts(source, splits, (".conll",))
    chosen = choose_splits(splits, files, where, ".conll")
    return {split: list(map(read_lines, files[split])) for split in chosen}


def _find_names(splits: Mapping[str, Sequence[_Sentence]]) -> list[str]:
    """Return the tags of train by id: those of entities as B- and I-, if they are half of them."""
    if "train" not in splits:
        found = " and ".join(splits)
        raise SettingError(f"{found} without train needs class names: add --class_names")
    words = chain.from_iterable(sentence.words for sentence in splits["train"])
    tags = {word.tag for word in words if word.fault is None}
    entities = list(filter(_ENTITY_TAG.fullmatch, tags))
    if not entities or 2 * len(entities) < len(tags - {"O"}):
        return sort_labels(tags)
    names = ["O"]
    for name in sorted({tag[2:] for tag in entities}):
        names += [f"B-{name}", f"I-{name}"]
    return names


def _is_conll(source: object) -> bool:
    """Return whether a source is CoNLL files, or an empty folder."""
    if isinstance(source, Mapping | list):
        parts = list(source.values() if isinstance(source, Mapping) else source)
        return bool(parts) and all(map(_is_conll, parts))
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return any(path.glob("*.conll*")) or not any(path.iterdir())
    return path.suffix == ".conll" or (path.is_file() and not is_table(path))


def _build_split(split: str, sentences: Sequence[_Sentence], ledger: Ledger) -> SplitRows:
    """Count all words of a split, and keep those with a known tag."""
    names = tuple(ledger.report.class_names)
    feature = datasets.List(datasets.ClassLabel(names=list(names)))
    features = datasets.Features(tokens=datasets.List(datasets.Value("string")), ner_tags=feature)
    columns: dict[str, list[Any]] = {"tokens": [], "ner_tags": []}
    for sentence in sentences:
        words = _keep_words(split, sentence, names, ledger)
        if words:
            columns["tokens"].append([word.token for word in words])
            columns["ner_tags"].append(_number_tags([word.tag for word in words], names))
    if not columns["tokens"]:
        ledger.check()
        files = ", ".join(ledger.report.splits[split].files)
        raise file_error(files, Reason.EMPTY_FILE, "found no usable token")
    rows = pa.table(columns, features.arrow_schema)
    digest = hashlib.sha256(repr((names, columns)).encode()).hexdigest()
    zeros = np.zeros(len(rows), dtype=np.int64)
    return SplitRows(rows, features, places=zeros, strata=zeros, digest=digest)


def _keep_words(
    split: str, sentence: _Sentence, names: tuple[str, ...], ledger: Ledger
) -> list[_Word]:
    """Return the usable words of a sentence, and reject the others."""
    types = entity_types(names)
    words = []
    rejected = []
    for word in sentence.words:
        fault = word.fault
        is_entity = _ENTITY_TAG.fullmatch(word.tag) and word.tag[2:] in types
        if not (fault or is_entity or word.tag in names):
            fault = unknown_label(word.tag, names, "tag")
        if fault is None:
            words.append(word)
        else:
            rejected.append(sentence.table.reject(word.row, fault, word.line))
    if rejected and sentence.is_row:
        rejected = rejected[:1] * len(sentence.words)
        words = []
    for row in rejected:
        ledger.reject(split, row)
    counts = ledger.report.splits[split]
    counts.rows_read += len(sentence.words)
    counts.rows_kept += len(words)
    return words


def _number_tags(tags: list[str], names: tuple[str, ...]) -> list[int]:
    """Return the ids of tags, those of entities as in IOB2."""
    if entity_types(names):
        tags = to_iob2(tags)
    return [names.index(tag) for tag in tags]
