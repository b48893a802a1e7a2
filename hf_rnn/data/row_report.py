"""The account of one load: rows read = rows kept + rows rejected, by split, and the limit on how many are rejected."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ..utils.errors import UserError
from .row_errors import BadRow, DataError

logger = logging.getLogger(__name__)

LOGGED_ROWS = 20  # rejections that are logged one by one when there is no file to write them to


@dataclass
class SplitReport:
    """Counts of one split as it was read, before any hold-out: `rows_read == rows_kept + sum(rejected.values())`."""

    files: list[str] = field(default_factory=list)
    rows_read: int = 0
    rows_kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> rows
    label_counts: list[int] = field(default_factory=list)  # kept rows by label id


@dataclass
class DataReport:
    """What one load did. Hand an empty one to a loader; it is filled in, and `str(report)` is fit to print.

    Attributes:
        splits: Counts by split, for the splits that were read.
        class_names: Label names by id.
        held_out: Rows of train that became the validation split, 0 when there was one.
        label_counts: Rows by label id of each split that is delivered, after any hold-out.
        rejected_path: The file that lists the rejected rows, None when there were none or no path was given.
        fingerprint: Changes with the rows that are delivered, their labels and their split; not with the path.
    """

    splits: dict[str, SplitReport] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    held_out: int = 0
    label_counts: dict[str, list[int]] = field(default_factory=dict)
    rejected_path: str | None = None
    fingerprint: str = ""

    @property
    def rows_read(self) -> int:
        """Rows read in all splits."""
        return sum(split.rows_read for split in self.splits.values())

    @property
    def rows_rejected(self) -> int:
        """Rows rejected in all splits."""
        return sum(sum(split.rejected.values()) for split in self.splits.values())

    def __str__(self) -> str:
        lines = []
        for name, split in self.splits.items():
            line = f"{name}: {split.rows_read} rows read, {split.rows_kept} kept"
            if split.rejected:
                reasons = ", ".join(f"{count} {reason}" for reason, count in split.rejected.most_common())
                line += f", {sum(split.rejected.values())} rejected ({reasons})"
            lines.append(line)
        if self.held_out:
            lines.append(f"validation: {self.held_out} rows held out of train, stratified by label")
        if self.rejected_path:
            lines.append(f"rejected rows are listed in {self.rejected_path}")
        return "\n".join(lines)


def parse_limit(max_bad_rows: int | float | str) -> tuple[int | None, float | None]:
    """Read a limit on bad rows.

    Args:
        max_bad_rows: A count (5, "5") or a share of the rows read ("0.1%", 0.001, "0.001").

    Returns:
        (count, None) or (None, share).

    Raises:
        UserError: For anything else.
    """
    number = str(max_bad_rows).strip()
    if number.isdecimal():
        return int(number), None
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if 0 <= share < 1:
        return None, share
    raise UserError(f"max_bad_rows is {max_bad_rows!r}: give a count such as 5, or a share of the rows such as 0.1%")


class Ledger:
    """Takes the rejected rows of one load, writes them down, and stops the load past the limit.

    Use it as a context manager: leaving it without an error checks a limit that is a share, which can be judged only
    when all rows are read, and that no row went unaccounted for.

    Args:
        max_bad_rows: See [`parse_limit`].
        rejected_path: Where the rejected rows are listed, one JSON object a line. The file appears with the first of
            them, in place of an older one; a load that rejects none removes the older one at its end.
        report: Is filled in.
    """

    def __init__(self, max_bad_rows: int | float | str, rejected_path: str | Path | None, report: DataReport) -> None:
        self.limit, self.share = parse_limit(max_bad_rows)
        self.max_bad_rows = max_bad_rows
        self.report = report
        vars(report).update(vars(DataReport()))  # whatever an earlier load left in it
        self._path = Path(rejected_path) if rejected_path is not None else None
        if self._path is not None and self._path.is_dir():
            raise UserError(f"rejected_path {rejected_path} is a folder: give a file")
        if self._path is not None and self._path.is_fifo():  # to open one waits for whoever has the other end
            raise UserError(f"rejected_path {rejected_path} is a named pipe: remove it, or give a file")
        self._stream: TextIO | None = None
        self._first: BadRow | None = None

    def reject(self, split: str, row: BadRow) -> None:
        """Count and write down a bad row of a split.

        Raises:
            DataError: When the row is one more than the limit.
        """
        self._first = self._first or row
        if self.limit == 0:
            raise DataError.of_row(row, "To go on without such rows: --max_bad_rows N")
        self.report.splits[split].rejected[row.fault.reason.value] += 1
        self._write(row)
        if self.limit is not None and self.report.rows_rejected > self.limit:
            raise DataError.of_row(row, f"This is one bad row more than --max_bad_rows {self.max_bad_rows} allows")

    def _write(self, row: BadRow) -> None:
        if self._path is not None:
            if self._stream is None:
                self._stream = self._open(self._path)
                self.report.rejected_path = str(self._path)
            try:
                self._stream.write(row.as_json() + "\n")
                self._stream.flush()  # here, where it is known what could not be written
            except OSError as error:
                raise _no_list(self._path, error) from error
        elif self.report.rows_rejected <= LOGGED_ROWS:
            logger.warning("rejected %s", row.describe())

    def _open(self, path: Path) -> TextIO:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            raise _no_list(path, error) from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # all is written, or it was told what could not be
                self._stream.close()
        if error is None:
            self._close()

    def _close(self) -> None:
        read, rejected = self.report.rows_read, self.report.rows_rejected
        for name, split in self.report.splits.items():
            if split.rows_read != split.rows_kept + sum(split.rejected.values()):
                raise RuntimeError(f"rows went missing in {name}: {split}")  # a bug of ours, never the user's
        if self.share is not None and self._first is not None and rejected > self.share * read:
            found = f"{rejected} of {read} rows are bad, more than --max_bad_rows {self.max_bad_rows} allows"
            raise DataError.of_row(self._first, f"This is the first; {found}")
        if self._path is not None and not rejected and _is_list(self._path):
            self._path.unlink()
        if rejected:
            where = f"; they are listed in {self.report.rejected_path}" if self.report.rejected_path else ""
            logger.warning("%d of %d rows rejected%s", rejected, read, where)


def _no_list(path: Path, error: OSError) -> UserError:
    return UserError(f"bad rows cannot be listed in {path}: {error.strerror or error}")


def _is_list(path: Path) -> bool:
    """Whether a file is what an earlier load left, and not one of the user's own that has its name."""
    try:
        with path.open("rb") as stream:
            first = json.loads(stream.readline(1 << 16))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and {"file", "line", "reason"} <= first.keys()
