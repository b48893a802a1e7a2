"""Continuous text for language models: text files as lines, and their tokens in blocks."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from ..utils.errors import UserError
from .encoding import take_fingerprint
from .row_errors import DataError, DataReport, Reason, SplitReport

logger = logging.getLogger(__name__)

_NAMES = {"train": "train", "dev": "validation", "validation": "validation", "test": "test"}
_HELD_OUT = 0.1  # share of the characters
_LONGEST = 10_000  # characters of a row; longer lines are cut, at a space if there is one


def load_text(
    source: str | os.PathLike[str], *, splits: Sequence[str] | None = None, report: DataReport | None = None
) -> datasets.DatasetDict:
    """Read the continuous texts of a language model.

    A row of the column `text` is a line with its line feed, so that the rows, joined, are the text; CRLF becomes LF,
    and a byte order mark is skipped. A line over 10,000 characters is several rows.

    Args:
        source: A folder with `train.txt`, and `dev.txt` and `test.txt` if there are any; or a text file, or a folder
            with only one. Without `dev.txt` the last tenth is the validation split.
        splits: Return only these. A single file is also the split `test`, whole.
        report: An empty report to fill in.

    Raises:
        DataError: For a file without text, or with bytes that are not UTF-8 text.
        UserError: For a folder without such files, and for a missing split.
    """
    report = DataReport() if report is None else report
    wanted = None if splits is None else [_NAMES.get(split, split) for split in splits]
    files = _find_files(Path(os.path.expanduser(source)), wanted)
    rows = {split: _read(path) for split, path in files.items()}
    for split, lines in rows.items():
        report.splits[split] = SplitReport([str(files[split])], len(lines), len(lines))
    if "validation" not in rows and "train" in rows:
        rows["train"], rows["validation"] = _hold_out(rows["train"])
        report.held_out = {"share": _HELD_OUT, "seed": None, "rows": len(rows["validation"])}
        logger.warning("there is no dev.txt: the last tenth of %s is held out as validation split", files["train"])
    rows = {split: rows[split] for split in ("train", "validation", "test") if split in rows}
    report.label_counts = {split: [len(lines)] for split, lines in rows.items()}
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict({"text": lines}, datasets.Features(text=datasets.Value("string")))
            for split, lines in rows.items()
            if wanted is None or split in wanted
        }
    )


def _find_files(source: Path, wanted: Sequence[str] | None) -> dict[str, Path]:
    """Return the file of each split to read, train first."""
    if source.is_dir():
        texts = sorted(source.glob("*.txt"))
        files = {_NAMES[path.stem]: path for path in texts if path.stem in _NAMES}
        if not files and len(texts) == 1:
            files = {"train": texts[0]}
        if not files:
            names = ", ".join(path.name for path in texts[:10]) or "none"
            raise DataError.for_file(source, Reason.NO_TRAIN_SPLIT, f"found {names} as text files; give train.txt")
    else:
        files = {"test" if wanted == ["test"] else "train": source}
    made = {*files, *(["validation"] if "train" in files else [])}
    if missing := [split for split in (["train"] if wanted is None else wanted) if split not in made]:
        raise UserError(f"{source} has no split {missing[0]}: found {', '.join(sorted(made))}")
    needed = {*files} if wanted is None else {split if split in files else "train" for split in wanted}
    return {split: files[split] for split in ("train", "validation", "test") if split in needed}


def _read(path: Path) -> list[str]:
    """Return the rows of a file."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte {content[error.start : error.start + 1]!r} in line {line}; convert it, for example with iconv"
        raise DataError.for_file(path, Reason.NOT_UTF8, found) from error
    if "\0" in text:
        raise DataError.for_file(path, Reason.NUL, f"in line {text.count(chr(10), 0, text.index(chr(0))) + 1}")
    if not text.strip():
        raise DataError.for_file(path, Reason.EMPTY_FILE, "it has no text")
    return list(chain.from_iterable(map(_cut, text.splitlines(keepends=True))))


def _cut(line: str) -> list[str]:
    """Return a line in parts that are not too long, cut before a space if there is one."""
    parts = []
    while len(line) > _LONGEST:
        end = line.rfind(" ", 1, _LONGEST)
        end = _LONGEST if end < 0 else end
        parts.append(line[:end])
        line = line[end:]
    return [*parts, line]


def _hold_out(rows: list[str]) -> tuple[list[str], list[str]]:
    """Cut off the last tenth of the characters, at the start of a row."""
    ends = np.cumsum([len(row) for row in rows])
    first = int(np.searchsorted(ends, (1 - _HELD_OUT) * ends[-1]))
    if first == 0 or first == len(rows):
        raise UserError("the text is too short to hold out a tenth of its lines: give dev.txt beside train.txt")
    return rows[:first], rows[first:]


def encode_blocks(
    texts: datasets.DatasetDict, tokenizer: PreTrainedTokenizerBase, block_size: int
) -> datasets.DatasetDict:
    """Return the tokens of each split in blocks of one size, the last one shorter, as `run_clm.py` does.

    The labels are the tokens themselves; `characters` is the number of characters of the block, if each token of the
    split had the same.
    """
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    blocks = datasets.DatasetDict()
    for split, rows in texts.items():

        def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            return {"input_ids": tokenizer(batch["text"], **options)["input_ids"]}

        lines = rows.map(
            encode, batched=True, remove_columns=["text"], new_fingerprint=take_fingerprint(rows, tokenizer)
        )
        ids = np.fromiter(chain.from_iterable(lines.with_format("numpy")["input_ids"]), dtype=np.int64)
        if len(ids) < 2:
            raise UserError(f"a split must have at least two tokens: found {len(ids)} in {split}; give more text")
        parts = np.split(ids, range(block_size, len(ids), block_size))
        if len(parts[-1]) < 2:  # it has no token to predict
            parts[-2:] = [np.concatenate(parts[-2:])]
        ratio = sum(map(len, rows["text"])) / len(ids)
        columns = {"input_ids": parts, "labels": parts, "characters": [len(part) * ratio for part in parts]}
        blocks[split] = datasets.Dataset.from_dict(columns)
    return blocks
