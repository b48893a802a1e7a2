"""Label a file with one text per line, and write the answers as CSV, TSV or JSONL.

For the demo page; `hf-rnn predict` handles files of any size.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from ..data.line_reader import read_texts
from ..data.row_errors import BadRow
from ..tasks import Task
from .predictor import FastRnn

FORMATS = ("csv", "tsv", "jsonl")

_BLOCK = 1024  # lines predicted at a time


@dataclass(frozen=True)
class Answer:
    """The answer to one line: `text` is its beginning if it is refused, and `error` says why."""

    text: str
    label: str | None = None
    score: float | None = None
    error: str | None = None


def label_file(classifier: FastRnn, path: Path, max_lines: int | None = None) -> Iterator[list[Answer]]:
    """Yield the answers to the lines of a file, several at a time, in order; a file that is not text is refused."""
    with path.open("rb") as stream:
        lines = islice((line for block in read_texts(stream, path.name) for line in block), max_lines)
        while block := list(islice(lines, _BLOCK)):
            best = iter(classifier.predict([line for line in block if isinstance(line, str)]))
            yield [_make_answer(line, best, classifier.task) for line in block]


def _make_answer(line: str | BadRow, best: Iterator[Mapping[str, Any]], task: Task) -> Answer:
    if isinstance(line, BadRow):
        return Answer(line.excerpt, error=f"line {line.line}: {line.fault.reason.value}: {line.fault.detail}")
    answer = next(best)
    if not isfinite(answer.get("score", 0.0)):
        return Answer(line, error="the model gives a score that is not finite")
    return Answer(line, task.caption(answer), answer.get("score"))


def write_answers(answers: Iterable[Answer], path: Path) -> None:
    """Write answers in the format of the file's suffix, one of `FORMATS`.

    CSV and TSV have a header and quote as spreadsheets do. JSONL omits None.
    """
    with path.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".jsonl":
            for answer in answers:
                record = {name: value for name, value in asdict(answer).items() if value is not None}
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            return
        writer = csv.writer(stream, {".csv": "excel", ".tsv": "excel-tab"}[path.suffix])  # CRLF, as in RFC 4180
        writer.writerow(field.name for field in fields(Answer))
        writer.writerows(asdict(answer).values() for answer in answers)
