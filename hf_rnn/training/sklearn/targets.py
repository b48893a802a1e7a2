"""Convert the texts and labels of scikit-learn's `X` and `y` to a data set, and class names back to labels.

`y` holds classes, sets of labels (a matrix of 0 and 1), or numbers: a class of [`Targets`] each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import check_classification_targets

from ...utils.errors import UserError
from ...utils.text_checks import check_texts, out_of_arrow

if TYPE_CHECKING:
    import datasets


LABEL_TYPE = "label_type"  # key of a configuration's `task_specific_params`


def read_texts(X: Any, where: str = "X") -> list[str]:  # noqa: N803 - scikit-learn's name
    """Return texts of a list, a column, an array `(n,)` or `(n, 1)`, or a frame of one column; any may be empty."""
    texts = _items(X, where)
    check_texts(texts, where)
    return [str.__str__(text) for text in texts]  # without numpy.str_


def read_labels(y: Any, where: str = "y") -> np.ndarray:
    """Return labels as an array `(n,)` of strings, integers, booleans or whole floats."""
    values = _items(y, where)
    for position, value in enumerate(values):
        if isinstance(value, str) != isinstance(values[0], str):
            raise UserError(
                f"{where} must have labels of one type: found {values[0]!r:.80} and {value!r:.80} at {position}"
            )
    dtype = getattr(y, "dtype", None)
    labels = np.asarray(values, dtype=dtype if isinstance(dtype, np.dtype) and dtype.kind in "biuf" else None)
    if labels.dtype.kind not in "biufU":
        raise UserError(f"{where} must be strings, integers or booleans, found {values[:3]!r:.80}")
    check_classification_targets(labels)
    return labels


def restore_labels(names: Sequence[str], record: Mapping[str, Any] | None) -> np.ndarray:
    """Return the labels of these names, `str(label)`; `record` is from [`describe_labels`], None for strings."""
    dtype = np.dtype(record["dtype"] if record else "str")
    if dtype.kind == "b":
        return np.array([name == "True" for name in names])
    return np.array(names).astype(dtype)


def describe_labels(labels: np.ndarray) -> dict[str, str]:
    """Return the type of labels, for the model's configuration."""
    return {"dtype": "str" if labels.dtype.kind == "U" else labels.dtype.name}


