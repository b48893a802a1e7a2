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

from ..utils.errors import UserError
from .row_errors import Fault, Reason

logger = logging.getLogger(__name__)

MAX_CLASSES = 10_000  # more distinct labels than this are texts in the wrong column
_LISTED = 20  # labels that a message lists
_LISTED_CHARACTERS = 150  # of these, so that a message stays a line that people read
_HINTED = 100  # unknown labels whose nearest name is looked up, which takes time in proportion to the classes
_OFTEN, _ALIKE = 20, 0.8  # rows and likeness of a label of which another, with one row, may be a misspelling

# of no more digits than an id can have: Python refuses to read some thousand of them
_CANONICAL_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")
_ANY_INTEGER = re.compile(r"[+-]?[0-9]{1,99}")


def is_integer(label: str) -> bool:
    """Whether a label is an integer in its one plain form: `7` and `-1` are, `07`, `+7`, `-0` and `7.0` are not."""
    return _CANONICAL_INTEGER.fullmatch(label) is not None


def listed(labels: Iterable[str]) -> str:
    """Return labels for a message: quoted, and shortened where there are too many."""
    return shortened([f"{name!r:.80}" for name in labels])


def shortened(items: Sequence[str]) -> str:
    """Join the first items for a message and say how many more there are."""
    kept, size = 0, 0
    while kept < min(len(items), _LISTED) and (kept < 2 or size + len(items[kept]) <= _LISTED_CHARACTERS):
        size += len(items[kept]) + 2
        kept += 1
    return ", ".join(items[:kept]) + (f" and {len(items) - kept} more" if kept < len(items) else "")


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
        written: How the data writes each class, as pairs of label and name; empty where it carries the names.
    """

    names: tuple[str, ...]
    written: tuple[tuple[str, str], ...] = ()

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
    def given(
        cls, class_names: Sequence[str], counts: Mapping[str, int], label_map: Mapping[str, str] | None = None
    ) -> LabelMap:
        """Make the map from given class names and decide how the data refers to them.

        A label that equals a name means that class, unless `label_map` says otherwise. Without a `label_map`, where no
        label of the data equals a name and most rows carry integers, these index the names.

        Args:
            class_names: Names by id.
            counts: Rows by label in the data that decides.
            label_map: Labels of the data to class names. Integers index nothing then, also if it is empty.

        Raises:
            UserError: When the names cannot serve as such, or have nothing in common with the data.
        """
        names = tuple(class_names)
        if len(set(names)) < len(names) or len(names) < 2 or any(name.strip() != name or not name for name in names):
            raise UserError(
                f"class names are {listed(names)}: give two or more, all different, none empty or framed by spaces"
            )
        if unknown := [name for name in (label_map or {}).values() if name not in names]:
            raise UserError(f"label_map leads to {listed(unknown)}: the class names are {listed(names)}")
        chosen = cls(names)
        if label_map:
            by_name = {name: name for name in names if name not in label_map}
            chosen = cls(names, (*label_map.items(), *by_name.items()))
        if not counts or any(label in chosen._ids for label in counts):
            return chosen
        integers = sum(rows for label, rows in counts.items() if is_integer(label))
        if integers > sum(counts.values()) / 2 and label_map is None:
            chosen = cls(names, tuple((str(index), name) for index, name in enumerate(names)))
            logger.info("labels are integers, and mean %s", chosen.known)
            return chosen
        advice = ""
        if label_map is not None:
            pairs = " ".join(f"{label}=NAME" for label in sort_labels(counts)[: len(names)][:_LISTED])
            advice = f". Say which label is which class: --label_map {pairs:.150}"
        raise UserError(
            f"the labels of the data have nothing in common with the class names. "
            f"Data: {listed(sort_labels(counts))}. Class names: {listed(names)}{advice}"
        )

    @cached_property
    def integers(self) -> bool:
        """Whether the labels in the data are integers."""
        return all(map(is_integer, self._ids))

    def resolve(self, label: str) -> int | Fault:
        """Return the id of a label, or what is wrong with it."""
        found: int | Fault | None = self._ids.get(label)
        if found is None:
            found = self._faults.get(label)
        if found is None and self.integers and is_integer(label):
            found = Fault(Reason.LABEL_OUT_OF_RANGE, f"label {label:.80}, known are {self.known}")
        if found is None:
            seek = len(self._faults) < _HINTED
            nearest = self.nearest(label) if seek else None
            hint = f"; the nearest is {nearest!r:.80}" if nearest else ""
            found = Fault(Reason.UNKNOWN_LABEL, f"label {label!r:.80}, known are {self.known}{hint}")
            if seek:
                self._faults[label] = found
        return found

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids = {name: index for index, name in enumerate(self.names)}
        return {label: ids[name] for label, name in self.written} or ids

    @cached_property
    def _faults(self) -> dict[str, Fault]:
        return {}

    @cached_property
    def known(self) -> str:
        """The labels that the data may carry, for a message."""
        if self.written:
            return shortened([f"{label} = {name}" if label != name else name for label, name in self.written])
        return listed(self.names)

    def nearest(self, label: str) -> str | None:
        """Return the known label most like this one, None when none is near."""
        folded = {name.strip().casefold(): name for name in reversed(self._ids)}
        near = difflib.get_close_matches(label.strip().casefold(), folded, n=1)
        return folded[near[0]] if near else None
