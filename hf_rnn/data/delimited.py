"""Text files as lines, and CSV and TSV as rows: every line is a row, a part of one, or a rejection.

Quoted text is read by Python's `csv` in strict mode. It knows the line of each row and reports a misplaced quote;
`pyarrow.csv` knows neither, and reads an unclosed quote to the end of the file without an error. Text with tabs and
without quotes has a grammar of its own: a line ends at LF or CRLF, a field at a tab, and every other character belongs
to the field. `pyarrow.csv` and pandas end a row at a lone CR.

A TSV file may have either grammar. With names of columns it is read with quotes, as pandas, polars and `csv` write it,
unless that rejects more rows; without names quotes are letters.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import UserError, reason_of
from .lines import excerpt_of, find_byte_fault, open_unpacked
from .row_errors import EXCERPT_CHARACTERS, BadRow, DataError, Fault, Reason

logger = logging.getLogger(__name__)

BATCH_ROWS = 10_000
SAMPLE_BYTES = 1 << 20
FASTTEXT_LABEL = "__label__"
_BLOCK_CHARACTERS = 1 << 20
_SEPARATORS = ",;\t|"
_LONGEST_CELL = 1 << 28  # bounds the memory that an unclosed quote takes
_LONE_CR = "\udc0d"  # stands for a lone CR, which `csv` refuses outside quotes; decoding never makes it
_OPENING_QUOTE = re.compile(r'(?:^|\t)"', re.MULTILINE)


@dataclass(frozen=True)
class Batch:
    """Rows of a table in their order.

    Attributes:
        places: The place of each good row, ascending: its first line, from 1, or its row.
        rows: The good rows. Cells of delimited text are strings, others have the types of the file.
        bad: The rejected rows; their `line` fits between `places`.
    """

    places: np.ndarray
    rows: pa.RecordBatch
    bad: list[BadRow]

    @classmethod
    def build(cls, places: Any, columns: Sequence[Any], names: Sequence[str], bad: list[BadRow]) -> Batch:
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


# ---- the encoding ----


def find_encoding(head: bytes, encoding: str | None, guess: bool = True) -> str:
    """Return the encoding of a text by its first bytes, cp1252 only with a `guess`; check one that is given."""
    try:
        if encoding is not None:
            encoding = codecs.lookup(encoding).name
    except LookupError:
        raise UserError(f"unknown encoding {encoding!r:.80}: give one such as utf-8, cp1252 or utf-16") from None
    if head.startswith(codecs.BOM_UTF8) and encoding in (None, "utf-8"):
        return "utf-8-sig"
    if encoding is not None or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return encoding or "utf-16"
    lines = [line for line in head.split(b"\n")[: -1 if len(head) >= SAMPLE_BYTES else None] if not line.isascii()]
    bad = sum(find_byte_fault(line) is not None for line in lines)
    return "cp1252" if guess and 2 * bad > len(lines) else "utf-8"


def open_text(path: str, encoding: str, line_end: str = "\n") -> io.TextIOWrapper:
    """Open a text file; undecodable bytes become lone surrogates."""
    return io.TextIOWrapper(open_unpacked(path), encoding, errors="surrogateescape", newline=line_end)


def _is_valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- rows ----


@dataclass(frozen=True)
class DelimitedText:
    """Rows of a fixed number of fields in a text file.

    Attributes:
        separator: The character between fields; None if a line is one field.
        header: Whether the first row has the names.
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
        return self._read_quoted() if self.quoted else self._read_lines()

    def _reject(self, place: int, text: str, fault: Fault | None = None) -> BadRow:
        """Reject a row, by default for its bytes."""
        raw = text.encode("utf-8", "surrogateescape")
        fault = find_byte_fault(raw) or fault or Fault(Reason.NOT_UTF8, f"it is not {self.encoding}")
        return BadRow(self.path, place, fault, excerpt_of(raw))

    def _reject_fields(self, place: int, text: str, found: int) -> BadRow:
        detail = f"found {found} of {len(self.names)}" + ", and a lone CR, which ends no line" * ("\r" in text)
        advice = "Quote texts that hold the separator" if self.quoted else "A text cannot hold the separator"
        if found > len(self.names):
            return self._reject(place, text, Fault(Reason.TOO_MANY_FIELDS, detail, advice))
        return self._reject(place, text, Fault(Reason.TOO_FEW_FIELDS, detail if text else "the line is empty"))

    def _read_lines(self) -> Iterator[Batch]:
        """Cut each line at the separator. Blank lines are not rows of a file with a header."""
        skip = self.header
        for number, block in self._blocks():
            lines, bad = block.split("\n"), []
            places = np.arange(number, number + len(lines))
            if not _is_valid(block):
                valid = np.array(list(map(_is_valid, lines)))
                bad = [self._reject(int(places[row]), lines[row]) for row in np.flatnonzero(~valid)]
                lines, places = [lines[row] for row in np.flatnonzero(valid)], places[valid]
            texts = pa.array(lines, pa.string())
            if "\r" in block:
                texts = pc.replace_substring_regex(texts, "\r$", "")
            columns = [texts]
            if self.separator is not None:
                fields = pc.split_pattern(texts, self.separator)
                counts = pc.list_value_length(fields).to_numpy(zero_copy_only=False)
                good, wrong = counts == len(self.names), counts != len(self.names)
                if self.header:
                    filled = pc.binary_length(texts).to_numpy(zero_copy_only=False) > 0
                    if skip and filled.any():
                        filled[np.argmax(filled)] = skip = False
                    good, wrong = good & filled, wrong & filled
                for row in np.flatnonzero(wrong).tolist():
                    bad.append(self._reject_fields(int(places[row]), texts[row].as_py(), int(counts[row])))
                fields, places = fields.filter(pa.array(good)), places[good]
                columns = [pc.list_element(fields, place) for place in range(len(self.names))]
            yield Batch.build(places, columns, self.names, bad)

    def _blocks(self) -> Iterator[tuple[int, str]]:
        """Yield the number of the first line and the text of whole lines, without the last line feed."""
        number, rest = 1, ""
        with open_text(self.path, self.encoding) as stream:
            for data in iter(partial(stream.read, _BLOCK_CHARACTERS), ""):
                block, end, rest = (rest + data).rpartition("\n")
                if end:
                    yield number, block
                    number += block.count("\n") + 1
        if rest:
            yield number, rest

    def rows(self) -> Iterator[tuple[int, list[str] | BadRow]]:
        """Yield the first line and the fields of each quoted row."""
        csv.field_size_limit(_LONGEST_CELL)
        has_cr = False

        def hide_cr(lines: Iterable[str]) -> Iterator[str]:
            """Hide each CR that ends no line; pandas and `csv` write it without quotes."""
            nonlocal has_cr
            for line in lines:
                if "\r" in (text := line.removesuffix("\n").removesuffix("\r")):
                    has_cr, line = True, text.replace("\r", _LONE_CR) + line[len(text) :]
                yield line

        with open_text(self.path, self.encoding, self.line_end) as stream:
            reader = csv.reader(hide_cr(stream), delimiter=self.separator or ",", strict=True)
            while True:
                place = reader.line_num + 1
                try:
                    if row := next(reader):
                        yield place, [cell.replace(_LONE_CR, "\r") for cell in row] if has_cr else row
                except StopIteration:
                    return
                except csv.Error as error:
                    detail = f"{reason_of(error).partition(' - ')[0]} in line {reader.line_num}"
                    advice = 'Quote texts that hold ", write " as "" in them, and close each quote'
                    bad = self._reject(place, "", Fault(Reason.MISPLACED_QUOTE, detail, advice))
                    if reader.line_num > place or "end of data" in detail:  # nobody can say where this row ends
                        raise DataError.for_row(bad) from None
                    yield place, bad

    def _read_quoted(self) -> Iterator[Batch]:
        rows = islice(self.rows(), int(self.header), None)
        while part := list(islice(rows, BATCH_ROWS)):
            good: dict[int, list[str]] = {}
            bad = []
            for place, row in part:
                if isinstance(row, BadRow):
                    bad.append(row)
                elif len(row) != len(self.names):
                    bad.append(self._reject_fields(place, str(self.separator).join(row), len(row)))
                else:
                    good[place] = row
            if not _is_valid("".join(chain.from_iterable(good.values()))):
                for place in [place for place, row in good.items() if not _is_valid("".join(row))]:
                    bad.append(self._reject(place, str(self.separator).join(good.pop(place))))
            columns = zip(*good.values(), strict=True) if good else [()] * len(self.names)
            arrays = [pa.array(column, pa.string()) for column in columns]
            yield Batch.build(list(good), arrays, self.names, sorted(bad, key=lambda row: row.line))


