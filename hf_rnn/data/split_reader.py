"""All splits read under one label map, with one account of the rows.

The first split (train, or the only one asked for) is surveyed first: which labels it holds, and whether anything is
odd. If nothing is, the survey is the reading. If something is, the split is read again with the label map known, so
that bad rows are met and reported in the order of lines whatever is wrong with them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
import xxhash

from ..utils.errors import UserError
from .labels import MAX_CLASSES, LabelMap, is_integer, listed, sort_labels
from .row_errors import BadRow, DataError, Fault, Reason
from .row_report import Ledger, SplitReport
from .tsv_reader import LabelResolver, Rows
from .tsv_schema import looks_like_header

logger = logging.getLogger(__name__)


class RowSource(Protocol):
    """A file, or another part of a split, that can be read more than once and gives the same rows each time."""

    @property
    def path(self) -> str:
        """Its name in messages."""

    @property
    def layout(self) -> object:
        """What besides its bytes decides which rows come out."""

    @property
    def header_label(self) -> str | None:
        """What a declared header has in the label's column."""

    def first_row(self) -> tuple[str, str] | None:
        """Return text and label of a first line that may be an undeclared header."""

    def rows(
        self,
        labels: LabelResolver | None,
        on_bad_row: Callable[[BadRow], None],
        on_bytes: Callable[[bytes], object] = ...,
        with_texts: bool = ...,
    ) -> Iterator[Rows]:
        """Read it; see [`~hf_rnn.data.tsv_file.TsvFile.rows`]."""


@dataclass
class ReadSplit:
    """The good rows of one split.

    Attributes:
        sources: Where they come from.
        counts: For each source, kept rows by label id, shape (classes,).
        rows: The rows in order; empty when only counts are wanted.
        digest: Hash of all that was read.
    """

    sources: Sequence[RowSource]
    counts: list[np.ndarray] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    digest: str = ""

    def total(self) -> list[int]:
        """Return the kept rows by label id."""
        return [int(count) for count in np.sum(self.counts, axis=0)]


@dataclass
class _Survey:
    """What a split holds before there is a label map."""

    counts: list[Counter[str]] = field(default_factory=list)  # for each source, rows by label
    rows: list[Rows] = field(default_factory=list)
    lines: int = 0
    bad_row: BadRow | None = None
    headers: set[str] = field(default_factory=set)  # labels that stand in undeclared headers only
    digest: str = ""

    def total(self) -> Counter[str]:
        """Return the rows by label, headers left out."""
        total = sum(self.counts, Counter())
        return Counter({label: rows for label, rows in total.items() if label not in self.headers})


def read_splits(
    sources: Mapping[str, Sequence[RowSource]],
    class_names: Sequence[str] | None,
    ledger: Ledger,
    keep: bool,
    label_map: Mapping[str, str] | None = None,
) -> tuple[LabelMap, dict[str, ReadSplit]]:
    """Read all splits under one label map.

    Args:
        sources: What to read, by canonical split name; the first decides about the labels.
        class_names: Names by id, or None to take the labels of the first split, sorted.
        ledger: Takes every rejected row and all counts.
        keep: Whether to keep the rows, or the counts only.
        label_map: See [`LabelMap.given`].

    Raises:
        DataError: For a file or row that cannot be used and that the ledger does not let pass.
        UserError: If the labels make no map.
    """
    for split, parts in sources.items():
        ledger.report.splits[split] = SplitReport([part.path for part in parts])
    first = next(iter(sources))
    survey = _survey(sources[first], class_names, keep)
    labels = _label_map(first, sources[first], survey, class_names, ledger, label_map)
    if class_names is None:
        _tell_of_header(sources[first], survey.total())
    ledger.report.class_names = list(labels.names)
    surveyed = _settle(sources[first], survey, labels)
    survey.rows.clear()
    splits: dict[str, ReadSplit] = {}
    for split, parts in sources.items():
        for part in parts:
            _check_header(part, labels)
        report = ledger.report.splits[split]
        if split == first and surveyed is not None:
            splits[split], report.rows_read = surveyed, survey.lines
        else:
            splits[split] = _read(split, parts, labels, ledger, keep)
        report.label_counts = splits[split].total()
        report.rows_kept = sum(report.label_counts)
        if not report.rows_kept:
            raise _nothing_left(parts)
        if absent := [name for name, rows in zip(labels.names, report.label_counts, strict=True) if not rows]:
            logger.warning("%s has no row with label %s", split, listed(absent))
    return labels, splits


def _check_header(part: RowSource, labels: LabelMap) -> None:
    """Refuse a declared header that is a row: it would be lost."""
    cell = part.header_label
    if cell is not None and not isinstance(labels.resolve(cell), Fault):
        detail = f"its first line, declared a header, has the label {cell!r:.80} in the label's column"
        raise DataError.of_file(part.path, Fault(Reason.NO_HEADER, detail, "If it is a row, leave out --header"))


def _tell_of_header(parts: Sequence[RowSource], counts: Counter[str]) -> None:
    """Say that a first line may name columns in words of its own, where its label alone stands nowhere else."""
    once = [label for label, rows in counts.items() if rows == 1]
    for part in parts:
        text, label = part.first_row() or ("", "")
        if once == [label] and len(text.split()) <= 3:
            logger.warning(
                "%s:1: label %s stands there only, and is taken as a class. If this line names the columns: --header",
                part.path,
                listed(once),
            )


