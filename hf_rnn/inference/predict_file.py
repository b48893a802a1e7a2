"""A file with one text a line → its answers, line by line, and those as a CSV, TSV or JSONL file.

For a person who gave a file to a page and takes one home; `hf-rnn predict` is for files of any size.
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
from .predictor import FastRnn

FORMATS = ("csv", "tsv", "jsonl")

_BLOCK = 1024  # lines answered at a time


@dataclass(frozen=True)
class Answer:
    """What a line got.

    Attributes:
        text: The line; of one that is no text, how it starts.
        label: None where there is an error.
        score: Of the label.
        error: Why the line has no label.
    """

    text: str
    label: str | None = None
    score: float | None = None
    error: str | None = None


def label_file(classifier: FastRnn, path: Path, max_lines: int | None = None) -> Iterator[list[Answer]]:
    """Label the lines of a file.

    Args:
        classifier: Labels them.
        path: The file; a line is what [`read_texts`] says.
        max_lines: How many lines to read at most.

    Yields:
        Answers, some at a time, in the order of the lines.

    Raises:
        DataError: For a file that is no text as a whole, such as a compressed one.
    """
    with path.open("rb") as stream:
        lines = islice((line for block in read_texts(stream, path.name) for line in block), max_lines)
        while block := list(islice(lines, _BLOCK)):
            best = iter(classifier.predict([line for line in block if isinstance(line, str)]))
            yield [_answer(line, best) for line in block]


def _answer(line: str | BadRow, best: Iterator[Mapping[str, Any]]) -> Answer:
    if isinstance(line, BadRow):
        return Answer(line.excerpt, error=f"line {line.line}: {line.fault.reason.value}: {line.fault.detail}")
    answer = next(best)
    if not isfinite(answer["score"]):
        return Answer(line, error="the model gives a score that is not finite")
    return Answer(line, **answer)


def write_answers(answers: Iterable[Answer], path: Path) -> None:
    """Write answers to a file, in the format that its name ends with.

    CSV and TSV have a header and quote as spreadsheets do; JSONL leaves out what is None.

    Args:
        answers: In the order of the lines.
        path: Ends with one of `FORMATS`.
    """
    with path.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".jsonl":
            for answer in answers:
                record = {name: value for name, value in asdict(answer).items() if value is not None}
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            return
        dialect = {".csv": "excel", ".tsv": "excel-tab"}[path.suffix]
        writer = csv.writer(stream, dialect)  # lines end as in RFC 4180
        writer.writerow(field.name for field in fields(Answer))
        writer.writerows(asdict(answer).values() for answer in answers)
