"""One label map for every split: from label strings as they stand in the data to ids, or to a fault that says why not.

The map comes from the train split (integers by value, names by alphabet) or is given as class names. Labels are
compared exactly; nothing is stripped, folded or guessed. A near miss is named in the message instead.
"""

from __future__ import annotations

import difflib
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import UserError
from .faults import Fault, Reason

logger = logging.getLogger(__name__)

MAX_CLASSES = 10_000  # more distinct labels than this are texts in the wrong column
_LISTED = 20  # labels that a message lists
_OFTEN, _ALIKE = 20, 0.8  # rows and likeness of a label of which another, with one row, may be a misspelling

# of no more digits than an id can have: Python refuses to read some thousand of them
_CANONICAL_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")
_ANY_INTEGER = re.compile(r"[+-]?[0-9]{1,99}")


def is_integer(label: str) -> bool:
    """Whether a label is an integer in its one plain form: `7` and `-1` are, `07`, `+7`, `-0` and `7.0` are not."""
    return _CANONICAL_INTEGER.fullmatch(label) is not None


def listed(labels: Iterable[str]) -> str:
    """Return labels for a message: quoted, and cut where there are too many."""
    names = list(labels)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"{name!r:.80}" for name in names[:_LISTED]) + more


def _folded(label: str) -> str:
    """What is the same of two labels that a reader can hardly tell apart."""
    return " ".join(unicodedata.normalize("NFC", label).casefold().split())


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Sort labels: by value if all are integers, else by alphabet (code points)."""
    labels = list(labels)
    return sorted(labels, key=int) if all(map(is_integer, labels)) else sorted(labels)


@dataclass(frozen=True)
class LabelMap:
    """Label strings to ids.

    Attributes:
        names: Class names by id.
        by_index: The data carries integers that index `names`, instead of the names themselves.
    """

    names: tuple[str, ...]
    by_index: bool = False

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> LabelMap:
        """Make the map from the labels that the train split holds.

        Args:
            counts: Rows by label.

        Raises:
            UserError: When there is one label only, two labels are the same number (`1` and `01`), or there are so
                many that the column must be the wrong one.
        """
        rows = sum(counts.values())
        if len(counts) > 50 and len(counts) > rows / 2:
            raise UserError(
                f"the label column holds {len(counts)} different labels in {rows} rows, such as "
                f"{listed(sorted(counts, key=len)[:3])}. "
                "Are the columns swapped? Set --text_column and --label_column"
            )
        if len(counts) < 2:
            raise UserError(
                f"train holds one label only, {listed(counts)}: a classifier needs two. "
                "Is --label_column right? If a class has no rows yet, give all names with --class_names"
            )
        by_value: dict[int, str] = {}
        alike: dict[str, str] = {}
        for label in sorted(counts):
            if _ANY_INTEGER.fullmatch(label) and (other := by_value.setdefault(int(label), label)) != label:
                raise UserError(f"labels {other!r} and {label!r} are the same number: write it one way in all rows")
            if (other := alike.setdefault(_folded(label), label)) != label:
                cased = other.casefold() == label.casefold()
                shown = [f"{name!r:.80}" if cased else f"{name!a:.80}" for name in (other, label)]
                what = "case" if cased else "case, spaces or Unicode form"
                logger.warning("labels %s and %s differ in %s only and are taken as two classes", *shown, what)
        often = [label for label, rows in counts.items() if rows >= _OFTEN]
        once = [label for label, rows in counts.items() if rows == 1 and label.isalpha()]
        for label in sorted(once)[:_LISTED]:
            for near in difflib.get_close_matches(label, often, n=1, cutoff=_ALIKE):
                logger.warning("label %r has one row, and is taken as a class of its own beside %r", label, near)
        if 0 < sum(map(is_integer, counts)) < len(counts):
            logger.warning("labels mix integers and names, and are taken as names: %s", listed(sorted(counts)))
        return cls(tuple(sort_labels(counts)))

    @classmethod
    def given(cls, class_names: Sequence[str], counts: Mapping[str, int]) -> LabelMap:
        """Make the map from given class names and decide how the data refers to them.

        A label that equals a name means that class. Where no label of the data does and most rows carry integers,
        these index the names.

        Args:
            class_names: Names by id.
            counts: Rows by label in the data that decides.

        Raises:
            UserError: When the names cannot serve as such, or have nothing in common with the data.
        """
        names = tuple(class_names)
        if len(set(names)) < len(names) or len(names) < 2 or any(name.strip() != name or not name for name in names):
            raise UserError(
                f"class names are {listed(names)}: give two or more, all different, none empty or framed by spaces"
            )
        if any(name in counts for name in names) or not counts:
            return cls(names)
        integers = sum(rows for label, rows in counts.items() if is_integer(label))
        if integers > sum(counts.values()) / 2:
            chosen = cls(names, by_index=True)
            logger.info("labels are integers, and mean %s", chosen.known())
            return chosen
        raise UserError(
            f"the labels of the data have nothing in common with the class names. "
            f"Data: {listed(sort_labels(counts))}. Class names: {listed(names)}"
        )

    @cached_property
    def integers(self) -> bool:
        """Whether the labels in the data are integers."""
        return self.by_index or all(map(is_integer, self.names))

    def resolve(self, label: str) -> int | Fault:
        """Return the id of a label, or what is wrong with it."""
        if self.by_index:
            if is_integer(label) and 0 <= int(label) < len(self.names):
                return int(label)
        elif label in self._ids:
            return self._ids[label]
        if self.integers and is_integer(label):
            return Fault(Reason.LABEL_OUT_OF_RANGE, f"label {label}, known are {self.known()}")
        nearest = self.nearest(label)
        hint = f"; the nearest is {nearest!r}" if nearest else ""
        return Fault(Reason.UNKNOWN_LABEL, f"label {label!r:.80}, known are {self.known()}{hint}")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def known(self) -> str:
        """Return the labels that the data may carry, for a message."""
        if self.by_index:
            return ", ".join(f"{index} = {name}" for index, name in enumerate(self.names[:_LISTED]))
        return listed(self.names)

    def nearest(self, label: str) -> str | None:
        """Return the known label most like this one, None when none is near."""
        known = [str(index) for index in range(len(self.names))] if self.by_index else list(self.names)
        folded = {name.strip().casefold(): name for name in reversed(known)}
        near = difflib.get_close_matches(label.strip().casefold(), folded, n=1)
        return folded[near[0]] if near else None
