"""CSV and TSV, and lines of text: every line is a row, a part of one, or a rejection.

They are read by Python's `csv` in strict mode. It knows the line of each row and reports a misplaced quote;
`pyarrow.csv` knows neither, and reads an unclosed quote to the end of the file without an error. In text without
quotes a line ends at LF or CRLF, a field at the separator, and every other character belongs to the field;
`pyarrow.csv` and pandas end a row at a lone CR.

TSV with names of columns is read with quotes, as pandas, polars and `csv` write it, unless that rejects more rows. In
TSV without names quotes are letters.
"""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from ..utils.errors import UserError, reason_of
from .lines import SAMPLE_BYTES, excerpt_of, find_byte_fault, open_text
from .row_errors import BadRow, DataError, Fault, Reason

logger = logging.getLogger(__name__)

# Names of columns of texts and of labels, in any case; the first that a table has is taken.
TEXT_NAMES = (
    *("text", "tweet", "sentence", "review", "content", "comment", "message"),
    *("nachricht", "kommentar", "bewertung", "satz", "inhalt"),
)
LABEL_NAMES = (
    *("label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity"),
    *("kategorie", "klasse", "stimmung", "gefühl", "bewertung"),
)
BATCH_ROWS = 10_000

_BLOCK_CHARACTERS = 1 << 20
_SEPARATORS = ",;\t|"
_LONGEST_CELL = 1 << 28  # bounds the memory that an unclosed quote takes
_LONE_CR = "\udc0d"  # stands for a lone CR, which `csv` refuses outside quotes; decoding never makes it


@dataclass(frozen=True)
class Batch:
    """Rows of a table in their order.

    Attributes:
        places: The place of each good row, ascending: its first line, from 1, or its row.
        rows: The good rows. Cells of delimited text are strings, others have the types of the file.
        bad: The rejected rows. Their `line` counts like `places`.
    """

    places: np.ndarray
    rows: pa.RecordBatch
    bad: list[BadRow]

    @classmethod
    def build(
        cls, places: Sequence[int] | np.ndarray, columns: Sequence[pa.Array], names: Sequence[str], bad: list[BadRow]
    ) -> Batch:
        """Make a batch of columns."""
        return cls(np.array(places, dtype=np.int64), pa.RecordBatch.from_arrays(columns, list(names)), bad)

    @property
    def size(self) -> int:
        """The number of rows that were read."""
        return len(self.places) + len(self.bad)

    def in_order(self, values: Iterable[Any]) -> list[Any]:
        """Return a value for each good row, with the rejected rows in their places."""
        rows = [*zip(self.places.tolist(), values, strict=True), *((row.line, row) for row in self.bad)]
        return [value for _, value in sorted(rows, key=itemgetter(0))]


@dataclass(frozen=True)
class DelimitedText:
    """Rows of a fixed number of fields in a text file.

    Attributes:
        separator: The character between fields; None if a line is one field.
        header: Whether the first row has the names; blank lines are then not rows.
        quoted: Whether fields may be quoted; otherwise every line is a row.
        names: The names of the columns.
        line_end: The end of a line of quoted text.
        note: A line to log when the text is read.
    """

    path: str
    encoding: str
    separator: str | None
    header: bool = False
    quoted: bool = False
    names: Sequence[str] = ("text",)
    line_end: str = "\n"
    note: str = ""

    def read(self, columns: Sequence[str] = (), texts: Sequence[str] = ()) -> Iterator[Batch]:
        """Read all columns once."""
        if self.note:
            logger.warning("%s: %s", self.path, self.note)
        rows = islice(self.rows(), int(self.header), None)
        while part := list(islice(rows, BATCH_ROWS)):
            yield self._build(part)

    def _build(self, rows: Iterable[tuple[int, list[str] | BadRow]]) -> Batch:
        """Make a batch of rows: the place of each one, and its fields or its rejection."""
        good: dict[int, list[str]] = {}
        bad = []
        for place, row in rows:
            if isinstance(row, BadRow):
                bad.append(row)
            elif len(row) == len(self.names):
                good[place] = row
            else:
                bad.append(self._reject_fields(place, row))
        if not _is_valid("".join(chain.from_iterable(good.values()))):
            for place in [place for place, row in good.items() if not _is_valid("".join(row))]:
                bad.append(self._reject(place, str(self.separator).join(good.pop(place))))
        columns = zip(*good.values(), strict=True) if good else [()] * len(self.names)
        arrays = [pa.array(column, pa.string()) for column in columns]
        return Batch.build(list(good), arrays, self.names, sorted(bad, key=lambda row: row.line))

    def _reject(self, place: int, text: str, fault: Fault | None = None) -> BadRow:
        """Reject a row, by default for its bytes."""
        raw = text.encode("utf-8", "surrogateescape")
        fault = find_byte_fault(raw) or fault or Fault(Reason.NOT_UTF8, f"it is not {self.encoding}")
        return BadRow(self.path, place, fault, excerpt_of(raw))

    def _reject_fields(self, place: int, row: Sequence[str]) -> BadRow:
        text = str(self.separator).join(row)
        detail = f"found {len(row)} of {len(self.names)}" + ", and a lone CR, which ends no line" * ("\r" in text)
        advice = "Quote texts that hold the separator" if self.quoted else "A text cannot hold the separator"
        if len(row) > len(self.names):
            return self._reject(place, text, Fault(Reason.TOO_MANY_FIELDS, detail, advice))
        return self._reject(place, text, Fault(Reason.TOO_FEW_FIELDS, detail if text else "the line is empty"))

    def rows(self) -> Iterator[tuple[int, list[str] | BadRow]]:
        """Yield the first line and the fields of each row, that of the names included."""
        has_cr, keeps_blank = False, not (self.header or self.quoted)

        def hide_cr(lines: Iterable[str]) -> Iterator[str]:
            """Hide each CR that ends no line; pandas and `csv` write it without quotes."""
            nonlocal has_cr
            for line in lines:
                if "\r" in line and "\r" in (text := line.removesuffix("\n").removesuffix("\r")):
                    has_cr, line = True, text.replace("\r", _LONE_CR) + line[len(text) :]
                yield line

        with open_text(self.path, self.encoding, self.line_end) as stream:
            if self.separator is None and not self.quoted:
                lines = enumerate((line.removesuffix("\n").removesuffix("\r") for line in stream), 1)
                yield from ((place, [line]) for place, line in lines if line or keeps_blank)
                return
            reader = _read_csv(hide_cr(stream), self.separator or ",", strict=True, quoted=self.quoted)
            while True:
                place = reader.line_num + 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    detail = f"{reason_of(error).partition(' - ')[0]} in line {reader.line_num}"
                    advice = 'Quote texts that hold ", write " as "" in them, and close each quote'
                    bad = self._reject(place, "", Fault(Reason.MISPLACED_QUOTE, detail, advice))
                    if reader.line_num > place or "end of data" in detail:  # nobody can say where this row ends
                        raise DataError.for_row(bad) from None
                    yield place, bad
                else:
                    if row or keeps_blank:
                        yield place, [cell.replace(_LONE_CR, "\r") for cell in row or [""]] if has_cr else row or [""]


