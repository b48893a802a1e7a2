"""Columns of training rows, of tables and of plain sequences of rows: their labels, and how many tokens each has."""

from __future__ import annotations

from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch


def read_column(data: Any, name: str) -> torch.Tensor:
    """A column of integers of a data set, as a tensor."""
    if isinstance(data, datasets.Dataset):
        return torch.tensor(_arrow(data, name).to_numpy())
    return torch.as_tensor([row[name] for row in data])


def count_tokens(data: Any, length_column: str) -> list[int]:
    """Tokens of each row, from the data set's own column of lengths if it has one."""
    if not isinstance(data, datasets.Dataset):
        return [len(row["input_ids"]) for row in data]
    if length_column in data.column_names:
        return list(data[length_column])
    return pc.list_value_length(_arrow(data, "input_ids")).to_pylist()


def _arrow(data: datasets.Dataset, name: str) -> pa.ChunkedArray:
    return data.select_columns([name]).with_format("arrow")[:][name]
