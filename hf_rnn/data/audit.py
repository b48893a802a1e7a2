"""Audit of labelled texts: duplicates, leaks between splits, conflicting labels, unknown tokens.

Two texts are duplicates if their normalised forms are equal. Every finding names its rows; no row is changed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import xxhash

from ..hub.model_folder import FinishedFolder, name_damage
from ..utils.errors import UserError
from .encoding import count_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ORDER = ("train", "validation", "test")  # then any others
_EXCERPT = 80  # characters
_BATCH = 1000  # rows read at a time
_MOST_TOKENIZED = 20_000  # texts of a split whose unknown tokens are counted
_MOST_DESCRIBED = 10_000  # rows of each kind, for JSON
_SHOWN = 3  # rows of each kind, for people


def normalize_text(text: str) -> str:
    """Return the form of a text whose equality makes duplicates.

    Case, width and composition of characters are ignored (compatibility caseless matching, The Unicode Standard,
    section 3.13, D146), and so is white space, except that it separates words. Punctuation, links, handles and digits
    count.
    """
    if text.isascii():
        folded = text.lower()  # a faster way to the same result
    else:
        folded = unicodedata.normalize("NFD", text).casefold()
        folded = unicodedata.normalize("NFKD", folded).casefold()
        folded = unicodedata.normalize("NFKD", folded)
    return " ".join(folded.split())


def hash_texts(texts: Iterable[str], seed: int = 0) -> np.ndarray:
    """Return a lasting hash of the normalised form of each text, uint64 `(N,)`.

    Those of ten million texts differ with p = 1 - 3e-6.
    """
    seed %= 1 << 64
    forms = (normalize_text(text).encode("utf-8", "surrogatepass") for text in texts)
    return np.fromiter((xxhash.xxh3_64_intdigest(form, seed) for form in forms), dtype=np.uint64)


def join_texts(rows: datasets.Dataset) -> Iterator[str]:
    """Yield the text of each row, both texts of a pair or the tokens of a sentence as one."""
    names = [name for name in ("text", "text_pair", "tokens") if name in rows.features]
    for batch in rows.select_columns(names).iter(_BATCH):
        for texts in zip(*(batch[name] for name in names), strict=True):
            yield " \0 ".join(text if isinstance(text, str) else " ".join(text) for text in texts)


def read_training_rows(folder: FinishedFolder) -> np.ndarray | None:
    """Return the hashes of the rows that trained a model and its starts, uint64, sorted; None for a folder without."""
    if not folder.training_rows.is_file():
        return None
    with name_damage(str(folder.root), folder.training_rows.name):
        return np.load(folder.training_rows, allow_pickle=False)


@dataclass(frozen=True)
class AuditReport:
    """The findings of [`~hf_rnn.data.audit.audit`], ready for JSON.

    A place is a row: its `split`, its `row` from 0, and its `line` in the split's file, from 1, if that is known.

    Attributes:
        splits: By split: `rows`, `label_counts`, mean `words` per text, `file` if it is known, and
            `unknown_token_share`, None without a tokenizer or an unknown token.
        overlaps: For every split the rows that repeat earlier rows of it, then those that repeat a row of each split
            before it: `source`, `split`, counts and share of rows, and `repeats`. A repeat has its place, the place of
            its twin, and the labels and texts of both. A twin with another label is preferred.
        conflicts: The number of `texts` of train with several labels, the number of their `rows`, and `found`: the
            start of each text, and its places by label.
    """

    splits: dict[str, dict[str, Any]]
    overlaps: list[dict[str, Any]]
    conflicts: dict[str, Any]

    @property
    def leaks(self) -> list[dict[str, Any]]:
        """The overlaps of the other splits with train."""
        return [overlap for overlap in self.overlaps if overlap["source"] == "train" != overlap["split"]]

    @property
    def leak_share(self) -> float:
        """Largest share of the rows of a split that repeat a row of train, from 0 to 1."""
        return max((leak["share"] for leak in self.leaks), default=0.0)

    def check_leaks(self, limit: float | None) -> None:
        """Refuse splits with a larger share of rows than `limit` that repeat rows of train; None allows all.

        The [`UserError`] names the first row of such a split.
        """
        if limit is None or self.leak_share <= limit:
            return
        worst = max(self.leaks, key=lambda leak: leak["share"])
        first = worst["repeats"][0]
        place, twin = self.name_place(first["place"]), self.name_place(first["twin"])
        leak = f"{_describe_leak(worst)}, more than fail_on_leak {limit:g} allows: first {place} repeats {twin}"
        raise UserError(f"{leak}; remove them from train; hf-rnn audit with the same flags lists all")

    def summary(self) -> dict[str, Any]:
        """Return the counts without the rows."""
        leaks: dict[str, dict[str, Any]] = {split: {} for split in self.splits}
        for overlap in self.overlaps:
            counts = {name: overlap[name] for name in ("exact", "exact_other_label", "share")}
            leaks[overlap["split"]][overlap["source"]] = counts
        duplicates = {split: counts.pop(split) for split, counts in leaks.items()}
        return {
            "rows": {name: facts["rows"] for name, facts in self.splits.items()},
            "duplicates": duplicates,
            "leaks": {split: counts for split, counts in leaks.items() if counts},
            "leak_share": self.leak_share,
            "conflicts": {name: self.conflicts[name] for name in ("texts", "rows")},
            "unknown_token_share": {name: facts["unknown_token_share"] for name, facts in self.splits.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the summary and all findings, for JSON."""
        return {"summary": self.summary(), **vars(self)}

    def name_place(self, place: Mapping[str, Any]) -> str:
        """Return file and line of a row if they are known, otherwise split and row."""
        if place["line"] is None:
            return f"{place['split']} row {place['row']}"
        return f"{self.splits[place['split']]['file']}:{place['line']}"


