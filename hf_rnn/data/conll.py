"""Tagged sentences: CoNLL files or any data set of the `datasets` library, every token counted.

A line of a CoNLL file is a token with its tag and possibly other columns, separated by tabs or, in a file without
tabs, by spaces. An empty line or `-DOCSTART-` ends a sentence. Skipped are comments (`# ...`: with another number of
columns than the tokens, or before a sentence and without a known tag) and the ranges and empty nodes of CoNLL-U.
Splits have the columns `tokens` (list of strings) and `ner_tags` (list of ClassLabel).

Tags of entities, such as B-person, are read in BIO, IOB1, IOB2, IOBES, BILOU and BMES, and delivered in IOB2: the
first token of every entity is B-, each further one is I-. Other tags, such as parts of speech, stay unchanged.
"""

from __future__ import annotations

import difflib
import logging
import re
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import xxhash

from ..evaluation.scores import entity_types
from ..utils.errors import UserError, reason_of
from .delimited import MAX_LINE_BYTES, check_signature, decode_line, excerpt_of, open_unpacked
from .labels import listed, sort_labels, warn_of_twins
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
from .stratified_split import hold_out

logger = logging.getLogger(__name__)

_ENTITY_TAG = re.compile(r"[BIMELSUW]-(.+)")
_DOCUMENT, _COMMENT = b"-DOCSTART-", b"# "
_CONLL_U, _NOT_A_WORD = 10, re.compile(rb"\d+[-.]\d+\t")  # columns; a range of words or an empty node
_MOST_WORDS = 0.9

Sentence = tuple[list[str], list[str]]  # tokens and tags
OnBadRow = Callable[[BadRow], None]


# ---- tags ----


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Return tags of entities, of any scheme, in IOB2; an I- or E- that continues nothing of its type begins one.

    Example:
        >>> to_iob2(["I-person", "L-person", "O", "U-place"])
        ['B-person', 'I-person', 'O', 'B-place']
    """
    written, before = [], "O"
    for tag in tags:
        begins = tag[0] in "BSUW" or tag[2:] != before[2:] or before[0] in "ELSUW"
        written.append(tag if tag == "O" else ("B" if begins else "I") + tag[1:])
        before = tag
    return written


@dataclass(frozen=True)
class TagSet:
    """The names of the tags by id; with `types`, those of entities in IOB2. `seen` are further tags of the data."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    seen: tuple[str, ...] = ()

    @classmethod
    def find(cls, counts: Mapping[str, int]) -> TagSet:
        """Return the tags of the training rows; for entities, B and I of each type.

        Tags are those of entities if half of them are, or nearly all words with another tag than O have one.
        """
        marked = [tag for tag in counts if _ENTITY_TAG.fullmatch(tag)]
        words, others = sum(counts[tag] for tag in marked), len(counts.keys() - {*marked, "O"})
        all_words = sum(counts.values()) - counts.get("O", 0)
        if not marked or (2 * len(marked) < len(marked) + others and words < _MOST_WORDS * all_words):
            warn_of_twins(counts)
            return cls(tuple(sort_labels(counts)), ())
        types: Counter[str] = Counter()
        for tag in marked:
            types[tag[2:]] += counts[tag]
        warn_of_twins(types)
        kinds = sorted(types)
        return cls(("O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI")), tuple(kinds), tuple(marked))

    def fault(self, tag: str) -> Fault | None:
        """Return what is wrong with a tag of the data."""
        known = tag in self.names or (self.types and _ENTITY_TAG.fullmatch(tag) and tag[2:] in self.types)
        if known:
            return None
        names = {name.casefold(): name for name in (*self.names, *self.seen)}
        near = difflib.get_close_matches(tag.casefold(), names, 1) or ["o"] * (len(tag) == 1)
        hint = f"; did you mean {names[near[0]]!r:.80}?" if near and near[0] in names else ""
        return Fault(Reason.UNKNOWN_LABEL, f"tag {tag!r:.80}, known are {listed(self.names)}{hint}")

    def ids(self, tags: Sequence[str]) -> list[int]:
        """Return the ids of the tags of a sentence."""
        return [self.names.index(tag) for tag in (to_iob2(tags) if self.types else tags)]


def _word_fault(token: str, tag: str, tags: TagSet | None) -> Fault | None:
    """Return what is wrong with a word; some data have tokens of white space, such as U+00A0."""
    fault = text_fault(token)
    if fault and fault.reason is not Reason.BLANK_TEXT:
        return fault
    return label_fault(tag) or (tags.fault(tag) if tags else None)


# ---- reading ----


