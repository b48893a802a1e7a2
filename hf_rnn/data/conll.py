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

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

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


@dataclass
class _TaggedWords:
    """The words of a file or a table in order, each with its tag, or why it is rejected."""

    table: Table
    lines: list[str]  # the lines or sentences of the table
    is_whole: bool  # whether one bad word rejects its sentence
    rows: list[int] = field(default_factory=list)  # line or sentence of each word
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)  # by the number of the word
    ends: list[int] = field(default_factory=lambda: [0])  # words up to the end of each sentence

    def add(self, row: int, token: str = "", tag: str = "", fault: Fault | None = None) -> None:
        """Add a word, whose token may be white space as in some data."""
        fault = fault or text_fault(token)
        if fault is None or fault.reason is Reason.BLANK_TEXT:
            fault = label_fault(tag)
        if fault is not None:
            self.faults[len(self.rows)] = fault
        self.rows.append(row)
        self.tokens.append(token)
        self.tags.append(tag)

    def check_tags(self, names: Sequence[str], types: Collection[str]) -> None:
        """Reject words with another tag than `names`, or one of an entity of `types`."""
        for place, tag in enumerate(self.tags):
            is_entity = _ENTITY_TAG.fullmatch(tag) and tag[2:] in types
            if place not in self.faults and not is_entity and tag not in names:
                self.faults[place] = unknown_label(tag, names, "tag")

    def end_sentence(self) -> None:
        """End a sentence after the last word."""
        self.ends.append(len(self.rows))


def _read_words(table: Table, token_column: str, tag_column: str) -> _TaggedWords:
    """Return the words of a file; the columns are numbers, and -1 is the last one."""
    lines = [line or "" for line in table.cells("text")]
    cells = list(map(_cut_line, lines))
    token = int(token_column)
    tag = int(tag_column)
    whole = [row for line, row in zip(lines, cells, strict=True) if row and line[:2] != "# "]
    size = _count_columns(table, whole, token, tag)
    tags = {row[tag] for row in whole if len(row) == size}

    words = _TaggedWords(table, lines, is_whole=False)
    for number, (line, row) in enumerate(zip(lines, cells, strict=True)):
        is_comment = size == 10 and _NOT_A_WORD.match(line) is not None
        if line.startswith("# "):
            # before the first word, another tag than those of the words makes a comment too
            is_comment |= len(row) != size or not (words.rows or row[tag] in tags)
        if number in table.rejected:
            words.lines[number] = table.rejected[number].excerpt
            words.add(number, fault=table.rejected[number].fault)
        elif is_comment:
            continue
        elif not row:
            words.end_sentence()
        elif len(row) == size:
            words.add(number, row[token], row[tag])
        else:
            reason = Reason.TOO_FEW_FIELDS if len(row) < size else Reason.TOO_MANY_FIELDS
            detail = f"found {len(row)} columns where the first token has {size}"
            words.add(number, fault=Fault(reason, detail))
    words.end_sentence()
    return words


def _count_columns(table: Table, rows: Sequence[Sequence[str]], token: int, tag: int) -> int:
    """Return the number of columns of a file, those of its first token; refuse too few."""
    if not rows:
        raise file_error(table.path, Reason.EMPTY_FILE, "found no token")
    size = len(rows[0])
    if size < 2 or not all(-size <= column < size for column in (token, tag)):
        detail = f"found {size}, and token and tag are {token} and {tag}, from 0"
        raise _refuse_columns(table, detail)
    return size


