"""Convert the texts and labels of scikit-learn's `X` and `y` to a data set, and class names back to labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import check_classification_targets

from ...data.text_checks import check_texts, out_of_arrow
from ...utils.errors import UserError

if TYPE_CHECKING:
    import datasets


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
    kinds = {"b": "bool", "i": "int", "u": "int", "f": "float", "U": "str"}
    kind = kinds[labels.dtype.kind]
    return {"kind": kind, "dtype": kind if kind == "str" else labels.dtype.name}


def as_dataset(texts: Sequence[str], labels: np.ndarray, classes: np.ndarray, where: str = "") -> datasets.Dataset:
    """Return a split with texts and class ids; `where` precedes `X` and `y` in messages."""
    import datasets

    from ...data.row_errors import text_fault

    if len(texts) != len(labels):
        raise UserError(f"{where}X and {where}y differ in length: {len(texts)} and {len(labels)}")
    if labels.dtype.kind != classes.dtype.kind or (unknown := ~np.isin(labels, classes)).any():
        found = labels[0] if labels.dtype.kind != classes.dtype.kind else labels[unknown][0]
        raise UserError(f"{where}y contains {found!r}, which y lacks")
    for position, text in enumerate(texts):
        if fault := text_fault(text):
            raise UserError(f"{where}X[{position}]: {fault.detail}; leave out the text and its label")
    names = [str(label) for label in classes.tolist()]
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
    rows = {"text": list(texts), "label": np.searchsorted(classes, labels)}
    return datasets.Dataset.from_dict(rows, features=features)


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
