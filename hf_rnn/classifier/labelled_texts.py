"""Texts and labels as people have them in memory, checked by position, and the way from labels to names and back.

No files, no torch, no training. What is refused is named by its place in what was given; nothing is dropped, stripped
or taken for something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..valid_texts import check_texts, out_of_arrow

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class LabelType:
    """What labels were before they became the names of a configuration.

    Attributes:
        kind: `"str"`, `"int"` or `"bool"`.
        dtype: That of their array: numpy's name of it, `"str"` for its strings of any width.
    """

    kind: str
    dtype: str

    @classmethod
    def of_values(cls, values: npt.ArrayLike, where: str = "labels") -> LabelType:
        """Look at labels.

        Raises:
            UserError: For a label of no known type, or of another type than the first; named by its position.
        """
        items = _items(values, where)
        kinds = [kind_of(item) for item in items]
        for position, (kind, item) in enumerate(zip(kinds, items, strict=True)):
            if kind is None:
                raise UserError(f"{where}[{position}] is {item!r:.80}: labels must be str, int or bool")
            if kind != kinds[0]:
                raise UserError(
                    f"{where}[{position}] is {item!r:.80}, a label of type {kind}, and {where}[0] {items[0]!r:.80}, "
                    f"one of type {kinds[0]}: give labels of one type"
                )
        kind, dtype = kinds[0] or "str", np.asarray(values if hasattr(values, "dtype") else items).dtype
        if kind == "str":
            return cls(kind, "object" if dtype.kind == "O" else "str")
        if dtype.kind == "O":
            dtype = np.asarray(items).dtype
        if dtype.kind not in "iub":
            raise UserError(f"{where} do not fit into 64 bits: give smaller integers, or str")
        return cls(kind, dtype.name)

    @classmethod
    def from_record(cls, record: Any) -> LabelType:
        """Make it again from what `dataclasses.asdict` made of one; labels of which there is no record are `str`.

        Raises:
            UserError: For what is no such record.
        """
        if record is None:
            return cls("str", "str")
        known = {"str": ("str", "object"), "bool": ("bool",)}
        known["int"] = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
        try:
            found = cls(record["kind"], record["dtype"])
            usable = found.dtype in known[found.kind]
        except (KeyError, TypeError):
            usable = False
        if not usable:
            raise UserError(f"the configuration has a label type that is not known: {record!r:.80}")
        return found

    def restore(self, names: Sequence[str]) -> np.ndarray:
        """Turn names into labels again.

        Raises:
            UserError: For a name that none of these labels has.
        """
        truth = {"False": False, "True": True}
        convert: Mapping[str, Callable[[str], Any]] = {"str": str, "int": int, "bool": truth.__getitem__}
        try:
            return np.array([convert[self.kind](name) for name in names], dtype=self.dtype)
        except (KeyError, ValueError, OverflowError) as error:
            raise UserError(f"the labels {', '.join(names)} are not of type {self.dtype}") from error


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and labels that can be used, and what to call them in messages."""

    texts: list[str]
    labels: list[Any]
    type: LabelType
    where: str = ""

    @classmethod
    def read(cls, texts: Any, labels: Any, where: str = "") -> LabelledTexts:
        """Take texts and labels as they were given.

        Args:
            texts: A list, an array or a column of a table.
            labels: Likewise.
            where: What stands before `texts` and `labels` in messages.

        Raises:
            UserError: For lengths that differ, no rows at all, and what is no text or label, named by its position.
        """
        read, values = read_texts(texts, f"{where}texts"), _items(labels, f"{where}labels")
        if len(read) != len(values):
            raise UserError(f"{where}texts and {where}labels differ in length: {len(read)} and {len(values)}")
        if not read:
            raise UserError(f"{where}texts are empty: give at least one text for each class")
        kind = LabelType.of_values(labels if hasattr(labels, "dtype") else values, f"{where}labels")
        plain = [str.__str__(value) for value in values] if kind.kind == "str" else values  # of an Enum its value
        return cls(read, plain, kind, where)

    def classes(self) -> list[Any]:
        """The distinct labels, sorted: the order of the ids."""
        classes = sorted(set(self.labels))
        if len(classes) < 2:
            raise UserError(f"labels hold one class only, {classes[0]!r}: a classifier needs two")
        return classes

    def check_enough(self) -> None:
        """Refuse rows of which none can be held out."""
        if len(set(self.labels)) == len(self.labels):
            raise UserError(
                f"{len(self.labels)} texts, no two of one class, are too few to hold validation rows out of: "
                "give more, or eval_set=(texts, labels)"
            )

    def check_known(self, trained: LabelledTexts, classes: Sequence[Any]) -> None:
        """Refuse labels of an evaluation that are not those of the training."""
        if self.type.kind != trained.type.kind:
            raise UserError(f"{self.where}labels are {self.type.kind}, labels {trained.type.kind}: give one type")
        known = set(classes)
        for position, label in enumerate(self.labels):
            if label not in known:
                listed = ", ".join(map(repr, classes[:20])) + (", ..." if len(classes) > 20 else "")
                raise UserError(f"{self.where}labels[{position}] is {label!r}, which labels lack; there are {listed}")

    def as_dataset(self, classes: Sequence[Any]) -> datasets.Dataset:
        """Return a table as a loaded split is one: texts and class ids.

        Raises:
            UserError: For a text or a label that the command would not take from a file either, named by its position.
        """
        import datasets

        from ..data.faults import label_fault, text_fault

        names = [str(label) for label in classes]
        for position, text in enumerate(self.texts):
            if fault := text_fault(text):
                raise UserError(f"{self.where}texts[{position}]: {fault.detail}. Leave out the text and its label")
        for name, label in zip(names, classes, strict=True):
            if name != name.encode(errors="replace").decode():
                place = f"{self.where}labels[{self.labels.index(label)}]"
                raise UserError(f"{place} is not valid Unicode: a lone surrogate in {name!r:.80}")
            if fault := label_fault(name):
                raise UserError(f"{self.where}labels[{self.labels.index(label)}]: {fault.detail}")
        ids = {label: number for number, label in enumerate(classes)}
        features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
        rows = {"text": self.texts, "label": [ids[label] for label in self.labels]}
        return datasets.Dataset.from_dict(rows, features=features)


def kind_of(value: Any) -> str | None:
    """The type of a label, None for what can be none."""
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer):
        return "int"
    return "str" if isinstance(value, str) else None


def _items(values: Any, where: str) -> list[Any]:
    """The items of a list, an array or a column, as Python's own types."""
    if isinstance(values, str | bytes):
        raise UserError(f"{where} must be a list or an array, found {values!r:.80}: put it into a list")
    if isinstance(values, Mapping | Set):
        raise UserError(f"{where} must be a list or an array, found a {type(values).__name__}: give a list of them")
    if getattr(values, "ndim", 1) != 1:
        shape = getattr(values, "shape", None)
        raise UserError(f"{where} must have one dimension, found {type(values).__name__} of shape {shape}")
    try:
        return values.tolist() if hasattr(values, "tolist") else list(out_of_arrow(values))
    except TypeError:
        raise UserError(f"{where} must be a list or an array, found {type(values).__name__}") from None


def read_texts(texts: Any, where: str) -> list[str]:
    """Return texts as a list; empty ones are allowed.

    Raises:
        UserError: For what is no valid text, named by its position.
    """
    read = _items(texts, where)
    check_texts(read, where)
    return [str.__str__(text) for text in read]  # no numpy.str_