# ---- opening ----


def name_columns(names: Iterable[Any]) -> list[str]:
    """Return names of columns; those without a name have their number."""
    return [str(name) if str(name).strip() else f"column_{place}" for place, name in enumerate(names, 1)]


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
    first = next((line for line in lines if line.strip()), "")
    separator = {"\\t": "\t", "tab": "\t"}.get(str(separator), separator) if header else "\t"
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise UserError(f"the separator must be one character: found {separator!r:.80}; give , ; | or tab")
    is_tsv = ".tsv" in path
    separator = separator or _find_separator(lines, "\t" * is_tsv) or ("\t" if is_tsv else None)

    def name(cells: Sequence[str]) -> Sequence[str]:
        return name_columns(cells) if header else list(map(str, range(fields or len(cells))))

    cells = (first if header else lines[0]).split(separator or ",")
    plain = DelimitedText(path, encoding, separator, header, names=name(cells))
    quoted = replace(plain, quoted=True, line_end=line_end)
    if quoting == "none":
        return plain
    if header or quoting is not None:
        quoted = replace(quoted, names=name(next((row for _, row in quoted.rows() if isinstance(row, list)), [])))
    if quoting is not None or separator != "\t" or line_end == "\r" or (header and _OPENING_QUOTE.search(first)):
        return quoted
    return _choose_quoting(plain, quoted)


