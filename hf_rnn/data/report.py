"""The count of all rows of a load: kept, rejected with their reasons, and held out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import SettingError
from .errors import BadRow, row_error

if TYPE_CHECKING:
    import numpy as np

    from .table import Table

logger = logging.getLogger(__name__)

_LOGGED_ROWS = 20  # rejected rows that are logged one by one when no file lists them


@dataclass
class SplitReport:
    """Counts of one split before any hold-out: rows read are rows kept and rejected."""

    files: list[str] = field(default_factory=list)
    rows_read: int = 0
    rows_kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> rows
    trimmed: int = 0  # labels that lost white space at their ends


@dataclass
class DataReport:
    """The record of one load; pass an empty one to a loader, which fills it in."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    # names of those read as `text`, `text_pair` and `label`
    columns: dict[str, str] = field(default_factory=dict)
    # `rows` of train that became validation, with `share` and `seed`
    held_out: dict[str, Any] | None = None
    # by split and label id, after any hold-out
    label_counts: dict[str, list[int]] = field(default_factory=dict)
    # place of each row of a returned split, in its file or among the rows in memory
    places: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    # each returned split from a single file: the file, and the place of each row
    tables: dict[str, tuple[Table, np.ndarray]] = field(
        default_factory=dict, compare=False, repr=False
    )
    rejected_path: str | None = None  # the file that lists the rejected rows, if there are any

    @property
    def lines(self) -> dict[str, tuple[str, np.ndarray]]:
        """The file and the lines of the rows, from 1, of each split that is one text file."""
        return {
            split: (table.path, places)
            for split, (table, places) in self.tables.items()
            if table.unit == "line"
        }

    @property
    def rows_read(self) -> int:
        """Rows read in all splits."""
        return sum(split.rows_read for split in self.splits.values())

    @property
    def rows_rejected(self) -> int:
        """Rows rejected in all splits."""
        return sum(split.rejected.total() for split in self.splits.values())


class Ledger:
    """Count all rejected rows of one load; at its end refuse too many, or list them.

    `max_bad_rows` is a count, as 5 or "5", or a share of all rows, as 0.001 or "0.1%".
    """

    def __init__(
        self, max_bad_rows: int | float | str, rejected_path: str | Path | None, report: DataReport
    ) -> None:
        self.max_bad_rows = str(max_bad_rows).strip()
        self.count = int(self.max_bad_rows) if self.max_bad_rows.isdecimal() else None
        self.share = _read_share(self.max_bad_rows)
        if self.count is None and not 0 <= self.share < 1:
            advice = "give a count such as 5, or a share of the rows such as 0.1%"
            raise SettingError(f"max_bad_rows is {self.max_bad_rows}: {advice}")
        self.path = None if rejected_path is None else Path(rejected_path)
        # after the numbers of its split, its file and its line
        self.rows: list[tuple[int, int, int, BadRow]] = []
        self.report = report
        vars(report).update(vars(DataReport()))  # forget an earlier load

    def reject(self, split: str, row: BadRow) -> None:
        """Count a rejected row of a split, and keep it if it is one of the first."""
        counts = self.report.splits[split]
        counts.rejected[row.fault.reason.value] += 1
        number = list(self.report.splits).index(split)
        self.rows.append((number, counts.files.index(row.path), row.line, row))
        if self.count is not None and len(self.rows) > 2 * self.count + 1000:
            del self.sort()[self.count + 1 :]

    def sort(self) -> list[tuple[int, int, int, BadRow]]:
        """Sort the rejected rows by their place."""
        self.rows.sort(key=lambda entry: entry[:3])
        return self.rows

    def check(self) -> None:
        """Raise a [`DataError`] with the first rejected row if there are more than the limit."""
        rows = self.report.rows_read
        bad = self.report.rows_rejected
        if bad <= (self.share * rows if self.count is None else self.count):
            return
        advice = f"This is the only rejected row among {rows}"
        if bad > 1:
            advice = f"This is the first of {bad} rejected rows among {rows}"
        if self.count != 0:
            advice += f", and --max_bad_rows {self.max_bad_rows} allows fewer"
        them = "it" if bad == 1 else "them"
        raise row_error(self.sort()[0][-1], f"{advice}. To skip {them}: --max_bad_rows {bad}")

    def close(self) -> None:
        """Check the counts and the limit, and list the rejected rows, in a file or in the log."""
        for name, split in self.report.splits.items():
            if split.rows_read != split.rows_kept + split.rejected.total():
                raise RuntimeError(f"rows went missing in {name}: {split}")  # a bug of this package
            if split.trimmed:
                message = "%s: white space at the ends of %d labels was removed"
                logger.warning(message, name, split.trimmed)
        self.check()
        rows = [row for *_, row in self.sort()]
        where = ""
        if self.path is None:
            for row in rows[:_LOGGED_ROWS]:
                logger.warning("rejected %s", row.describe())
        elif rows:
            self._write(self.path, rows)
            where = f"; they are listed in {self.path}"
        else:
            self.path.unlink(missing_ok=True)
        if rows:
            counts = (self.report.rows_rejected, self.report.rows_read)
            logger.warning("%d of %d rows rejected%s", *counts, where)

    def _write(self, path: Path, rows: Sequence[BadRow]) -> None:
        """List rows in a file, as JSON lines."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(row.as_json() + "\n" for row in rows)
        # names of files may hold bytes that are not UTF-8
        path.write_text(lines, encoding="utf-8", errors="backslashreplace", newline="\n")
        self.report.rejected_path = str(path)


def _read_share(limit: str) -> float:
    """Return the share that a text names, such as 0.001 or 0.1%; -1 for something else."""
    try:
        share = float(limit.removesuffix("%"))
    except ValueError:
        return -1.0
    return share / 100 if limit.endswith("%") else share
