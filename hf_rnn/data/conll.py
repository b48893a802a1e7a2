"""Tagged sentences: CoNLL files, tables, or any data set of the `datasets` library, every token counted.

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
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..evaluation.scores import entity_types
from ..utils.errors import UserError
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


class _Word(NamedTuple):
    """A token of a sentence with its tag, or why it is rejected."""

    row: int  # number of its line or sentence in the table
    line: str  # its line, or its sentence
    token: str = ""
    tag: str = ""
    fault: Fault | None = None


def _make_word(row: int, start: str, token: str, tag: str) -> _Word:
    """Return a word with a token, which may be white space as in some data."""
    fault = text_fault(token)
    if fault is None or fault.reason is Reason.BLANK_TEXT:
        fault = label_fault(tag)
    return _Word(row, start, token, tag, fault)


def _read_lines(table: Table, *columns: str) -> Iterator[list[_Word]]:
    """Yield the sentences of a file; negative numbers of the columns of tokens and of tags count from the last."""
    token_column, tag_column = map(int, columns)
    lines: list[tuple[str, list[str]]] = []  # without cells at the end of a sentence
    for line in table.cells("text"):
        cells = list[str]()
        if line and line.strip(" ") and not line.startswith("-DOCSTART-"):
            # other white space of Unicode is part of a token
            cells = (
                line.split("\t")
                if "\t" in line
                else [part.decode() for part in line.encode().split()]
            )
        lines.append((line, cells))
    tokens = [cells for line, cells in lines if cells and not line.startswith("# ")]
    if not tokens:
        raise file_error(table.path, Reason.EMPTY_FILE, "found no token")
    size = len(tokens[0])
    if size < 2 or not all(-size <= column < size for column in (token_column, tag_column)):
        detail = f"found {size}, and token and tag are {token_column} and {tag_column}, from 0"
        raise file_error(
            table.path, Reason.MISSING_COLUMN, f"{detail}; set --text_column, --label_column"
        )
    tags = {cells[tag_column] for cells in tokens if len(cells) == size}
    words: list[_Word] = []
    is_start = True  # a comment before the first token may have as many columns
    for row, (line, cells) in enumerate(lines):
        if row in table.rejected:
            words.append(_Word(row, table.rejected[row].excerpt, fault=table.rejected[row].fault))
        elif not cells:
            yield words
            words = []
        elif line.startswith("# ") and (
            len(cells) != size or (is_start and cells[tag_column] not in tags)
        ):
            continue
        elif size != 10 or not _NOT_A_WORD.match(line):
            is_start = False
            if len(cells) == size:
                words.append(_make_word(row, line, cells[token_column], cells[tag_column]))
            else:
                reason = Reason.TOO_FEW_FIELDS if len(cells) < size else Reason.TOO_MANY_FIELDS
                detail = f"found {len(cells)} columns where the first token has {size}"
                words.append(_Word(row, line, fault=Fault(reason, detail)))
    yield words


def _read_lists(table: Table, *columns: str) -> Iterator[list[_Word]]:
    """Yield the rows of a table with lists of tokens and of tags."""
    names = table.class_names.get(columns[1])
    for row, lists in enumerate(zip(*map(table.cells, columns), strict=True)):
        if row in table.rejected:
            yield [_Word(row, table.rejected[row].excerpt, fault=table.rejected[row].fault)]
            continue
        for name, cell in zip(columns, lists, strict=True):
            if not isinstance(cell, list | tuple | None):
                detail = f"column {name!r} must hold lists: found {type(cell).__name__}"
                advice = "set --text_column, --label_column"
                raise file_error(table.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")
        tokens, tags = (["" if item is None else item for item in cell or ()] for cell in lists)
        start = " ".join(map(str, tokens))
        if len(tokens) != len(tags):
            fault = Fault(Reason.TOO_FEW_FIELDS, f"found {len(tokens)} tokens and {len(tags)} tags")
            yield [_Word(row, start, fault=fault)] * len(tokens)
            continue
        words = []
        for token, tag in zip(tokens, tags, strict=True):
            if names is None or tag in range(len(names)):
                words.append(
                    _make_word(row, start, token, str(tag) if names is None else names[int(tag)])
                )
            else:
                words.append(_Word(row, start, fault=unknown_label(str(tag), names, "tag")))
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
    is_conll, columns = (
        _is_conll(source),
        (str(token_column or "tokens"), str(tag_column or "ner_tags")),
    )
    if is_conll:
        columns = str(token_column or 0), str(-1 if tag_column is None else tag_column)
        if not all(column.removeprefix("-").isdecimal() for column in columns):
            raise UserError(
                f"columns of CoNLL files are numbers from 0: found {token_column}, {tag_column}"
            )
        where, files = find_parts(source, splits, (".conll",))
        tables = {
            split: list(map(read_lines, files[split]))
            for split in choose_splits(splits, files, where, ".conll")
        }
    else:
        options = RowOptions(text_column=columns[0], label_column=columns[1])
        tables = read_tables(source, config, splits, options)
        for table in chain.from_iterable(tables.values()):
            options.locate(table)  # or refuse it
    read_words = _read_lines if is_conll else _read_lists
    sentences = {
        split: [(part, words) for part in parts for words in read_words(part, *columns)]
        for split, parts in tables.items()
    }
    if class_names is None and "train" not in tables:
        raise UserError(
            f"{' and '.join(tables)} without train needs class names: add --class_names"
        )
    words = chain.from_iterable(sentence for _, sentence in next(iter(sentences.values())))
    names = list(class_names or ())
    if not names:
        tags = {word.tag for word in words if word.fault is None}
        types = sorted({match[1] for match in map(_ENTITY_TAG.fullmatch, tags) if match})
        is_entity = types and 2 * sum(map(bool, map(_ENTITY_TAG.fullmatch, tags))) >= len(
            tags - {"O"}
        )
        names = (
            ["O", *(f"{mark}-{name}" for name in types for mark in "BI")]
            if is_entity
            else sort_labels(tags)
        )
    report = report or DataReport()
    ledger = Ledger(max_bad_rows, rejected_path, report)
    report.columns, report.class_names = dict(zip(("text", "label"), columns, strict=True)), names
    built = {}
    for split, parts in tables.items():
        report.splits[split] = SplitReport([part.path for part in parts])
        built[split] = _build(split, sentences[split], tuple(names), ledger, whole=not is_conll)
    ledger.close()
    if len(names) < 2:
        raise UserError(f"a tagger needs at least two tags: found {listed(names)}")
    return make_datasets(built, validation_share if splits is None else 0, seed, report)


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


def _build(
    split: str,
    sentences: Sequence[tuple[Table, list[_Word]]],
    names: tuple[str, ...],
    ledger: Ledger,
    whole: bool,
) -> SplitRows:
    """Count all words, and keep those with a known tag; with `whole`, one bad word rejects its sentence."""
    types, counts = entity_types(names), ledger.report.splits[split]
    columns: dict[str, list[list[Any]]] = {"tokens": [], "ner_tags": []}
    for table, words in sentences:
        words = [
            word
            if word.fault
            or word.tag in names
            or (_ENTITY_TAG.fullmatch(word.tag) and word.tag[2:] in types)
            else word._replace(fault=unknown_label(word.tag, names, "tag"))
            for word in words
        ]
        if whole and (bad := next((word for word in words if word.fault), None)):
            words = [bad] * len(words)
        for word in words:
            if word.fault is not None:
                ledger.reject(split, table.reject(word.row, word.fault, word.line))
        good = [word for word in words if word.fault is None]
        counts.rows_read += len(words)
        counts.rows_kept += len(good)
        if good:
            tags = [word.tag for word in good]
            columns["tokens"].append([word.token for word in good])
            columns["ner_tags"].append(
                [names.index(tag) for tag in (to_iob2(tags) if types else tags)]
            )
    if not (size := len(columns["tokens"])):
        ledger.check()
        raise file_error(", ".join(counts.files), Reason.EMPTY_FILE, "found no usable token")
    feature = datasets.List(datasets.ClassLabel(names=list(names)))
    features = datasets.Features(tokens=datasets.List(datasets.Value("string")), ner_tags=feature)
    digest = hashlib.sha256(repr((names, columns)).encode()).hexdigest()
    rows, strata = pa.table(columns, features.arrow_schema), np.zeros(size, dtype=np.int64)
    return SplitRows(rows, features, strata, strata, digest)
