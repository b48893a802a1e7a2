"""Tagged sentences: CoNLL files or any data set of the `datasets` library, every token counted.

A line of a CoNLL file is a token with its tag and possibly other columns, separated by tabs or, in a file without
tabs, by spaces. An empty line ends a sentence. Lines `-DOCSTART-` and comments (`# ...`, with another number of
columns than the tokens) are skipped. Splits have the columns `tokens` (list of strings) and `ner_tags` (list of
ClassLabel).

Tags of entities, such as B-person, are read in IOB1, IOB2 and IOBES, and delivered in IOB2: the first token of every
entity is B-, each further one is I-. Other tags, such as parts of speech, stay unchanged.
"""

from __future__ import annotations

import io
import logging
import os
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import xxhash

from ..utils.errors import UserError
from .labels import listed, sort_labels
from .loading import PathLike, Source, choose_splits, find_files, open_named
from .row_errors import (
    EXCERPT_CHARACTERS,
    BadRow,
    DataError,
    DataReport,
    Fault,
    Ledger,
    Reason,
    SplitReport,
    label_fault,
    text_fault,
)
from .stratified_split import Holdout
from .tsv_reader import MAX_LINE_BYTES, check_signature, decode_line, excerpt_of

logger = logging.getLogger(__name__)

SCHEMES = ("IOB1", "IOB2", "IOBES")
_ENTITY_TAG = re.compile(r"[BIES]-(.+)")
_DOCUMENT = b"-DOCSTART-"

Sentence = tuple[list[str], list[str]]  # tokens and tags
OnBadRow = Callable[[BadRow], None]
OnBytes = Callable[[bytes], object]


# ---- schemes of tags ----


def entity_types(tags: Iterable[str]) -> list[str]:
    """Return the sorted types of entities in a set of tags; empty if the tags mark no entities."""
    tags = set(tags) - {"O"}
    found = {match[1] for tag in tags if (match := _ENTITY_TAG.fullmatch(tag))}
    return sorted(found) if all(map(_ENTITY_TAG.fullmatch, tags)) else []