def _read_csv(lines: Iterable[str], separator: str, strict: bool, quoted: bool = True) -> Any:
    csv.field_size_limit(_LONGEST_CELL)  # other programs may have set another one
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=separator, strict=strict, quoting=quoting)


def _is_valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def open_delimited(
    path: str, head: bytes, separator: str | None, encoding: str, header: bool, fields: int | None, quoting: str | None
) -> DelimitedText:
    """Find separator, columns and quotes; see [`~hf_rnn.data.tables.read_table`]."""
    if quoting not in (None, "csv", "none"):
        raise UserError(f"unknown quoting {quoting!r:.80}: give csv or none")
    content = head.decode(encoding, "replace")
    line_end = "\n" if "\n" in content or not header else "\r"
    lines = content.split(line_end)[: -1 if len(head) >= SAMPLE_BYTES else None]
    lines = [line.replace("\r", "") for line in lines]
    first = next(filter(str.strip, lines), "") if header else lines[0]
    separator = {"\\t": "\t", "tab": "\t"}.get(str(separator), separator) if header else "\t"
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise UserError(f"the separator must be one character: found {separator!r:.80}; give , ; | or tab")
    tab = "\t" if ".tsv" in path else ""
    separator = separator or _find_separator(lines, tab) or tab or None

    def name(cells: Sequence[str]) -> Sequence[str]:
        return name_columns(cells) if header else list(map(str, range(fields or len(cells))))

    plain = DelimitedText(path, encoding, separator, header, names=name(first.split(separator or ",")))
    quoted = replace(plain, quoted=True, line_end=line_end)
    if quoting == "none":
        return plain
    if header or quoting == "csv":
        quoted = replace(quoted, names=name(next((row for _, row in quoted.rows() if isinstance(row, list)), [])))
    if quoting == "csv" or separator != "\t" or line_end == "\r" or (header and _has_opening_quote(first)):
        return quoted
    return _choose_quoting(plain, quoted)


def _has_opening_quote(text: str) -> bool:
    return text.startswith('"') or '\t"' in text or '\n"' in text


def _choose_quoting(plain: DelimitedText, quoted: DelimitedText) -> DelimitedText:
    """Return the reading of a TSV file that rejects fewer rows. If both reject as many, a header means quotes.

    The note of a reading says that it is a guess.
    """
    with open_text(plain.path, plain.encoding) as stream:
        if not any(map(_has_opening_quote, iter(partial(stream.read, _BLOCK_CHARACTERS), ""))):
            return plain  # both readings are the same

    def count_bad(text: DelimitedText) -> float:
        """Return the number of rejected rows, infinity for text that cannot be read."""
        try:
            return sum(len(batch.bad) for batch in text.read())
        except DataError:
            return math.inf

    bad, bad_of_quoted = count_bad(plain), count_bad(quoted)
    if plain.header and bad_of_quoted <= bad:
        note = 'a " at the start of a field encloses it, a guess: --quoting none makes it a letter'
        return replace(quoted, note=note if bad_of_quoted == bad else "")
    note = 'a " at the start of a field is a letter, a guess: --quoting csv makes it a quote'
    return replace(plain, note=note if plain.header or bad_of_quoted <= bad else "")


def _find_separator(lines: Sequence[str], preferred: str) -> str | None:
    """Return the separator that cuts most lines into as many fields as the first, if these are several."""
    best, most = None, 0.0
    for separator in preferred + _SEPARATORS:
        rows = list(filter(None, _read_csv([line + "\n" for line in lines[:1000]], separator, strict=False)))
        if rows and len(rows[0]) > 1:
            agree = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            best, most = (separator, agree) if agree > most else (best, most)
    return best


def has_known_names(text: str) -> bool:
    """Return whether the first line of TSV names a column of texts and one of labels."""
    first = next(filter(str.strip, re.split("[\r\n]+", text)), "")
    names = {name.strip(' "') for name in first.casefold().split("\t")}
    return not names.isdisjoint(TEXT_NAMES) and not names.isdisjoint(LABEL_NAMES)


def name_columns(names: Iterable[object]) -> list[str]:
    """Return names of columns; those without a name have their number."""
    return [str(name) if str(name).strip() else f"column_{place}" for place, name in enumerate(names, 1)]