@dataclass(frozen=True)
class ConllFile:
    """One file, with the numbers of its columns of tokens and tags; negative ones count from the last."""

    path: str
    token_column: int
    tag_column: int

    def sentences(self, tags: TagSet | None, on_bad_row: OnBadRow) -> Iterator[tuple[int, Sentence]]:
        """Yield the number of token lines since the last sentence, refused ones included, and the sentence."""
        fields, separator = self._find_layout()
        read, sentence = 0, _empty()
        for number, offset, line in self._lines():
            if _ends_sentence(line):
                if read:
                    yield read, sentence
                read, sentence = 0, _empty()
                continue
            parts = line.split(separator)
            word = self._parse(line, parts, offset, fields, tags)
            is_comment = len(parts) != fields or (not read and (tags is None or isinstance(word, Fault)))
            if (is_comment and line.startswith(_COMMENT)) or (fields == _CONLL_U and _NOT_A_WORD.match(line)):
                continue
            read += 1
            if isinstance(word, Fault):
                on_bad_row(BadRow(self.path, number, offset, word, excerpt_of(line)))
            else:
                sentence[0].append(word[0])
                sentence[1].append(word[1])
        if read:
            yield read, sentence

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, offset and content of each line, without its end and a byte order mark."""
        offset = 0
        try:
            with open_unpacked(self.path) as stream:
                for number, line in enumerate(stream, start=1):
                    content = line.removesuffix(b"\n").removesuffix(b"\r")
                    if number == 1:
                        check_signature(self.path, line)
                        bare = content.removeprefix(BOM_UTF8)
                        content = content if bare.startswith((b"\t", b" ")) else bare  # else U+FEFF is a token
                    yield number, offset, content
                    offset += len(line)
        except (OSError, EOFError, zlib.error) as error:
            detail = getattr(error, "strerror", None) or reason_of(error)
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {detail}"
            raise UserError(f"{self.path} {reason}; give a folder with train.conll in it, or a CoNLL file") from None

    def _find_layout(self) -> tuple[int, bytes | None]:
        """Return the number of columns of the first token, and what separates them; None for white space."""
        first = b""
        for _, _, line in self._lines():
            first = first if _ends_sentence(line) else line
            if first and not first.startswith(_COMMENT):
                break
        if not first:
            raise DataError.for_file(self.path, Reason.EMPTY_FILE, "found no token")
        separator = b"\t" if b"\t" in first else None
        fields = len(first.split(separator))
        for name, column in (("text_column", self.token_column), ("label_column", self.tag_column)):
            if not -fields <= column < fields or fields == 1:
                found = f"{name} {column}: found {fields} column{'s' * (fields > 1)}, counted from 0"
                raise DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{found}; a line is a token and its tag")
        return fields, separator

    def _parse(
        self, line: bytes, parts: Sequence[bytes], offset: int, fields: int, tags: TagSet | None
    ) -> tuple[str, str] | Fault:
        """Return token and tag of a line, or what is wrong with it."""
        decoded = decode_line(line, offset, MAX_LINE_BYTES)
        if isinstance(decoded, Fault):
            return decoded
        if len(parts) != fields:
            reason = Reason.TOO_FEW_FIELDS if len(parts) < fields else Reason.TOO_MANY_FIELDS
            return Fault(reason, f"found {len(parts)} columns where the first token has {fields}")
        token, tag = parts[self.token_column].decode(), parts[self.tag_column].decode()
        return _word_fault(token, tag, tags) or (token, tag)


def _empty() -> Sentence:
    return [], []


def _ends_sentence(line: bytes) -> bool:
    return not line.strip(b" ") or line.startswith(_DOCUMENT)


@dataclass(frozen=True)
class TaggedRows:
    """One split of a data set of the `datasets` library; `path` is its name in messages."""

    path: str
    rows: datasets.Dataset
    token_column: str
    tag_column: str

    def sentences(self, tags: TagSet | None, on_bad_row: OnBadRow) -> Iterator[tuple[int, Sentence]]:
        """Yield the number of tokens and the sentence of each row; a row with a bad token is refused."""
        features, columns = self.rows.features, [self.token_column, self.tag_column]
        for column in columns:
            if not isinstance(features.get(column), datasets.List | datasets.LargeList):
                there = ", ".join(map(repr, features))
                detail = f"column {column!r} must hold lists: found {features.get(column, f'the columns {there}')}"
                advice = "set --text_column and --label_column"
                raise DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")
        tag = features[self.tag_column].feature
        names = dict(enumerate(tag.names)) if isinstance(tag, datasets.ClassLabel) else None
        for number, row in enumerate(self.rows.select_columns(columns)):
            tokens, given = (row[column] or [] for column in columns)
            words = ["" if token is None else token for token in tokens]
            found = ["" if tag is None else str(tag) if names is None else names.get(tag, "") for tag in given]
            fault = next(filter(None, map(partial(_word_fault, tags=tags), words, found)), None)
            if len(tokens) != len(found):
                fault = Fault(Reason.TOO_FEW_FIELDS, f"found {len(tokens)} tokens and {len(found)} tags")
            elif names is not None and (bad := sorted(set(given) - {None, *names})):
                fault = Fault(Reason.LABEL_OUT_OF_RANGE, f"tag {bad[0]}, known are 0 to {len(names) - 1}")
            if fault:
                bad_row = BadRow(self.path, number, None, fault, " ".join(map(str, tokens))[:EXCERPT_CHARACTERS])
                for _ in tokens:
                    on_bad_row(bad_row)
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
    report: DataReport | None = None,
) -> datasets.DatasetDict:
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
        report: An empty report to fill in; its rows are tokens, and its `label_counts` the number of sentences.

    Raises:
        DataError: For an unusable file, and for bad lines beyond `max_bad_rows`; it names file and line.
        UserError: For arguments that contradict each other or the data.
    """
    files = find_files(source, splits, class_names is not None, (".conll",))
    sources = {
        split: [ConllFile(str(path), token_column, tag_column) for path in paths] for split, paths in files.items()
    }
    share = validation_share if splits is None else 0
    return _load(sources, class_names, report or DataReport(), share, seed, max_bad_rows, rejected_path)


