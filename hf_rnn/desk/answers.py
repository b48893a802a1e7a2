"""Answers of a person on disk: a line of JSON for each, appended before the next text is shown."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import xxhash

from ..utils.errors import DataError, find_text_fault, reason_of
from ..utils.process import write_whole

logger = logging.getLogger(__name__)

LONGEST_LABEL = 200  # characters
_SHOWN = 3  # lines that are named
_DAMAGES = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, csv.Error)


@dataclass(frozen=True)
class Answer:
    """The answer of a person to a text."""

    row: int  # number in the table, from 0
    text: str
    label: str  # is empty for a text that was skipped
    time: str  # UTC, as 2026-11-30T08:15:00.123
    suggestion: str  # the label that the model suggested; empty without one
    order: str  # why the text was chosen; see [`~hf_rnn.desk.labeller.Labeller`]
    seconds: float | None = None  # from the question to the answer


class AnswerFile:
    """A file `answers.jsonl` that only grows; `answers` are those that count, in order.

    A line has `answer`, the hash of its row, and the fields of [`Answer`]; the label of a skipped
    text is null. An answer that is taken back stays, and a line `{"undo": hash}` follows. A line
    that cannot be read is named, and all others count. The answers of an older folder are in
    `labels.csv`; they are taken over if there is no `answers.jsonl`.

    Args:
        path: The file.
        texts: The texts of the table. Answers to other texts stay in the file.
    """

    def __init__(self, path: Path, texts: Sequence[str]) -> None:
        self.path = path
        self.answers: list[Answer] = []
        self._hashes = hash_rows(texts)
        self._faults: list[str] = []
        self._others = 0  # answers to other texts
        path.parent.mkdir(parents=True, exist_ok=True)
        table = path.with_name("labels.csv")
        if path.exists():
            self._read(texts)
        elif table.exists():
            self._take_over(table, texts)
        if self._faults:
            shown = "; ".join(self._faults[:_SHOWN])
            logger.warning(
                "%d lines cannot be read, and are left out: %s", len(self._faults), shown
            )
        if self._others:
            message = "%s: %d answers are to texts that this table lacks; they are not used"
            logger.warning(message, path, self._others)

    def append(self, answer: Answer) -> None:
        """Write an answer, and wait until the system has it."""
        self._write(self._format(answer))
        self.answers.append(answer)

    def undo(self) -> Answer:
        """Take the last answer back, and return it."""
        self._write(json.dumps({"undo": self._hashes[self.answers[-1].row]}))
        return self.answers.pop()

    def _format(self, answer: Answer) -> str:
        record = {"answer": self._hashes[answer.row], **asdict(answer)}
        return json.dumps({**record, "label": answer.label or None}, ensure_ascii=False)

    def _write(self, line: str) -> None:
        with open(self.path, "ab") as file:
            end = file.tell()
            try:
                file.write(f"{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:  # such as a full disk
                os.truncate(self.path, end)
                raise

    def _read(self, texts: Sequence[str]) -> None:
        """Read the answers; cut off a last line that a killed process left torn."""
        rows = {key: row for row, key in enumerate(self._hashes)}
        standing: dict[str, Answer] = {}
        content = self.path.read_bytes()
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if "undo" in record:
                    standing.pop(record["undo"], None)
                elif record["answer"] in rows:
                    row = rows[record["answer"]]
                    standing.pop(record["answer"], None)  # the last answer counts, in its place
                    standing[record["answer"]] = _check(record, row, texts[row])
                else:
                    self._others += 1
            except _DAMAGES as error:
                self._faults.append(f"{self.path}:{number} ({reason_of(error):.80})")
        self.answers = list(standing.values())
        torn = content.rpartition(b"\n")[2]
        if torn:
            os.truncate(self.path, len(content) - len(torn))
            with suppress(ValueError, RecursionError):  # it is whole except for its end
                self._write(json.dumps(json.loads(torn), ensure_ascii=False))

    def _take_over(self, table: Path, texts: Sequence[str]) -> None:
        """Write the answers of an older folder as lines of JSON."""
        content = table.read_bytes().decode("utf-8-sig", "replace").replace("\0", "")
        head = content.partition("\n")[0]
        if not {"row", "text", "label"} <= set(re.findall(r"\w+", head)):
            return  # another table
        separator = max(",;\t", key=head.count)  # a spreadsheet may have saved it
        csv.field_size_limit(max(csv.field_size_limit(), len(content)))
        reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=separator)
        rows = {text: row for row, text in reversed(list(enumerate(texts)))}
        answers: dict[int, Answer] = {}
        while True:
            try:
                record = next(reader)
                number = int(record["row"])
                text = record["text"]
                if None in record.values():
                    raise DataError("fields are missing")
                row = number if texts[number : number + 1] == [text] else rows[text]
                answers[row] = _check({**record, "seconds": None}, row, text)
            except StopIteration:
                break
            except _DAMAGES as error:
                self._faults.append(f"{table}:{reader.line_num} ({reason_of(error):.80})")
        self.answers = list(answers.values())
        lines = [f"{self._format(answer)}\n" for answer in self.answers]
        write_whole(self.path, "".join(lines).encode())
        logger.info("%d answers of %s are now in %s", len(lines), table, self.path)


def hash_rows(texts: Sequence[str]) -> list[str]:
    """Return the hash of each row: of its text, and of how many earlier rows have this text."""
    counts = Counter[str]()
    hashes = []
    for text in texts:
        hashes.append(xxhash.xxh3_128_hexdigest(f"{counts[text]} {text}".encode()))
        counts[text] += 1
    return hashes


def write_table(answers: Sequence[Answer]) -> bytes:
    """Return answers as a table in CSV, for people."""
    columns = [field.name for field in fields(Answer)]
    return pd.DataFrame(list(map(asdict, answers)), columns=columns).to_csv(index=False).encode()


def check_label(label: object) -> str:
    """Return a label with single spaces, or raise a [`DataError`] for an invalid one."""
    fault = find_text_fault(label)
    if fault:
        raise DataError(f"the label {fault}")
    name = " ".join(str(label).split())
    if not name:
        raise DataError("the label is empty: give a name, or None to skip the text")
    if len(name) > LONGEST_LABEL:
        raise DataError(f"the label has {len(name):,} characters: give {LONGEST_LABEL} at most")
    return name


def _check(record: Mapping[str, Any], row: int, text: str) -> Answer:
    """Return the answer of a record; raise an error for one that is damaged."""
    time, suggestion, order = (record[name] or "" for name in ("time", "suggestion", "order"))
    label = "" if record["label"] in (None, "") else check_label(record["label"])
    seconds = record["seconds"]
    if any(map(find_text_fault, (time, suggestion, order))) or not math.isfinite(seconds or 0):
        raise DataError("a field has another type")
    return Answer(row, text, label, time, suggestion, order, seconds)