def _choose_quoting(plain: DelimitedText, quoted: DelimitedText) -> DelimitedText:
    """Return the reading of a TSV file that rejects fewer rows; if both fit, names of columns mean quotes.

    A reading that is a guess is noted.
    """
    with open_text(plain.path, plain.encoding) as stream:
        if not any(map(_OPENING_QUOTE.search, iter(partial(stream.read, _BLOCK_CHARACTERS), ""))):
            return plain  # both readings are the same
    bad = _count_bad(plain)
    bad_of_quoted = _count_bad(quoted, bad)
    text = quoted if plain.header and bad_of_quoted <= bad else plain
    if text is quoted and bad_of_quoted == bad:
        return replace(text, note='a " at the start of a field encloses it, a guess: --quoting none makes it a letter')
    if text is plain and (plain.header or bad_of_quoted <= bad):
        return replace(text, note='a " at the start of a field is a letter, a guess: --quoting csv makes it a quote')
    return text


def _count_bad(text: DelimitedText, most: float = float("inf")) -> float:
    """Return the number of rejected rows, infinity for text that cannot be read, and stop above `most`."""
    bad = 0
    try:
        for batch in text.read():
            bad += len(batch.bad)
            if bad > most:
                break
    except DataError:
        return float("inf")
    return bad


def _find_separator(lines: Sequence[str], preferred: str) -> str | None:
    """Return the separator that cuts most lines into as many fields as the first, if these are several."""
    best, most = None, 0.0
    for separator in preferred + _SEPARATORS:
        rows = list(filter(None, csv.reader([line + "\n" for line in lines[:1000]], delimiter=separator)))
        if rows and len(rows[0]) > 1:
            agree = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            best, most = (separator, agree) if agree > most else (best, most)
    return best


def split_labels(text: DelimitedText, separator: str | None, columns: Any, texts: Any) -> Iterator[Batch]:
    """Cut lines of fastText into text and label; without a `separator` for several labels these are rejected."""
    for batch in text.read():
        parts = pc.extract_regex(
            batch.rows.column(0), rf"^\s*(?P<label>(?:{FASTTEXT_LABEL}\S+\s*)*)(?P<text>.*)$"
        ).flatten()
        labels = pc.replace_substring(pc.utf8_trim_whitespace(parts[0]), FASTTEXT_LABEL, "")
        rows = pa.RecordBatch.from_arrays([parts[1], labels], ["text", "label"])
        several = pc.match_substring_regex(labels, r"\s")
        if separator is not None:
            rows = rows.set_column(1, "label", pc.replace_substring_regex(labels, r"\s+", separator))
        elif pc.any(several).as_py():
            fault = Fault(Reason.UNKNOWN_LABEL, "it has several labels", "Set --task multi-label")
            chosen = several.to_numpy(zero_copy_only=False)
            rejected = zip(batch.places[chosen].tolist(), parts[1].filter(several).to_pylist(), strict=True)
            bad = [BadRow(text.path, place, fault, line[:EXCERPT_CHARACTERS]) for place, line in rejected]
            batch = replace(batch, places=batch.places[~chosen], bad=batch.bad + bad)
            rows = rows.filter(pc.invert(several))
        yield replace(batch, rows=rows)