def _describe_leak(leak: Mapping[str, Any]) -> str:
    labels = f", {leak['exact_other_label']:,} with another label" if leak["exact_other_label"] else ""
    counts = f"{leak['exact']:,} of {leak['rows']:,} rows of {leak['split']} repeat a row of {leak['source']}"
    return f"{counts} ({leak['share']:.2%}{labels})"


def render_line(report: AuditReport) -> str:
    """Return on one line the leaks from train, and the texts of train with several labels."""
    parts = list(map(_describe_leak, report.leaks))
    if texts := report.conflicts["texts"]:
        parts.append(f"{texts:,} texts have several labels in train ({report.conflicts['rows']:,} rows)")
    return "; ".join(parts) or "no other split to leak into, no text with several labels"


def render_text(report: AuditReport) -> str:
    """Return the report as lines for a terminal: all counts and the first few rows of each kind."""
    return "\n".join(_render(report))


def _render(report: AuditReport) -> Iterator[str]:
    place_of = report.name_place
    for name, facts in report.splits.items():
        labels = ", ".join(f"{count:,} {_quote(label)}" for label, count in facts["label_counts"].items())
        unknown = facts["unknown_token_share"]
        tokens = "" if unknown is None else f", {unknown:.1%} unknown tokens"
        yield f"{name}: {facts['rows']:,} rows ({labels}), {facts['words']:.1f} words per text{tokens}"
    for overlap in report.overlaps:
        yield f"\n{_describe_leak(overlap)}"
        for repeat in overlap["repeats"][:_SHOWN]:
            yield f"  {place_of(repeat['place'])} ({_quote(repeat['label'])}): {repeat['text']!r}"
            yield f"    {place_of(repeat['twin'])} ({_quote(repeat['twin_label'])}): {repeat['twin_text']!r}"
    counts = report.conflicts
    yield f"\none text, several labels in train: {counts['texts']:,} texts in {counts['rows']:,} rows"
    for conflict in counts["found"][:_SHOWN]:
        yield f"  {conflict['text']!r}"
        for label, places in conflict["places"].items():
            more = " ..." if len(places) > _SHOWN else ""
            yield f"    {_quote(label)} in {', '.join(map(place_of, places[:_SHOWN]))}{more}"
    if report.leaks:
        yield f"\nrows that leak from train: at most {report.leak_share:.2%} of a split"


def _quote(label: str) -> str:
    """Return a label, quoted if it does not print on one line."""
    return label if label.isprintable() else repr(label)