def _refuse_columns(table: Table, detail: str) -> DataError:
    advice = "set --text_column, --label_column"
    return file_error(table.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")


def _cut_line(line: str) -> list[str]:
    """Return the cells of a line, none for the end of a sentence."""
    if not line.strip(" ") or line.startswith("-DOCSTART-"):
        return []
    if "\t" in line:
        return line.split("\t")
    # other white space of Unicode is part of a token
    return [cell.decode() for cell in line.encode(errors="surrogateescape").split()]


def _read_lists(table: Table, *columns: str) -> _TaggedWords:
    """Return the words of a table with lists of tokens and of tags, texts or numbers of classes."""
    names = table.class_names.get(columns[1])
    words = _TaggedWords(table, [], is_whole=True)
    for number, cells in enumerate(zip(*map(table.cells, columns), strict=True)):
        tokens = _list_items(table, columns[0], cells[0])
        tags = _list_items(table, columns[1], cells[1])
        words.lines.append(" ".join(map(str, tokens)))
        if number in table.rejected:
            words.lines[number] = table.rejected[number].excerpt
            words.add(number, fault=table.rejected[number].fault)
        elif len(tokens) != len(tags):
            detail = f"found {len(tokens)} tokens and {len(tags)} tags"
            for token in tokens:
                words.add(number, token, fault=Fault(Reason.TOO_FEW_FIELDS, detail))
        else:
            for token, tag in zip(tokens, tags, strict=True):
                if names is None:
                    words.add(number, token, str(tag))
                elif tag in range(len(names)):
                    words.add(number, token, names[int(tag)])
                else:
                    words.add(number, token, fault=unknown_label(str(tag), names, "tag"))
        words.end_sentence()
    return words


def _list_items(table: Table, name: str, cell: Any) -> list[Any]:
    """Return the items of a cell, "" for a missing one; refuse a column with something else."""
    if not isinstance(cell, list | tuple | None):
        detail = f"column {name!r} must hold lists: found {type(cell).__name__}"
        raise _refuse_columns(table, detail)
    return ["" if item is None else item for item in cell or ()]


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
    report.columns, tables = _read_tables(source, config, splits, token_column, tag_column)
    words: dict[str, list[_TaggedWords]] = {}
    for split, parts in tables.items():
        report.splits[split] = SplitReport([table.path for table in parts])
        words[split] = []
        for table in parts:
            read = _read_lists if table.has_names else _read_words
            words[split].append(read(table, *report.columns.values()))
    report.class_names = list(class_names or _find_names(words))
    rows = {split: _build_split(split, words[split], ledger) for split in words}
    ledger.close()
    if len(report.class_names) < 2:
        raise DataError(f"a tagger needs at least two tags: found {listed(report.class_names)}")
    return make_datasets(rows, validation_share if splits is None else 0, seed, report)


def _read_tables(
    source: object,
    config: str | None,
    splits: Iterable[str] | None,
    token: int | str | None,
    tag: int | str | None,
) -> tuple[dict[str, str], Mapping[str, Sequence[Table]]]:
    """Return the columns of tokens, `text`, and of tags, `label`; and the tables by split."""
    if not _is_conll(source):
        names = {"text": str(token or "tokens"), "label": str(tag or "ner_tags")}
        options = RowOptions(text_column=names["text"], label_column=names["label"])
        tables = read_tables(source, config, splits, options)
        for table in chain.from_iterable(tables.values()):
            options.locate(table)  # or refuse it
        return names, tables
    names = {"text": str(token or 0), "label": str(-1 if tag is None else tag)}
    if not all(column.removeprefix("-").isdecimal() for column in names.values()):
        found = f"found {', '.join(names.values())}"
        raise SettingError(f"columns of CoNLL files are numbers from 0: {found}")
    where, files = find_parts(source, splits, (".conll",))
    chosen = choose_splits(splits, files, where, ".conll")
    return names, {split: list(map(read_lines, files[split])) for split in chosen}


def _find_names(splits: Mapping[str, Sequence[_TaggedWords]]) -> list[str]:
    """Return the tags of train by id: those of entities as B- and I-, if they are half of them."""
    if "train" not in splits:
        found = " and ".join(splits)
        raise SettingError(f"{found} without train needs class names: add --class_names")
    tags: set[str] = set()
    for words in splits["train"]:
        tags.update(tag for place, tag in enumerate(words.tags) if place not in words.faults)
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


def _build_split(split: str, parts: Sequence[_TaggedWords], ledger: Ledger) -> SplitRows:
    """Count all words of a split, and keep those with a known tag, whose ids are as in IOB2."""
    names = ledger.report.class_names
    types = entity_types(names)
    counts = ledger.report.splits[split]
    columns: dict[str, list[Any]] = {"tokens": [], "ner_tags": []}
    for words in parts:
        words.check_tags(names, types)
        for start, end in pairwise(words.ends):
            kept = [place for place in range(start, end) if place not in words.faults]
            bad = [place for place in range(start, end) if place in words.faults]
            if bad and words.is_whole:
                bad = bad[:1] * (end - start)
                kept = []
            for place in bad:
                row = words.rows[place]
                fault = words.faults[place]
                ledger.reject(split, words.table.reject(row, fault, words.lines[row]))
            counts.rows_read += end - start
            counts.rows_kept += len(kept)
            if kept:
                tags = [words.tags[place] for place in kept]
                columns["tokens"].append([words.tokens[place] for place in kept])
                columns["ner_tags"].append(list(map(names.index, to_iob2(tags) if types else tags)))
    if not columns["tokens"]:
        ledger.check()
        raise file_error(", ".join(counts.files), Reason.EMPTY_FILE, "found no usable token")
    feature = datasets.List(datasets.ClassLabel(names=names))
    features = datasets.Features(tokens=datasets.List(datasets.Value("string")), ner_tags=feature)
    rows = pa.table(columns, features.arrow_schema)
    zeros = np.zeros(len(rows), dtype=np.int64)
    return SplitRows(rows, features, places=zeros, strata=zeros)
