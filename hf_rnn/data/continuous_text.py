"""Continuous text for language models: text files as lines, and a text as parallel streams of tokens."""

from __future__ import annotations

import logging
import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ..utils.errors import UserError
from .delimited import check_signature, decode_line, excerpt_of
from .encoding import take_fingerprint
from .row_errors import BadRow, DataError, DataReport, Fault, Ledger, Reason, SplitReport

logger = logging.getLogger(__name__)

_NAMES = {"train": "train", "dev": "validation", "validation": "validation", "test": "test"}
_HELD_OUT = 0.1  # share of the characters
_LONGEST = 10_000  # characters of a row; longer lines are cut at a space
IGNORED = -100


def load_text(
    source: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    report: DataReport | None = None,
) -> datasets.DatasetDict:
    """Read the continuous texts of a language model.

    A row of the column `text` is a line with its line feed, so that the rows, joined, are the text; CRLF becomes LF,
    and a byte order mark is skipped. A line over 10,000 characters is several rows. A line that is not UTF-8 or
    has a NUL is a bad row.

    Args:
        source: A folder with `train.txt`, and `dev.txt` and `test.txt` if there are any; or a text file, or a folder
            with only one. Without `dev.txt` the last tenth is the validation split.
        splits: Return only these. A single file is also the split `test`, whole.
        max_bad_rows: Skip up to this many bad lines: a count, or a share of all lines such as `"0.1%"`.
        rejected_path: File that lists these (JSON lines).
        report: An empty report to fill in.

    Raises:
        DataError: For a file without text, and for bad lines beyond `max_bad_rows`.
        UserError: For a folder without such files, and for a missing split.
    """
    report = DataReport() if report is None else report
    wanted = None if splits is None else [_NAMES.get(split, split) for split in splits]
    files = _find_files(Path(os.path.expanduser(source)), wanted)
    rows: dict[str, list[str]] = {}
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        for split, path in files.items():
            report.splits[split] = SplitReport([str(path)])
            rows[split] = list(_read(path, split, ledger))
    if "validation" not in rows and "train" in rows:
        rows["train"], rows["validation"] = _hold_out(rows["train"])
        report.held_out = len(rows["validation"])
        logger.warning("there is no dev.txt: the last tenth of %s is held out as validation split", files["train"])
    rows = {split: rows[split] for split in ("train", "validation", "test") if split in rows}
    report.label_counts = {split: [len(lines)] for split, lines in rows.items()}
    features = datasets.Features(text=datasets.Value("string"))
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict({"text": lines}, features)
            for split, lines in rows.items()
            if wanted is None or split in wanted
        }
    )


def _find_files(source: Path, wanted: Sequence[str] | None) -> dict[str, Path]:
    """Return the file of each split to read, train first."""
    if source.is_dir():
        texts = sorted(source.glob("*.txt"))
        found = {_NAMES[path.stem]: path for path in texts if path.stem in _NAMES}
        if not found and len(texts) == 1:
            found = {"train": texts[0]}
        if not found:
            names = ", ".join(path.name for path in texts[:10]) or "none"
            raise DataError.for_file(source, Reason.NO_TRAIN_SPLIT, f"found {names} as text files; give train.txt")
    else:
        found = {"test" if wanted == ["test"] else "train": source}
    made = {*found, *(["validation"] if "train" in found else [])}
    if missing := [split for split in (["train"] if wanted is None else wanted) if split not in made]:
        raise UserError(f"{source} has no split {missing[0]}: found {', '.join(sorted(made))}")
    needed = {*found} if wanted is None else {split if split in found else "train" for split in wanted}
    return {split: found[split] for split in ("train", "validation", "test") if split in needed}


def _read(path: Path, split: str, ledger: Ledger) -> Iterator[str]:
    """Yield the rows of a file."""
    content, counts = path.read_bytes(), ledger.report.splits[split]
    check_signature(str(path), content[:4])
    content = content.removeprefix(BOM_UTF8)
    if not content.strip():
        raise DataError.for_file(path, Reason.EMPTY_FILE, "it has no text")
    start = 0
    for number, raw in enumerate(content.split(b"\n"), 1):
        whole = raw.removesuffix(b"\r") + b"\n" if start + len(raw) < len(content) else raw
        counts.rows_read += bool(whole)
        line = decode_line(whole, start, len(whole))
        if isinstance(line, Fault):
            ledger.reject(split, BadRow(str(path), number, start, line, excerpt_of(raw)))
        else:
            counts.rows_kept += bool(whole)
            yield from _cut(line)
        start += len(raw) + 1