class Targets:
    """The content of `y`, for the data set of a training."""

    task: str
    values: np.ndarray  # one item per row
    record: dict[str, Any] | None = None  # for `task_specific_params` of the configuration
    columns: Mapping[str, Any] = {}  # settings of the data that name the columns of the data set

    def read(self, y: Any, where: str) -> np.ndarray:
        """Return the values of further rows; `where` names them in messages."""
        raise NotImplementedError

    def strata(self) -> np.ndarray:
        """Return the group of each row that a held-out part keeps in proportion."""
        return np.zeros(len(self.values), dtype=np.int64)

    def make_columns(self, values: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return columns of labels and their features."""
        raise NotImplementedError

    def as_dataset(self, texts: Sequence[str], values: np.ndarray, where: str = "") -> datasets.Dataset:
        """Return a split with texts and labels; `where` precedes `X` and `y` in messages."""
        import datasets

        from ...data.row_errors import text_fault

        if len(texts) != len(values):
            raise UserError(f"{where}X and {where}y differ in length: {len(texts)} and {len(values)}")
        labels, features = self.make_columns(values)
        for position, text in enumerate(texts):
            if fault := text_fault(text):
                raise UserError(f"{where}X[{position}]: {fault.detail}; leave out the text and its label")
        kinds = datasets.Features(text=datasets.Value("string"), **features)
        return datasets.Dataset.from_dict({"text": list(texts), **labels}, features=kinds)


class Classes(Targets):
    """One class per row, of two or more."""

    task = "sequence-classification"

    def __init__(self, y: Any) -> None:
        self.values = read_labels(y)
        self.classes, self._ids = np.unique(self.values, return_inverse=True)
        if len(self.classes) < 2:
            raise UserError(f"y must contain two classes or more, found {self.classes.tolist()}")
        self.record = {LABEL_TYPE: describe_labels(self.classes)}

    def read(self, y: Any, where: str) -> np.ndarray:
        """Return labels; [`make_columns`] refuses unknown ones."""
        return read_labels(y, where)

    def strata(self) -> np.ndarray:
        """Return the class ids."""
        return self._ids

    def make_columns(self, values: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a column of class ids."""
        import datasets

        if values.dtype.kind != self.classes.dtype.kind or (unknown := ~np.isin(values, self.classes)).any():
            found = values[0] if values.dtype.kind != self.classes.dtype.kind else values[unknown][0]
            raise UserError(f"eval_set y contains {found!r}, which y lacks")
        names = [str(label) for label in self.classes.tolist()]
        return {"label": np.searchsorted(self.classes, values)}, {"label": datasets.ClassLabel(names=names)}


class Sets(Targets):
    """A matrix of 0 and 1 `(n, labels)`, dense or sparse; the columns of a frame name the labels."""

    task = "multi-label"
    columns = {"label_separator": "\x1f"}

    def __init__(self, y: Any) -> None:
        self._names = _column_names(y)
        self.values = self.read(y, "y")
        labels = np.array(self._names or range(self.values.shape[1]))
        self.record = {LABEL_TYPE: describe_labels(labels)}
        self._names = [str(label) for label in labels.tolist()]

    def read(self, y: Any, where: str) -> np.ndarray:
        """Return a matrix of bools."""
        matrix = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        size = len(self._names or range(matrix.shape[-1]))
        if matrix.ndim != 2 or matrix.shape[1] != size or not np.isin(matrix, (0, 1)).all():
            raise UserError(f"{where} must have a class per text, or 0 and 1 in {size} columns: found {matrix!r:.80}")
        return matrix.astype(bool)

    def make_columns(self, values: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a column of lists of ids."""
        import datasets

        feature = datasets.List(datasets.ClassLabel(names=list(self._names or ())))
        return {"label": [np.flatnonzero(row).tolist() for row in values]}, {"label": feature}


class Numbers(Targets):
    """Numbers `(n,)` or `(n, numbers)`; the columns of a frame name them."""

    task = "regression"

    def __init__(self, y: Any) -> None:
        names = _column_names(y)
        self.values = self.read(y, "y")
        count = self.values.shape[1]
        self._names = names or (["value"] if count == 1 else [f"value_{number}" for number in range(count)])
        self.columns = {"label_columns": self._names}

    def read(self, y: Any, where: str) -> np.ndarray:
        """Return an array `(n, numbers)` of float64."""
        try:
            numbers = np.asarray(y, dtype=np.float64)
        except (TypeError, ValueError):
            raise UserError(f"{where} must be numbers: found {y!r:.80}") from None
        numbers = numbers[:, None] if numbers.ndim == 1 else numbers
        known = getattr(self, "_names", None)
        if numbers.ndim != 2 or not numbers.size or (known is not None and numbers.shape[1] != len(known)):
            raise UserError(f"{where} must have a number, or a row of as many numbers, per text: found {y!r:.80}")
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0])
            raise UserError(f"{where}[{row}] is not finite: found {numbers[row].tolist()}")
        return numbers

    def make_columns(self, values: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a column per number."""
        import datasets

        columns = dict(zip(self._names, values.T, strict=True))
        return columns, dict.fromkeys(self._names, datasets.Value("float64"))


def is_matrix(y: Any) -> bool:
    """Return whether `y` has a row of several values per text."""
    shape = getattr(y, "shape", None)
    if shape is None and isinstance(y, Sequence) and len(y) and isinstance(y[0], Sequence | np.ndarray):
        return not isinstance(y[0], str | bytes)
    return shape is not None and len(shape) == 2 and shape[1] != 1


def _column_names(y: Any) -> list[str] | None:
    """Return the names of the columns of a frame."""
    names = getattr(y, "columns", None)
    return None if names is None or getattr(y, "ndim", 2) != 2 else [str(name) for name in names]


def _items(values: npt.ArrayLike, where: str) -> list[Any]:
    """Return the items of a list, a column, or an array or a frame of one column, as Python's types."""
    if isinstance(values, str | bytes | Mapping | Set):
        raise UserError(f"{where} must be a list or an array: found {values!r:.80}")
    shape: Any = getattr(values, "shape", (1,))
    if len(shape) == 2 and shape[1] == 1:
        values = np.asarray(values)[:, 0]
    elif len(shape) != 1:
        raise UserError(f"{where} must have one column, found {type(values).__name__} of shape {shape}")
    return values.tolist() if hasattr(values, "tolist") else list(out_of_arrow(values))