def audit(
    dataset: datasets.DatasetDict,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    origins: Mapping[str, tuple[str, Sequence[int]]] | None = None,
) -> AuditReport:
    """Find rows of a data set that spoil training or its scores. No row is changed.

    Args:
        dataset: Splits with the columns `text` (string) and `label` (ClassLabel), as [`load_tsv`] returns them.
        tokenizer: The tokenizer of the training, to count unknown tokens, in the first 20,000 texts of a split.
        origins: The file of a split and the line of each of its rows, as `DataReport.lines` has them.

    Raises:
        UserError: If a split is empty.
    """
    names = sorted(dataset, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    splits = [_Split(name, dataset[name], (origins or {}).get(name)) for name in names]
    return AuditReport(
        {split.name: split.describe(tokenizer) for split in splits},
        [_find_overlap(splits[there], split) for here, split in enumerate(splits) for there in (here, *range(here))],
        _find_conflicts(splits[0]) if names[0] == "train" else {"texts": 0, "rows": 0, "found": []},
    )


class _Split:
    """Hashes and labels of the rows of a split.

    `order` has the rows by text, those of one text ascending. By text are its hash, the start and number of its rows
    there, and its lowest and highest label.
    """

    def __init__(self, name: str, rows: datasets.Dataset, origin: tuple[str, Sequence[int]] | None) -> None:
        if not len(rows):
            raise UserError(f"{name} has no rows: leave it out")
        self.name, self.origin, self.rows = name, origin, rows.with_format(None).select_columns(["text", "label"])
        self.hashes = hash_texts(join_texts(self.rows))
        self.labels = np.array(rows.with_format("numpy")["label"][:])
        self.order = np.argsort(self.hashes, kind="stable")
        self.texts, self.starts, self.sizes = np.unique(self.hashes[self.order], return_index=True, return_counts=True)
        self.lowest = np.minimum.reduceat(self.labels[self.order], self.starts)
        self.highest = np.maximum.reduceat(self.labels[self.order], self.starts)
        self.class_names = list(rows.features["label"].names)

    def rows_of(self, text: int) -> np.ndarray:
        return self.order[self.starts[text] :][: self.sizes[text]]

    def place(self, row: int) -> dict[str, Any]:
        line = None if self.origin is None else int(self.origin[1][row])
        return {"split": self.name, "row": row, "line": line}

    def excerpt(self, row: int) -> str:
        text = self.rows[row]["text"]
        return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."

    def label(self, row: int) -> str:
        return self.class_names[self.labels[row]]

    def describe(self, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
        counts = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return {
            "rows": len(self.labels),
            "label_counts": dict(zip(self.class_names, counts, strict=True)),
            "words": sum(len(text.split()) for text in join_texts(self.rows)) / len(self.labels),
            "unknown_token_share": None if tokenizer is None else self.measure_unknown(tokenizer),
            "file": None if self.origin is None else self.origin[0],
        }

    def measure_unknown(self, tokenizer: PreTrainedTokenizerBase) -> float | None:
        """Return the share of the tokens of whole texts that are unknown; None if there is no unknown token."""
        if tokenizer.unk_token_id is None:
            return None
        counts = count_tokens(tokenizer, islice(join_texts(self.rows), _MOST_TOKENIZED))
        return counts[tokenizer.unk_token_id] / max(1, counts.total())


def _find_overlap(source: _Split, split: _Split) -> dict[str, Any]:
    """Return the rows of a split that repeat rows of the source, or earlier ones if both are one split."""
    groups = np.minimum(np.searchsorted(source.texts, split.hashes), len(source.texts) - 1)
    repeated = source.texts[groups] == split.hashes
    if source is split:
        repeated &= source.order[source.starts[groups]] < np.arange(len(groups))
    other = repeated & ((source.lowest[groups] != split.labels) | (source.highest[groups] != split.labels))
    repeats = []
    for row in np.flatnonzero(repeated)[:_MOST_DESCRIBED].tolist():
        twins = source.rows_of(int(groups[row]))
        twin = int(twins[source.labels[twins] != split.labels[row]][0] if other[row] else twins[0])
        repeat: dict[str, Any] = {"place": split.place(row), "twin": source.place(twin)}
        repeat |= {"label": split.label(row), "twin_label": source.label(twin)}
        repeats.append(repeat | {"text": split.excerpt(row), "twin_text": source.excerpt(twin)})
    rows, exact = len(split.labels), int(repeated.sum())
    counts = {"rows": rows, "exact": exact, "exact_other_label": int(other.sum()), "share": exact / rows}
    return {"source": source.name, "split": split.name, **counts, "repeats": repeats}


def _find_conflicts(split: _Split) -> dict[str, Any]:
    """Return the texts of a split with several labels, in the order of their appearance."""
    groups = np.flatnonzero(split.lowest != split.highest)
    groups = groups[np.argsort(split.order[split.starts[groups]])]
    texts = []
    for rows in map(split.rows_of, groups[:_MOST_DESCRIBED].tolist()):
        places: dict[str, list[dict[str, Any]]] = {}
        for row in rows.tolist():
            places.setdefault(split.label(row), []).append(split.place(row))
        texts.append({"text": split.excerpt(int(rows[0])), "places": places})
    return {"texts": len(groups), "rows": int(split.sizes[groups].sum()), "found": texts}