def _cut(line: str) -> Iterator[str]:
    """Yield a line in parts that are not too long, cut before a space if there is one."""
    while len(line) > _LONGEST:
        end = line.rfind(" ", 1, _LONGEST)
        end = _LONGEST if end < 0 else end
        yield line[:end]
        line = line[end:]
    if line:
        yield line


def _hold_out(rows: list[str]) -> tuple[list[str], list[str]]:
    """Cut off the last tenth of the characters, at the start of a row."""
    ends = np.cumsum([len(row) for row in rows])
    first = int(np.searchsorted(ends, (1 - _HELD_OUT) * ends[-1]))
    if first == 0 or first == len(rows):
        raise UserError("the text is too short to hold out a tenth of its lines: give dev.txt beside train.txt")
    return rows[:first], rows[first:]


def encode_text(texts: datasets.DatasetDict, tokenizer: PreTrainedTokenizerBase) -> datasets.DatasetDict:
    """Return the token ids of each row as `input_ids`, whole, and its number of characters as `characters`."""

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)
        return {"input_ids": ids["input_ids"], "characters": list(map(len, batch["text"]))}

    return datasets.DatasetDict(
        {
            split: rows.map(
                encode, batched=True, remove_columns=["text"], new_fingerprint=take_fingerprint(rows, tokenizer)
            )
            for split, rows in texts.items()
        }
    )


class TokenStreams(Dataset):
    """A text as parallel streams, cut into pieces: batches of truncated backpropagation through time.

    Each row of a batch continues the same row of the batch before. Every token but the first of the text is a label
    once per epoch; the last stream ends with padding.

    Args:
        rows: The encoded text: `input_ids` and `characters` by row.
        streams: Rows of a batch, in all processes.
        length: Tokens of a piece.
        pad_token_id: Fills the last stream.
        process: Number of this process, which reads its part of the streams.
        processes: Number of processes.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        streams: int,
        length: int,
        pad_token_id: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        table = rows.with_format("arrow")[:]
        ids = np.concatenate([chunk.flatten().to_numpy() for chunk in table["input_ids"].chunks]).astype(np.int64)
        if len(ids) < 2:
            raise UserError(f"a split must have at least two tokens: found {len(ids)}; give more text")
        self.tokens, self.length = len(ids) - 1, length
        self.characters = float(np.sum(table["characters"].to_numpy())) * self.tokens / len(ids)
        steps = -(-self.tokens // streams)
        inputs = np.full(streams * steps, pad_token_id, dtype=np.int32)
        labels = np.full(streams * steps, IGNORED, dtype=np.int32)
        inputs[: self.tokens], labels[: self.tokens] = ids[:-1], ids[1:]
        known = labels.reshape(streams, steps) != IGNORED
        self._items = [known[:, start : start + length].sum() / processes for start in range(0, steps, length)]
        own = slice(process * streams // processes, (process + 1) * streams // processes)
        self._inputs, self._labels = (part.reshape(streams, steps)[own] for part in (inputs, labels))

    def __len__(self) -> int:
        return -(-self._inputs.shape[1] // self.length)

    def __getitem__(self, piece: int) -> dict[str, Any]:
        """Return a piece.

        It has `input_ids` and the next tokens `labels` `(streams, length)`, whether the streams begin, and the labels
        per process, so that the mean over processes is the mean over tokens.
        """
        if not 0 <= piece < len(self):
            raise IndexError(piece)
        part = slice(piece * self.length, (piece + 1) * self.length)
        both = (torch.from_numpy(ids[:, part].astype(np.int64)) for ids in (self._inputs, self._labels))
        own = dict(zip(("input_ids", "labels"), both, strict=True))
        return {**own, "begins": piece == 0, "num_items_in_batch": float(self._items[piece])}

    def __getitems__(self, pieces: Sequence[int]) -> dict[str, Any]:
        """Return the only piece of a batch."""
        (piece,) = pieces
        return self[piece]


def evaluation_streams(rows: datasets.Dataset, pad_token_id: int) -> TokenStreams:
    """Return a split for its evaluation: up to 16 streams of at least 4,096 tokens, so that few tokens lack a context.

    Its losses do not depend on a batch size.
    """
    tokens = sum(map(len, rows.with_format("arrow")[:]["input_ids"]))
    return TokenStreams(rows, max(1, min(16, tokens // 4096)), 256, pad_token_id)