def _survey(parts: Sequence[RowSource], class_names: Sequence[str] | None, keep: bool) -> _Survey:
    """Read a split without a label map."""
    survey, hasher = _Survey(), xxhash.xxh3_128()

    def note(row: BadRow) -> None:
        survey.bad_row = survey.bad_row or row

    for part in parts:
        counts: Counter[str] = Counter()
        survey.counts.append(counts)
        hasher.update(repr(part.layout).encode())
        for rows in part.rows(None, note, hasher.update, with_texts=keep):
            survey.lines += rows.lines
            names = rows.labels.dictionary.to_pylist()
            counts.update(
                dict(zip(names, np.bincount(rows.labels.indices, minlength=len(names)).tolist(), strict=True))
            )
            if len(counts) > MAX_CLASSES:
                raise UserError(
                    f"{part.path}: more than {MAX_CLASSES} different labels, such as {listed(names[:3])}. "
                    "Are the columns swapped? Set --text_column and --label_column"
                )
            if keep:
                survey.rows.append(rows)
    survey.digest = hasher.hexdigest()
    survey.headers = _header_labels(parts, survey.total(), class_names or ())
    return survey


def _header_labels(parts: Sequence[RowSource], counts: Counter[str], class_names: Sequence[str]) -> set[str]:
    """Return the labels that stand only in first lines and look as if they named a column."""
    firsts = [row for part in parts if (row := part.first_row()) is not None]
    first_labels = Counter(label for _, label in firsts)
    others = [label for label in counts if counts[label] > first_labels[label]]
    integers = bool(others) and all(map(is_integer, others))
    return {
        label
        for text, label in firsts
        if label not in class_names
        and counts[label] == first_labels[label]
        and looks_like_header(text, label, integers)
    }


def _label_map(
    split: str,
    parts: Sequence[RowSource],
    survey: _Survey,
    class_names: Sequence[str] | None,
    ledger: Ledger,
    label_map: Mapping[str, str] | None,
) -> LabelMap:
    counts = survey.total()
    if not counts and not survey.headers:
        for part in parts:  # not one good row: the first bad ones say what is wrong
            for _ in part.rows(None, partial(ledger.reject, split)):
                pass
        raise _nothing_left(parts)
    try:
        if class_names is None:
            return LabelMap.from_counts(counts)
        return LabelMap.given(class_names, counts, label_map)
    except UserError:
        # The labels may be at odds because of a header or a bad row. Then these must be told, and reading once
        # more comes upon them.
        if survey.headers or (survey.bad_row is not None and ledger.limit == 0):
            _read(split, parts, LabelMap(tuple(sort_labels(counts))), ledger, keep=False)
        raise


def _settle(parts: Sequence[RowSource], survey: _Survey, labels: LabelMap) -> ReadSplit | None:
    """Turn a survey into the split, if nothing was odd about it."""
    resolved = {label: labels.resolve(label) for label in survey.total()}
    ids = {label: number for label, number in resolved.items() if not isinstance(number, Fault)}
    if survey.bad_row or survey.headers or len(ids) < len(resolved):
        return None
    counts = []
    for by_label in survey.counts:
        counts.append(np.zeros(len(labels.names), dtype=np.int64))
        for label, number in by_label.items():
            counts[-1][ids[label]] += number
    settled = []
    for rows in survey.rows:
        table = np.array([ids[label] for label in rows.labels.dictionary.to_pylist()], dtype=np.int64)
        settled.append(Rows(rows.texts, pa.array(table[rows.labels.indices.to_numpy()]), rows.lines))
    return ReadSplit(parts, counts, settled, survey.digest)


def _read(split: str, parts: Sequence[RowSource], labels: LabelMap, ledger: Ledger, keep: bool) -> ReadSplit:
    """Read a split with the label map known."""
    read, hasher = ReadSplit(parts), xxhash.xxh3_128()
    try:
        for part in parts:
            read.counts.append(counts := np.zeros(len(labels.names), dtype=np.int64))
            hasher.update(repr(part.layout).encode())
            for rows in part.rows(labels, partial(ledger.reject, split), hasher.update, with_texts=keep):
                ledger.report.splits[split].rows_read += rows.lines
                counts += np.bincount(rows.labels, minlength=len(labels.names))
                if keep:
                    read.rows.append(rows)
    except DataError as error:
        if error.is_of_a_name:
            raise error.with_advice(f"All labels in {split}: {_all_labels(parts)}") from None
        raise
    read.digest = hasher.hexdigest()
    return read


def _all_labels(parts: Sequence[RowSource]) -> str:
    try:
        return listed(sort_labels(_survey(parts, None, keep=False).total()))
    except DataError:  # another fault than too many labels: the file has changed, or is gone
        raise
    except UserError:
        return f"more than {MAX_CLASSES}"


def _nothing_left(parts: Sequence[RowSource]) -> DataError:
    fault = Fault(Reason.EMPTY_FILE, "not one of its lines is a row that can be used")
    return DataError.of_file(", ".join(part.path for part in parts), fault)
