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


def restore_labels(names: Sequence[str], record: Mapping[str, Any] | None) -> np.ndarray:
    """Return the labels of these names, `str(label)`; `record` has their type, None for strings."""
    dtype = np.dtype(record["dtype"] if record else "str")
    if dtype.kind == "b":
        return np.array([name == "True" for name in names])
    return np.array(names).astype(dtype)


def _describe(labels: np.ndarray) -> dict[str, Any]:
    """Return the type of labels, for the model's configuration."""
    return {LABEL_TYPE: {"dtype": "str" if labels.dtype.kind == "U" else labels.dtype.name}}


class Targets:
    """The content of `y`, for the data set of a training."""

    task: str
    strata: np.ndarray | None = None  # the group of each row that a held-out part keeps in proportion
    record: dict[str, Any] | None = None  # for `task_specific_params` of the configuration
    columns: Mapping[str, Any] = {}  # settings of the data that name the columns of the data set

    def read(self, y: Any, where: str) -> dict[str, tuple[Any, Any]]:
        """Return the columns of labels, each with its feature; `where` names `y` in messages."""
        raise NotImplementedError

    def as_dataset(self, texts: Sequence[str], y: Any, where: str = "") -> datasets.Dataset:
        """Return a split with texts and labels; `where` precedes `X` and `y` in messages."""
        import datasets

        from ...data.row_errors import text_fault

        columns = self.read(y, f"{where}y")
        if len(texts) != (count := len(next(iter(columns.values()))[0])):
            raise UserError(f"{where}X and {where}y differ in length: {len(texts)} and {count}")
        for position, text in enumerate(texts):
            if fault := text_fault(text):
                raise UserError(f"{where}X[{position}]: {fault.detail}; leave out the text and its label")
        columns = {"text": (list(texts), datasets.Value("string")), **columns}
        features = datasets.Features({name: feature for name, (_, feature) in columns.items()})
        return datasets.Dataset.from_dict({name: values for name, (values, _) in columns.items()}, features=features)


class Classes(Targets):
    """One class per row, of two or more."""

    task = "sequence-classification"

    def __init__(self, y: Any) -> None:
        self.classes, self.strata = np.unique(_read_labels(y, "y"), return_inverse=True)
        if len(self.classes) < 2:
            raise UserError(f"y must contain two classes or more, found {self.classes.tolist()}")
        self.record = _describe(self.classes)

    def read(self, y: Any, where: str) -> dict[str, tuple[Any, Any]]:
        """Return class ids; refuse labels that `y` of the training lacks."""
        import datasets

        labels = _read_labels(y, where)
        same_kind = labels.dtype.kind == self.classes.dtype.kind
        unknown = labels[~np.isin(labels, self.classes)] if same_kind else labels
        if len(unknown):
            raise UserError(f"{where} contains {unknown[0]!r}, which y lacks")
        names = [str(label) for label in self.classes.tolist()]
        return {"label": (np.searchsorted(self.classes, labels), datasets.ClassLabel(names=names))}


class Sets(Targets):
    """A matrix of 0 and 1 `(n, labels)`, dense or sparse; the columns of a frame name the labels."""

    task = "multi-label"
    columns = {"label_separator": "\x1f"}

    def __init__(self, y: Any) -> None:
        labels = np.array(_column_names(y) or range(_as_dense(y).shape[1]))
        self.record, self._names = _describe(labels), [str(label) for label in labels.tolist()]

    def read(self, y: Any, where: str) -> dict[str, tuple[Any, Any]]:
        """Return lists of ids."""
        import datasets

        matrix, size = _as_dense(y), len(self._names)
        if matrix.ndim != 2 or matrix.shape[1] != size or not np.isin(matrix, (0, 1)).all():
            raise UserError(f"{where} must have a class per text, or 0 and 1 in {size} columns: found {matrix!r:.80}")
        ids = [np.flatnonzero(row).tolist() for row in matrix]
        return {"label": (ids, datasets.List(datasets.ClassLabel(names=self._names)))}


class Numbers(Targets):
    """Numbers `(n,)` or `(n, numbers)`; the columns of a frame name them."""

    task = "regression"

    def __init__(self, y: Any) -> None:
        count = np.shape(y)[1] if np.ndim(y) == 2 else 1
        self._names = _column_names(y) or (["value"] if count == 1 else [f"value_{place}" for place in range(count)])
        self.columns = {"label_columns": self._names}

    def read(self, y: Any, where: str) -> dict[str, tuple[Any, Any]]:
        """Return a column per number."""
        import datasets

        numbers = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if numbers.shape[1] != len(self._names) or not np.isfinite(numbers).all():
            raise UserError(f"{where} must have {len(self._names)} finite numbers per text: found {y!r:.80}")
        return {name: (column, datasets.Value("float64")) for name, column in zip(self._names, numbers.T, strict=True)}


def _as_dense(y: Any) -> np.ndarray:
    return np.asarray(y.toarray() if hasattr(y, "toarray") else y)


def is_matrix(y: Any) -> bool:
    """Return whether `y` has a row of several values per text."""
    shape = getattr(y, "shape", None) or np.shape(y)  # a sparse matrix has a shape, but not for NumPy
    return len(shape) == 2 and shape[1] != 1


def _column_names(y: Any) -> list[str] | None:
    """Return the names of the columns of a frame."""
    return [str(name) for name in y.columns] if hasattr(y, "columns") else None


def _read_labels(y: Any, where: str) -> np.ndarray:
    """Return labels as an array `(n,)` of strings, integers, booleans or whole floats."""
    values = _items(y, where)
    if len({isinstance(value, str) for value in values}) > 1:
        raise UserError(f"{where} must have labels of one type: found {values[:3]!r:.80} and others")
    dtype = getattr(y, "dtype", None)
    labels = np.asarray(values, dtype=dtype if isinstance(dtype, np.dtype) and dtype.kind in "biuf" else None)
    if labels.dtype.kind not in "biufU":
        raise UserError(f"{where} must be strings, integers or booleans, found {values[:3]!r:.80}")
    check_classification_targets(labels)
    return labels


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