def find_entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return first token, token after the last, and type of each entity, for tags in IOB1, IOB2 or IOBES.

    As in the evaluation of CoNLL-2000, I-X and E-X that continue nothing of type X begin an entity.
    """
    found: list[tuple[int, int, str]] = []
    start, kind = 0, ""  # open entity
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, of = tag.partition("-")
        if kind and (of != kind or prefix not in ("I", "E")):
            found.append((start, place, kind))
            kind = ""
        if of and not kind:
            start, kind = place, of
        if kind and prefix in ("E", "S"):
            found.append((start, place + 1, kind))
            kind = ""
    return found


def convert_tags(tags: Sequence[str], scheme: str = "IOB2") -> list[str]:
    """Return tags of entities, in any of the schemes, in IOB1, IOB2 or IOBES.

    Raises:
        UserError: For an unknown scheme.

    Example:
        >>> convert_tags(["I-person", "I-person", "O", "I-place"], "IOBES")
        ['B-person', 'E-person', 'O', 'S-place']
    """
    if scheme not in SCHEMES:
        raise UserError(f"unknown scheme of tags: found {scheme!r}; choose one of {', '.join(SCHEMES)}")
    written, end_before = ["O"] * len(tags), ("", -1)
    for start, end, kind in find_entities(tags):
        marks = ["B", *"I" * (end - start - 1)]
        if scheme == "IOB1" and (kind, start) != end_before:
            marks[0] = "I"  # B only separates neighbours of one type
        if scheme == "IOBES":
            marks[-1] = "S" if end - start == 1 else "E"
        written[start:end] = [f"{mark}-{kind}" for mark in marks]
        end_before = kind, end
    return written


@dataclass(frozen=True)
class TagSet:
    """The names of the tags by id; with `types`, those of entities in IOB2."""

    names: tuple[str, ...]
    types: tuple[str, ...]

    @classmethod
    def find(cls, tags: Iterable[str]) -> TagSet:
        """Return the tags of the training rows; for entities, B and I of each type."""
        tags = set(tags)
        if types := entity_types(tags):
            return cls(("O", *(f"{mark}-{kind}" for kind in types for mark in "BI")), tuple(types))
        return cls(tuple(sort_labels(tags)), ())

    def fault(self, tag: str) -> Fault | None:
        """Return what is wrong with a tag of the data."""
        match = _ENTITY_TAG.fullmatch(tag) if self.types else None
        if tag in self.names or (match and match[1] in self.types):
            return None
        return Fault(Reason.UNKNOWN_LABEL, f"tag {tag!r:.80}, known are {listed(self.names)}")

    def ids(self, tags: Sequence[str]) -> list[int]:
        """Return the ids of the tags of a sentence."""
        return [self.names.index(tag) for tag in (convert_tags(tags) if self.types else tags)]


# ---- reading ----


@dataclass(frozen=True)
class ConllFile:
    """One file, with the numbers of its columns of tokens and tags; negative ones count from the last."""

    path: str
    token_column: int
    tag_column: int
    max_line_bytes: int = MAX_LINE_BYTES

    def sentences(
        self, tags: TagSet | None, on_bad_row: OnBadRow, on_bytes: OnBytes = lambda block: None
    ) -> Iterator[tuple[int, Sentence]]:
        """Yield the number of token lines since the last sentence, refused ones included, and the sentence."""
        try:
            stream = io.FileIO(self.path)
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            raise UserError(f"{self.path} {reason}; give a folder with train.conll in it, or a CoNLL file") from None
        with io.BufferedReader(stream) as lines:
            fields, separator = self._find_layout(lines)
            read, offset, sentence = 0, 0, _empty()
            for number, line in enumerate(lines, start=1):
                on_bytes(line)
                start, offset = offset, offset + len(line)
                line = (line.removeprefix(BOM_UTF8) if number == 1 else line).rstrip(b"\n").removesuffix(b"\r")
                parts = _split(line, separator)
                if not line.strip():
                    if read:
                        yield read, sentence
                    read, sentence = 0, _empty()
                elif not line.startswith(_DOCUMENT) and not (line.startswith(b"# ") and len(parts) != fields):
                    read += 1
                    found = self._parse(line, parts, start, fields, tags)
                    if isinstance(found, Fault):
                        on_bad_row(BadRow(self.path, number, start, found, excerpt_of(line)))
                    else:
                        sentence[0].append(found[0])
                        sentence[1].append(found[1])
            if read:
                yield read, sentence

    def _find_layout(self, stream: BinaryIO) -> tuple[int, bytes]:
        """Return the number of columns of the first token, and what separates them."""
        check_signature(self.path, stream.read(4))
        stream.seek(0)
        lines = (line.removeprefix(BOM_UTF8).rstrip(b"\r\n") for line in stream)
        lines = (line for line in lines if line.strip() and not line.startswith(_DOCUMENT))
        first = next(lines, b"")
        while first.startswith(b"# ") and (following := next(lines, b"")):
            first = following
        stream.seek(0)
        if not first:
            raise DataError.for_file(self.path, Reason.EMPTY_FILE, "found no token")
        separator = b"\t" if b"\t" in first else b" "
        fields = len(_split(first, separator))
        for name, column in (("text_column", self.token_column), ("label_column", self.tag_column)):
            if not -fields <= column < fields or fields == 1:
                found = f"{name} {column}: found {fields} column{'s' * (fields > 1)}, counted from 0"
                raise DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{found}; a line is a token and its tag")
        return fields, separator

    def _parse(
        self, line: bytes, parts: Sequence[bytes], offset: int, fields: int, tags: TagSet | None
    ) -> tuple[str, str] | Fault:
        """Return token and tag of a line, or what is wrong with it."""
        decoded = decode_line(line, offset, self.max_line_bytes)
        if isinstance(decoded, Fault):
            return decoded
        if len(parts) != fields:
            reason = Reason.TOO_FEW_FIELDS if len(parts) < fields else Reason.TOO_MANY_FIELDS
            return Fault(reason, f"found {len(parts)} columns where the first token has {fields}")
        token, tag = parts[self.token_column].decode(), parts[self.tag_column].decode()
        return _token_fault(token) or label_fault(tag) or (tags and tags.fault(tag)) or (token, tag)


def _token_fault(token: str) -> Fault | None:
    """Return what is wrong with a token; some data have tokens of white space, such as U+00A0."""
    fault = text_fault(token)
    return None if fault and fault.reason is Reason.BLANK_TEXT else fault


def _empty() -> Sentence:
    return [], []


def _split(line: bytes, separator: bytes) -> list[bytes]:
    return line.split(b"\t") if separator == b"\t" else line.split()


@dataclass(frozen=True)
class TaggedSplit:
    """One split of a data set of the `datasets` library; `path` is its name in messages."""

    path: str
    rows: datasets.Dataset
    token_column: str
    tag_column: str

    @property
    def class_names(self) -> list[str] | None:
        """The names of a column of ClassLabel; None for other columns."""
        tag = getattr(self.rows.features[self.tag_column], "feature", None)
        return tag.names if isinstance(tag, datasets.ClassLabel) else None

    def sentences(
        self, tags: TagSet | None, on_bad_row: OnBadRow, on_bytes: OnBytes = lambda block: None
    ) -> Iterator[tuple[int, Sentence]]:
        """Yield the number of tokens and the sentence of each row; a row with a bad token is refused."""
        advice = "set --text_column and --label_column"
        for column in (self.token_column, self.tag_column):
            if column not in self.rows.features:
                detail = f"no column {column!r}: found {', '.join(map(repr, self.rows.features))}"
                raise DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")
        names = self.class_names
        on_bytes(self.rows._fingerprint.encode())
        for number, row in enumerate(self.rows.select_columns([self.token_column, self.tag_column])):
            tokens, found = row[self.token_column], row[self.tag_column]
            if not isinstance(tokens, list) or not isinstance(found, list):
                detail = f"row {number} has {type(tokens).__name__} and {type(found).__name__}, not two lists"
                raise DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")
            fault = None
            if len(tokens) != len(found):
                fault = Fault(Reason.TOO_FEW_FIELDS, f"found {len(tokens)} tokens and {len(found)} tags")
            elif names is not None and (bad := [tag for tag in found if tag is None or not 0 <= tag < len(names)]):
                fault = Fault(Reason.LABEL_OUT_OF_RANGE, f"tag {bad[0]}, known are 0 to {len(names) - 1}")
            else:
                found = [str(tag) if names is None else names[tag] for tag in found]
                for token, tag in zip(tokens, found, strict=True):
                    fault = fault or _token_fault(token or "") or label_fault(tag) or (tags and tags.fault(tag))
            for _ in tokens if fault is not None else ():
                assert fault is not None
                on_bad_row(BadRow(self.path, number, None, fault, " ".join(map(str, tokens))[:EXCERPT_CHARACTERS]))
            yield len(tokens), _empty() if fault else (tokens, found)


def load_conll(
    source: Source,
    *,
    token_column: int = 0,
    tag_column: int = -1,
    class_names: Sequence[str] | None = None,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    streaming: bool = False,
    report: DataReport | None = None,
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Read tagged sentences from CoNLL files.

    Args:
        source: A folder with `train.conll`, `dev.conll`, `test.conll`; files by split; or one file of training rows.
        token_column: Number of the token's column, from 0.
        tag_column: Number of the tag's column; negative ones count from the last.
        class_names: Tags by id; by default those of train, "O" first.
        splits: Read only these, without a hold-out.
        validation_share: Without a validation split, this share of the sentences of train becomes it; 0 for none.
        seed: Changes which sentences are held out.
        max_bad_rows: Skip up to this number of bad lines: a count, or a share of all tokens such as `"0.1%"`.
        rejected_path: File that lists these (JSON lines).
        max_line_bytes: Longer lines are bad.
        streaming: Return streams. The files are still read once here, so that errors come before the first batch.
        report: An empty report to fill in; its rows are tokens, and its `label_counts` the number of sentences.

    Raises:
        DataError: For an unusable file, and for bad lines beyond `max_bad_rows`; it names file and line.
        UserError: For arguments that contradict each other or the data.
    """
    files = find_files(source, splits, class_names is not None, ".conll")
    sources = {
        split: [ConllFile(str(path), token_column, tag_column, max_line_bytes) for path in paths]
        for split, paths in files.items()
    }
    share = validation_share if splits is None else 0
    return _load(sources, class_names, share, seed, max_bad_rows, rejected_path, streaming, report)


