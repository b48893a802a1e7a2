"""Continuous text for language models: lines that, joined, are the text."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence

import datasets
import numpy as np

from ..utils.errors import DataError
from .charset import excerpt_of, find_byte_fault
from .errors import BadRow, Fault, Reason, explain_file, file_error, row_error
from .lines import open_unpacked
from .report import DataReport, SplitReport
from .sources import as_list, choose_splits, find_parts
from .splits import SPLITS

logger = logging.getLogger(__name__)

_HELD_OUT = 0.1  # share of the characters, cut off at the start of a row
_PIECES = re.compile(r"(?s).{1,10000}\Z|.{1,9999}(?= )|.{10000}")  # a line is cut so


def load_text(
    source: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    encoding: str | None = None,
    report: DataReport | None = None,
) -> datasets.DatasetDict:
    """Read the continuous texts of a language model.

    A row of the column `text` is a line with its line feed, so that the rows, joined, are the text;
    CRLF becomes LF, and a byte order mark is skipped. A line over 10,000 characters is several
    rows.

    Args:
        source: A folder with `train.txt`, and `dev.txt` and `test.txt` if there are any; or a text
            file, or a folder with only one. Without `dev.txt` the last tenth is the validation
            split.
        splits: Return only these. A single file is also the split `test`, whole.
        encoding: The encoding of the files, by default UTF-8.
        report: An empty report to fill in.

    Raises:
        DataError: For a file without text, or with bytes that are not text.
        UserError: For a folder without such files, and for a missing split.
    """
    report = report or DataReport()
    read_as = "test" if as_list(splits or ()) == ["test"] else "train"
    where, files = find_parts(source, read_as, (".txt",))
    is_cut = "train" in files and "validation" not in files  # its end is the validation split
    there = [*files, "validation"] if is_cut else files
    names = choose_splits(splits, there, where, ".txt")
    needed = set(names).intersection(files)
    if is_cut and "validation" in names:
        needed.add("train")
    texts = {}
    for split in sorted(needed, key=SPLITS.index):
        texts[split] = _read_files(split, files[split], encoding, report)
    if is_cut and "train" in texts:
        _cut_end(texts, report)
    features = datasets.Features(text=datasets.Value("string"))
    data = datasets.DatasetDict()
    for name in names:
        data[name] = datasets.Dataset.from_dict({"text": texts[name]}, features)
    return data


def _cut_end(texts: dict[str, list[str]], report: DataReport) -> None:
    """Make the last tenth of the characters of train the validation split."""
    rows = texts["train"]
    ends = np.cumsum([len(row) for row in rows])
    first = int(np.searchsorted(ends, (1 - _HELD_OUT) * ends[-1]))
    if first in (0, len(ends)):
        problem = "the text is too short to hold out a tenth of its lines"
        raise DataError(f"{problem}: give dev.txt beside train.txt")
    texts["validation"] = rows[first:]
    del rows[first:]
    message = "there is no dev.txt: the last tenth of %s is held out as validation split"
    logger.warning(message, report.splits["train"].files[0])
    report.held_out = {"share": _HELD_OUT, "seed": None, "rows": len(texts["validation"])}
    report.label_counts |= {"train": [len(rows)], "validation": [len(texts["validation"])]}


def _read_files(
    split: str, paths: list[str], encoding: str | None, report: DataReport
) -> list[str]:
    """Return the lines of text files; long ones in pieces, cut before a space if there is one."""
    encoding = encoding or "utf-8-sig"
    pieces = []
    for path in paths:
        with explain_file(path), open_unpacked(path) as stream:
            text = stream.read().decode(encoding, "surrogateescape").replace("\r\n", "\n")
        lines = text.splitlines(keepends=True)
        if "\0" in text or find_byte_fault(text):
            _refuse_line(path, text, lines, encoding)
        if not text.strip():
            raise file_error(path, Reason.EMPTY_FILE, "it has no text")
        for line in lines:
            pieces += _PIECES.findall(line)
    report.splits[split] = SplitReport(paths, len(pieces), len(pieces))
    report.label_counts[split] = [len(pieces)]
    return pieces


def _refuse_line(path: str, text: str, lines: Sequence[str], encoding: str) -> None:
    """Raise the error for the first line with a byte that is not text."""
    for line in lines:
        fault = find_byte_fault(line, encoding)
        if fault is None and "\0" in line:
            fault = Fault(Reason.NUL, "the line has a NUL")
        if fault is not None:
            place = text.count("\n", 0, text.index(line)) + 1
            raise row_error(BadRow(path, place, fault, excerpt_of(line)))
