"""Labelled texts in, data sets out; every row is counted.

[`load_tsv`] returns splits with the columns `text` (string) and `label` (ClassLabel); [`encode`]
turns these into `input_ids` and `labels`. A row is delivered unchanged, or rejected with its place
and a typed reason.

The way of a row: `sources` finds the files of a split, `read` makes tables of them, `load` checks
their rows and makes a data set of the good ones, with the meaning of their labels from `labels` and
rejections in `errors`; `splits` holds out rows for validation, and `encode` makes ids of the texts,
word by word in `tokens`. `columns` finds texts for verbs that need no labels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ..models.settings_rnn import setting
from ..utils.errors import DataError, SettingError

Location = Annotated[str, os.path.expanduser]  # a path, or a name on the Hub


@dataclass
class ColumnFlags:
    """Flags that say how a table is read. A subclass has the other flags of a verb."""

    group: ClassVar[str] = "flags"  # in the help

    text_column: str | None = setting(None, "column of the text (default: text, message, ...)")
    label_column: str | None = setting(
        None, "column of the labels that are there (default: label, ...)"
    )
    separator: str | None = setting(None, "comma, semicolon, bar or tab (default: found)")
    encoding: str | None = setting(None, "encoding of text files, such as cp1252 (default: found)")
    quoting: Literal["csv", "none"] | None = setting(
        None, 'csv: a " encloses fields of a table; none: it is a letter'
    )


@dataclass
class TableArguments:
    """The source of labelled texts and its columns. The help of each field describes it."""

    group: ClassVar[str] = "data"  # in the help

    data_dir: Location | None = setting(
        None,
        "your table (.csv .xlsx .tsv .jsonl .parquet, also .gz), or a folder with train.tsv, "
        "dev.tsv and test.tsv (train suffices), or with a folder per label",
    )
    text_column: str | None = setting(
        None, "column of the text, by name or number (default: text, ...)", shown="first"
    )
    label_column: str | None = setting(
        None, "column of the label (default: label, category, ...)", shown="first"
    )
    text_pair_column: str | None = setting(None, "column of a second text, which makes pairs")
    label_columns: list[str] | None = setting(
        None, "columns of 0 and 1 (multi-label) or of numbers (regression)"
    )
    label_separator: str = setting(",", "separates the labels of a text, for multi-label")
    dataset_name: Location | None = setting(
        None, "data set of the datasets library, in place of data_dir", shown="common"
    )
    dataset_config: str | None = setting(None, "configuration of dataset_name, if it has several")
    separator: str | None = setting(
        None, "comma, semicolon, bar or tab between columns (default: found)"
    )
    encoding: str | None = setting(None, "encoding of text files, such as cp1252 (default: found)")
    quoting: Literal["csv", "none"] | None = setting(
        None, 'csv: a " encloses fields of a table; none: it is a letter'
    )
    max_bad_rows: str | int | float = setting(
        "0", "rejected rows to skip before an error: a count, or a share as 0.1%%", shown="common"
    )

    def __post_init__(self) -> None:
        """Split names of columns at commas."""
        if not self.label_columns:
            return
        names = ",".join(self.label_columns).split(",")
        self.label_columns = list(filter(None, names))
        if self.label_column is not None:
            problem = "label_column and label_columns are both set"
            raise SettingError(f"{problem}: leave out {self.label_column}")

    def check_source(self) -> None:
        """Raise a [`UserError`] unless exactly one source is given; a folder must exist."""
        folder = self.data_dir
        if (folder is None) == (self.dataset_name is None):
            found = f"found {folder} and {self.dataset_name}"
            raise SettingError(f"give either data_dir or dataset_name: {found}")
        if folder is not None and not os.path.exists(folder):
            advice = "give the folder or file of your texts"
            raise DataError(f"data_dir {folder} does not exist: {advice}", folder)

    def layout(self) -> dict[str, Any]:
        """Return the keywords of [`load_tsv`] for columns and rejected rows."""
        names = ("separator", "encoding", "quoting", "max_bad_rows")
        layout = {name: getattr(self, name) for name in names}
        for name in ("text_column", "label_column", "text_pair_column"):
            layout[name] = _parse_column(getattr(self, name))
        layout["label_columns"] = [_parse_column(name) for name in self.label_columns or ()]
        return layout


def _parse_column(name: str | None) -> int | str | None:
    return int(name) if name is not None and str(name).isdecimal() else name