def load_tagged(
    dataset: PathLike | datasets.Dataset | Mapping[str, Any],
    config: str | None = None,
    *,
    token_column: str = "tokens",
    tag_column: str = "ner_tags",
    class_names: Sequence[str] | None = None,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    report: DataReport | None = None,
    **options: Any,
) -> datasets.DatasetDict:
    """Read tagged sentences from a data set of the `datasets` library, or rows in memory.

    Columns are named: a list of strings, and a list of tags (ClassLabel, strings or integers). A row with a bad token
    is refused as a whole. The other arguments are those of [`load_conll`], and `dataset` and `config` those of
    [`load_named`].
    """
    wanted = [splits] if isinstance(splits, str) else None if splits is None else list(splits)
    loaded, name, found = open_named(dataset, config, (token_column, tag_column), wanted)
    chosen = choose_splits(wanted, found, name, class_names is not None or "train" in found)
    names = {split: found[split] for split in chosen}
    sources = {
        split: [TaggedRows(f"{name}[{own}]", loaded[own], token_column, tag_column)] for split, own in names.items()
    }
    share = validation_share if wanted is None else 0
    return _load(sources, class_names, report or DataReport(), share, **options)


def _load(
    sources: Mapping[str, Sequence[ConllFile | TaggedRows]],
    class_names: Sequence[str] | None,
    report: DataReport,
    share: float,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
) -> datasets.DatasetDict:
    """Read all splits under `class_names`, or the tags of the first split."""
    if class_names is None:
        counts: Counter[str] = Counter()
        for part in next(iter(sources.values())):
            for _, (_, found) in part.sentences(None, lambda row: None):
                counts.update(found)
        tags = TagSet.find(counts)
    else:
        tags = TagSet(tuple(class_names), tuple(entity_types(class_names)))
    read: dict[str, list[Sentence]] = {split: [] for split in sources}
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        for split, parts in sources.items():
            report.splits[split] = counted = SplitReport([part.path for part in parts])
            for part in parts:
                for words, sentence in part.sentences(tags, partial(ledger.reject, split)):
                    counted.rows_read += words
                    counted.rows_kept += len(sentence[0])
                    read[split] += [sentence] if sentence[0] else []
            if not read[split]:
                raise DataError.for_file(", ".join(counted.files), Reason.EMPTY_FILE, "found no usable token")
    if len(tags.names) < 2:
        raise UserError(f"a tagger needs at least two tags: found {listed(tags.names)}")
    if share and "validation" not in read:
        train = read.pop("train")
        mask = hold_out([" ".join(words) for words, _ in train], np.zeros(len(train), dtype=np.int64), share, seed)
        sides = {"train": ~mask, "validation": mask}
        drawn = {split: [train[row] for row in np.flatnonzero(side)] for split, side in sides.items() if side.any()}
        read, report.held_out = drawn | read, int(mask.sum())
        if report.held_out:
            message = "there is no validation split: %d of %d sentences of train are held out as one (seed %d)"
            logger.warning(message, report.held_out, len(train), seed)
    report.class_names = list(tags.names)
    feature = datasets.List(datasets.ClassLabel(names=report.class_names))
    features = datasets.Features(tokens=datasets.List(datasets.Value("string")), ner_tags=feature)
    tables, hasher = {}, xxhash.xxh3_64(repr(tags.names).encode())
    for split, rows in read.items():
        report.label_counts[split] = [len(rows)]
        hasher.update(repr((split, rows)).encode())
        columns = {"tokens": [words for words, _ in rows], "ner_tags": [tags.ids(found) for _, found in rows]}
        tables[split] = datasets.Dataset.from_dict(columns, features, split=datasets.NamedSplit(split))
        tables[split]._fingerprint = report.fingerprint = hasher.hexdigest()  # the same in every process
    return datasets.DatasetDict(tables)