def load_tagged(
    dataset: PathLike | datasets.Dataset | Mapping[str, Any],
    config: str | None = None,
    *,
    token_column: str = "tokens",
    tag_column: str = "ner_tags",
    class_names: Sequence[str] | None = None,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    report: DataReport | None = None,
) -> datasets.DatasetDict:
    """Read tagged sentences from a data set of the `datasets` library, or rows in memory.

    Columns are named: a list of strings, and a list of tags (ClassLabel, strings or integers). A row with a bad token
    is refused as a whole. The other arguments are those of [`load_conll`], and `dataset` and `config` those of
    [`load_named`].
    """
    wanted = [splits] if isinstance(splits, str) else None if splits is None else list(splits)
    loaded, name, found = open_named(dataset, config, token_column, tag_column, wanted)
    columns = token_column, tag_column
    parts = {split: TaggedSplit(f"{name}[{own}]", loaded[own], *columns) for split, own in found.items()}
    names_given = class_names is not None
    sources = {split: [parts[split]] for split in choose_splits(wanted, found, name, names_given or "train" in found)}
    share = validation_share if wanted is None else 0
    return _load(sources, class_names, share, seed, max_bad_rows, rejected_path, False, report)


def _load(
    sources: Mapping[str, Sequence[Any]],
    class_names: Sequence[str] | None,
    validation_share: float,
    seed: int,
    max_bad_rows: int | float | str,
    rejected_path: str | Path | None,
    streaming: bool,
    report: DataReport | None,
) -> Any:
    """Read all splits under the tags of the first one, or of `class_names`."""
    report = DataReport() if report is None else report
    tags = None if class_names is None else TagSet(tuple(class_names), tuple(entity_types(class_names)))
    read: dict[str, list[Sentence]] = {}  # empty lists for streams
    sizes, digests = {}, {}
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        for split, parts in sources.items():
            report.splits[split] = counts = SplitReport([part.path for part in parts])
            hasher, seen = xxhash.xxh3_128(), set()
            read[split], sizes[split] = [], 0
            for part in parts:
                for tokens_read, sentence in part.sentences(tags, partial(ledger.reject, split), hasher.update):
                    counts.rows_read += tokens_read
                    counts.rows_kept += len(sentence[0])
                    seen.update(sentence[1])
                    sizes[split] += bool(sentence[0])
                    if sentence[0] and not streaming:
                        read[split].append(sentence)
            if not sizes[split]:
                raise DataError.for_file(", ".join(counts.files), Reason.EMPTY_FILE, "found no usable token")
            tags, digests[split] = tags or TagSet.find(seen), hasher.hexdigest()
    assert tags is not None
    if len(tags.names) < 2:
        raise UserError(f"a tagger needs at least two tags: found {listed(tags.names)}")
    report.class_names = list(tags.names)
    chosen: dict[str, tuple[str, np.ndarray | None]] = {split: (split, None) for split in read}
    if validation_share and "validation" not in read:
        holdout = Holdout((sizes["train"],), validation_share, seed)
        held_out = holdout.select(np.zeros(sizes["train"], dtype=np.int64), np.zeros(1, dtype=np.int64))
        chosen = {"train": ("train", ~held_out), "validation": ("train", held_out)} | {
            split: part for split, part in chosen.items() if split != "train"
        }
        report.held_out = holdout.rows
        message = "there is no validation split: %d of %d sentences of train are held out as one (seed %d)"
        logger.warning(message, holdout.rows, sizes["train"], seed)
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        ner_tags=datasets.List(datasets.ClassLabel(names=list(tags.names))),
    )
    built = {}
    for split, (own, mask) in chosen.items():
        report.label_counts[split] = [sizes[own] if mask is None else int(mask.sum())]
        key = xxhash.xxh3_64_hexdigest(repr((digests[own], tags.names, split, seed, validation_share)).encode())
        report.fingerprint = xxhash.xxh3_64_hexdigest((report.fingerprint + key).encode())
        if streaming:
            rows = {"sources": tuple(sources[own]), "tags": tags, "mask": None if mask is None else tuple(mask)}
            built[split] = datasets.IterableDataset.from_generator(
                _stream, features, gen_kwargs=rows, split=datasets.NamedSplit(split)
            )
        else:
            kept = read[own] if mask is None else [row for row, keep in zip(read[own], mask, strict=True) if keep]
            columns = {"tokens": [row[0] for row in kept], "ner_tags": [tags.ids(row[1]) for row in kept]}
            table = datasets.Dataset.from_dict(columns, features, split=datasets.NamedSplit(split))
            table._fingerprint = key  # the same in every process
            built[split] = table
    return (datasets.IterableDatasetDict if streaming else datasets.DatasetDict)(built)


def _stream(sources: Sequence[Any], tags: TagSet, mask: Sequence[bool] | None) -> Iterator[dict[str, Any]]:
    """Read files again, once per epoch; their bad lines are counted already."""
    number = 0
    for part in sources:
        for _, (tokens, found) in part.sentences(tags, lambda row: None):
            if tokens:
                if mask is None or mask[number]:
                    yield {"tokens": tokens, "ner_tags": tags.ids(found)}
                number += 1


def write_conll(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str], scheme: str = "IOB2") -> None:
    """Write sentences with `tokens` and `ner_tags`, names or ids of a data set, as `token<TAB>tag` lines."""
    features = getattr(rows, "features", None)
    names = features["ner_tags"].feature.names if features else None
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            tags = [str(tag) if names is None else names[tag] for tag in row["ner_tags"]]
            tags = convert_tags(tags, scheme) if entity_types(tags) else tags
            stream.writelines(f"{token}\t{tag}\n" for token, tag in zip(row["tokens"], tags, strict=True))
            stream.write("\n")
