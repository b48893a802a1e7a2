"""Columns of training rows, of tables and of plain sequences of rows: their labels, and how many tokens each has."""

from __future__ import annotations

from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..utils.errors import UserError


def read_labels(data: Any) -> torch.Tensor:
    """The labels of all rows, by whichever name collators take them (`labels`, `label`), as a tensor.

    Raises:
        UserError: When the rows have none.
    """
    found = data.column_names if _is_table(data) else list(data[0]) if len(data) else ["labels"]
    name = next((name for name in ("labels", "label") if name in found), None)
    if name is None:
        raise UserError(f"the training rows have no column labels; they have {', '.join(map(str, found))}")
    if not _is_table(data):
        return torch.as_tensor([row[name] for row in data])
    column = _arrow(data, name)
    flat = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return torch.tensor(column.to_numpy() if flat else column.to_pylist())


def count_tokens(data: Any, length_column: str) -> list[int]:
    """Tokens of each row, from the data set's own column of lengths if it has one."""
    if not _is_table(data):
        return [len(row["input_ids"]) for row in data]
    if length_column in data.column_names:
        return list(data[length_column])
    return pc.list_value_length(_arrow(data, "input_ids")).to_pylist()


def _is_table(data: Any) -> bool:
    """Whether its columns are those of its rows: not where they are made as they are read (`with_transform`)."""
    return isinstance(data, datasets.Dataset) and data.format["type"] != "custom"


def _arrow(data: datasets.Dataset, name: str) -> pa.ChunkedArray:
    return data.select_columns([name]).with_format("arrow")[:][name]
